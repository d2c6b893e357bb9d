"""The search of int8 within a bound on accuracy, whole, on the tiny network that plain int8 ruins."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_bound import NETWORK, images

from effbench.api.quantize import search
from effbench.api.quantize.bound import quantize
from effbench.deploy.artifact import bundle
from effbench.schema import Status

pytestmark = [pytest.mark.target("torch"), pytest.mark.target("ort"), pytest.mark.usefixtures("inline")]


def test_the_block_that_int8_ruins_stays_in_float(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("nncf")

    def equal_latency(*_: object) -> float:
        return 1.0

    # Latency decides the float type of the mix alone; it is measured in fresh processes, in the slow test.
    monkeypatch.setattr(search, "ratio", equal_latency)
    (tmp_path / "inline_outlier.py").write_text(NETWORK)
    monkeypatch.syspath_prepend(tmp_path)
    (cell,) = quantize(
        "inline_outlier:net",
        ["ort"],
        [32],
        images=images(tmp_path / "calibration", 4, seed=9),
        data=images(tmp_path / "data", 30),
        max_drop=5.0,
        out=tmp_path / "runs",
        verify=False,
    )
    assert cell.status is Status.BUILT, cell
    trials = [note for note in cell.notes if "blocks in int8: lost" in note]
    # All in int8 is tried first and loses far more than the bound; the mix keeps it on images the search never saw.
    assert trials[0].startswith("search: 4 of 4")
    assert float(trials[0].split("drop ")[1].split()[0]) > 20
    assert trials[-1].startswith("judged")
    assert float(trials[-1].rsplit(" ", 1)[1]) <= 5
    artifact = bundle.load(Path(cell.artifact))
    (mix,) = (note for note in artifact.subject.notes if note.startswith("mix: "))
    assert 0 < int(mix.split()[1]) < 4, cell.notes
