"""The work of layers from recorded shapes, and the measured peaks of this machine."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from effbench.api.profile import roofline as api_roofline
from effbench.api.profile.roofline import LayerTiming, Peak, Peaks, Roof, Roofline, declared, rising
from effbench.commands.text import roofline as roofline_text
from effbench.deploy.artifact import bundle
from effbench.profiles import devices, roofline
from effbench.schema import InputShapes

if TYPE_CHECKING:
    from conftest import Run


KINDS = ("arithmetic", "bandwidth")


def event(operator: str, inputs: list[list[int]], output: list[int]) -> dict[str, Any]:
    return {
        "op_name": operator,
        "input_type_shape": [{"float": shape} for shape in inputs],
        "output_type_shape": [{"float": output}],
    }


@pytest.mark.parametrize(
    ("expected", "args"),
    [
        (16 * 32 * 32 * 3 * 25, event("Conv", [[1, 3, 64, 64], [16, 3, 5, 5], [16]], [1, 16, 32, 32])),
        (8 * 4 * 4 * 9, event("Conv", [[1, 8, 4, 4], [8, 1, 3, 3]], [1, 8, 4, 4])),  # depthwise
        (2 * 4 * 16 * 64 * 128, event("FusedMatMul", [[2, 4, 16, 64], [2, 4, 128, 64]], [2, 4, 16, 128])),
        (2 * 16 * 64 * 128, event("MatMul", [[16, 64], [2, 64, 128]], [2, 16, 128])),  # the left side is broadcast
        (256 * 1000, event("Gemm", [[1, 256], [1000]], [1, 1000])),  # prepacked weights
        (0, event("Gelu", [[1, 8, 4, 4]], [1, 8, 4, 4])),
        (None, event("Conv", [[1, 8, 4, 4], [8]], [1, 8, 4, 4])),
    ],
)
def test_multiply_accumulates_from_shapes(expected: int | None, args: dict[str, Any]):
    assert expected == roofline.macs(args)


def test_prepacked_weights_count_as_traffic(tmp_path: Path):
    args = {**event("Gemm", [[1, 256], [1000]], [1, 1000]), "activation_size": "1024", "output_size": "4000"}
    events = [
        {"cat": "Node", "name": "head_kernel_time", "dur": us, "args": {**args, "parameter_size": "4000"}}
        for us in (900, 900, 900, 900, 900, 70, 50, 60)
    ]
    (tmp_path / "profile.json").write_text(json.dumps(events))
    (layer,) = roofline.read_layers(tmp_path / "profile.json")
    assert (60, 256_000, 1024 + 4000 + 4000 + 4 * 256_000) == (layer["us"], layer["macs"], layer["bytes"])


@pytest.mark.target("ort")
@pytest.mark.xdist_group("export")
def test_the_layers_add_up_to_the_model(exported: Path):
    (artifact,) = [artifact_ for artifact_ in bundle.artifacts(exported / "runs") if artifact_.subject.target == "ort"]
    layers = roofline.layers(artifact.path, 1, 3)
    assert artifact.subject.macs == sum(layer["macs"] for layer in layers)
    assert all(layer["bytes"] > 0 for layer in layers)


def test_peaks_are_plausible():
    assert 0.1 < roofline.gflops(256, 0.02) < 1e5
    assert 0.1 < roofline.gb_per_s(2, 8 << 20, 0.02) < 1e5


def measured(value: float, low: float) -> Peak:
    return Peak(value, low, value, "measured")


def test_the_roof_of_a_layer_is_the_higher_of_its_two_times():
    peaks = Peaks(1, measured(100, 50), measured(20, 10))
    compute, memory = LayerTiming("a", "Conv", 40, 1_000_000, 1000), LayerTiming("b", "Gelu", 50, 0, 400_000)
    assert (20.0, 20.0) == (compute.roof_us(peaks), memory.roof_us(peaks))
    roof = Roof("r", "m", InputShapes((64, 64)), "fp32", "ort", 0.1, 1_000_000, peaks, (compute, memory))
    assert (0.4, 0.4, 0.8) == pytest.approx(roof.share())  # with half the peaks, the model reaches twice the share
    alone = Roof("r", "m", InputShapes((64, 64)), "fp32", "ov", 0.1, 1_000_000, peaks)
    assert (0.2, 0.2, 0.4) == pytest.approx(alone.share())


def test_a_layer_whose_work_is_unknown_leaves_the_model_open():
    peaks = Peaks(1, measured(100, 50), measured(20, 10))
    roof = Roof(
        "r", "m", InputShapes((64, 64)), "fp32", "ort", 0.1, 9, peaks, (LayerTiming("a", "Conv", 40, None, 1000),)
    )
    assert roof.share() is None


def test_declared_peaks_name_their_source():
    peaks = declared(devices.get("desktop-rtx"), "fp16", 1)
    assert peaks.arithmetic is not None
    assert peaks.bandwidth is not None
    assert (165_150, 1008) == (pytest.approx(peaks.arithmetic.value), peaks.bandwidth.value)
    assert peaks.arithmetic.source.startswith("declared: http")
    assert declared(devices.get("iphone-13"), "fp16", 1).arithmetic is None


def peaks_of(threads: int, gflops: float, gb_per_s: float) -> Peaks:
    return Peaks(threads, measured(gflops, gflops / 2), measured(gb_per_s, gb_per_s / 2))


def test_a_peak_below_that_of_fewer_threads_is_measured_again():
    repeated: list[int] = []

    def better(threads: int) -> Peaks:
        repeated.append(threads)
        return peaks_of(threads, 180, 30)

    peaks = rising({1: peaks_of(1, 100, 20), 2: peaks_of(2, 90, 25)}, better)
    assert [2] == repeated
    assert peaks[2].arithmetic == Peak(180, 45, 180, "measured")
    assert peaks[2].bandwidth == Peak(30, 12.5, 30, "measured")


def test_a_peak_that_stays_below_that_of_fewer_threads_says_so():
    peaks = rising({1: peaks_of(1, 100, 20), 2: peaks_of(2, 90, 25)}, lambda threads: peaks_of(threads, 95, 5))
    assert peaks[2].arithmetic == Peak(100, 50, 100, "measured with 1 thread; 2 were slower, 95")
    assert peaks[2].bandwidth is not None
    assert 25 == peaks[2].bandwidth.value
    result = Roofline("local", (), tuple(peaks.values()))
    assert "100 GFLOP/s (measured with 1 thread; 2 were slower, 95; 50 to 100)" in roofline_text.text(result)


@pytest.mark.parametrize("source", ["measured", "declared: a page"])
def test_a_model_above_the_arithmetic_peak_has_no_share(source: str):
    peaks = Peaks(1, Peak(100, 50, 100, source), Peak(20, 10, 20, source))
    roof = Roof("r", "m", InputShapes((64, 64)), "fp32", "ov", 0.1, 12_750_000, peaks)
    assert roof.share() is None
    text = roofline_text.text(Roofline("local", (roof,), ()))
    assert "refused: p50 would need 255 % of the arithmetic peak" in text
    assert ("declared peak is too low" in text) == (source != "measured")


def test_a_model_faster_than_the_memory_is_in_a_cache():
    peaks = peaks_of(1, 100, 20)
    layers = (LayerTiming("a", "Gelu", 40, 0, 4_000_000), LayerTiming("b", "Conv", 40, 1_000_000, 1000))
    roof = Roof("r", "m", InputShapes((64, 64)), "fp32", "ort", 0.1, 1_000_000, peaks, layers)
    assert (None, True, None) == (roof.share(), roof.cached, roof.impossible_pct)
    lines = roofline_text.text(Roofline("local", (roof,), ())).splitlines()
    assert "%" not in next(line for line in lines if line.startswith("r "))
    assert any("they stay in a cache" in line for line in lines)
    assert "in a cache" in next(line for line in lines if line.startswith("Gelu"))


@pytest.mark.parametrize(("second", "repeats", "refused"), [(200.0, 1, False), (60.0, 2, True)])
def test_an_impossible_share_is_measured_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, second: float, repeats: int, refused: bool
):
    rates = iter([100.0, *[second] * 5])

    def measure(remote: Any, threads: int, notify: Any) -> Peaks:
        return peaks_of(threads, next(rates), 20)

    monkeypatch.setattr(api_roofline, "measured", measure)
    monkeypatch.setattr(api_roofline, "_cores", lambda: 1)
    roof = Roof("r", "m", InputShapes((64, 64)), "fp32", "ov", 0.1, 7_500_000, peaks_of(1, 100, 20))
    monkeypatch.setattr(api_roofline, "_roof", lambda *_: roof)
    notes: list[str] = []
    result = api_roofline.roofline([SimpleNamespace(settings={})], out=tmp_path, notify=notes.append)  # type: ignore[list-item]
    assert repeats == sum("measured again" in note for note in notes)
    assert refused == (result.roofs[0].impossible_pct is not None)


@pytest.mark.slow
@pytest.mark.target("ort")
def test_a_profile_with_a_roofline_compares_models_and_layers_with_the_peaks_and_draws_them(own: Run):
    arguments = ("profile", "-t", "ort", "-t", "ov", "--rounds", "1", "--budget", "4", "--roofline", "--plot")
    process = own(*arguments, "--json")
    assert process.returncode == 0, process.stdout + process.stderr
    roofs = json.loads(process.stdout)["data"]["roofline"]
    assert {"ort", "ov"} == {roof["target"] for roof in roofs["roofs"]}
    for roof in roofs["roofs"]:
        assert roof["macs"] > 0
        assert bool(roof["layers"]) == (roof["target"] == "ort")  # OpenVINO names no shapes
    assert all(0 < peaks[kind]["low"] <= peaks[kind]["value"] for peaks in roofs["peaks"] for kind in KINDS)
    folder = own.folder / "runs"
    assert roofs == json.loads((folder / "roofline-local.json").read_text())["data"]
    (drawn,) = folder.glob("roofline-*ort*.png")  # the other has no bytes to place it by
    assert drawn.read_bytes().startswith(b"\x89PNG")
    assert drawn.with_suffix(".svg").read_text().count("<path") > len(roofs["roofs"])
    text_process = own(*arguments)
    assert 0 == text_process.returncode, text_process.stdout + text_process.stderr
    assert "of the roof" in text_process.stdout
    assert "GFLOP/s" in text_process.stdout
