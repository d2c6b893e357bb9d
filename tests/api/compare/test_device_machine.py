"""A comparison on a device is refused where another machine answers, or says so for ever."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path

import pytest
from small_graphs import chain, converted, graph_artifact

from effbench import deploy
from effbench.api.compare.pairs import Pair
from effbench.api.compare.rounds import RoundSettings
from effbench.api.compare.run import compare_pairs
from effbench.api.remote import Remote
from effbench.schema import Device
from effbench.statistics.sequential import Rules
from effbench.statistics.verdict import FAILED, Verdict, code_of

pytestmark = pytest.mark.target("ort")


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    homes = [tmp_path_factory.mktemp(name) for name in "ab"]
    target = deploy.get("ort")
    a, b = (converted(graph_artifact(home, chain(depth)), target) for home, depth in zip(homes, (1, 2), strict=True))
    return Pair("chain", a, b)


def compared(pair: Pair, home: Path, force: bool = False, **facts: object) -> Verdict:
    command = ["env", f"PATH={Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"]
    connection = {"command": command, "home": str(home / "home"), "python": sys.executable}
    device = Device("bench", "board", "a test", "pipe", ("ort",), connection=connection, **facts)  # type: ignore[arg-type]
    settings = RoundSettings(budget_s=0.1, round_seconds=0.05)
    with Remote(device) as remote:
        (verdict,), _ = compare_pairs([pair], settings, Rules(), lambda _: None, remote, force=force)
    return verdict


@pytest.mark.parametrize(
    ("facts", "sentence"),
    [
        ({"machine": "vax"}, f"'bench' is a vax machine, but it ran on {platform.machine()}"),
        ({"cpu": ("Z80",)}, "'bench' has a Z80, but it ran on"),
    ],
)
def test_rounds_of_another_machine_are_refused(pair: Pair, tmp_path: Path, facts: dict[str, object], sentence: str):
    verdict = compared(pair, tmp_path, **facts)
    assert (FAILED, 0, 2) == (verdict.outcome, verdict.rounds, code_of(verdict))
    assert sentence in verdict.reason
    assert "--force" in verdict.next_step
    forced = compared(pair, tmp_path, force=True, **facts)
    assert (1, FAILED != forced.outcome) == (forced.rounds, True)
    assert sentence in " ".join(forced.notes)


def test_the_machine_that_the_device_is_has_no_doubts(pair: Pair, tmp_path: Path):
    verdict = compared(pair, tmp_path, machine=platform.machine())
    assert (1, ()) == (verdict.rounds, verdict.notes)
