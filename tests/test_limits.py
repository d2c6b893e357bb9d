"""What could last for ever ends at its limit, in one sentence; `benchmarks/limits.py` prints by how much it is over."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from limit_faults import FAULTS, ends

from effbench import errors, process

LIMITS = r"stopped after|did not answer|without an end|without end|closed the connection|read no data|held its lock|"
LIMITS += r"not a regular file|No such device|is not effbench's protocol|printed more than|does not start|sent no event"
LIMITS += "|malformed answer"
ALWAYS = ("a child that does not read", "a child without line ends", "a device of nothing but line ends")
ALWAYS += ("a device that answers for ever", "a tool that prints for ever", "a lock that is held")
ALWAYS += ("a pipe instead of a file", "a pipe instead of a store")


@pytest.mark.parametrize("name", ALWAYS)
def test_a_limit_holds(name: str, tmp_path: Path):
    assert re.search(LIMITS, ends(name, tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(FAULTS.keys() - set(ALWAYS)))
def test_every_limit_holds(name: str, tmp_path: Path):
    assert re.search(LIMITS, ends(name, tmp_path))


def test_a_worker_whose_parent_died_before_it_started_ends_at_once(tmp_path: Path):
    """A shell starts the worker and is gone before the worker asks Linux to follow its parent."""
    code = "from effbench import process; process.die_with_parent(); open('alive', 'w').close()"
    subprocess.run(
        ["sh", "-c", f'EFFBENCH_PARENT_PID=$$ {sys.executable} -c "import time; time.sleep(0.3); {code}" & exit 0'],
        cwd=tmp_path,
        check=True,
    )
    time.sleep(1.5)
    assert not (tmp_path / "alive").exists()
    env = {**os.environ, "EFFBENCH_PARENT_PID": str(os.getpid())}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, check=True)
    assert (tmp_path / "alive").exists()


@pytest.mark.parametrize(
    ("event", "kind", "code"),
    [
        ({"kind": "FidelityError", "message": "m"}, errors.FidelityError, 1),
        ({"kind": "difflib", "message": "m"}, errors.EffbenchError, 5),
        ({"kind": "annotations"}, errors.EffbenchError, 5),
        ({"kind": None, "message": 5, "hint": 5, "details": 5}, errors.EffbenchError, 5),
        ({"kind": "DataError", "message": "m", "details": {"exit_code": 0, "message": "n"}}, errors.DataError, 2),
        ({"kind": "ConversionError", "message": "x" * 10**6}, errors.ConversionError, 5),
    ],
)
def test_a_reported_error_is_one_of_effbench(event: dict[str, object], kind: type[errors.EffbenchError], code: int):
    import json

    reader = process.EventReader()
    reader.read(json.dumps({"event": "error", **event}))
    with pytest.raises(errors.EffbenchError) as caught:
        reader.finish(0, None, "log")
    assert (kind, code) == (type(caught.value), caught.value.exit_code)
    assert len(caught.value.message) < 10_000
