"""Numerics of a graph in half precision: mechanisms, islands, clean graphs."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import parser
from small_graphs import attention, graph_artifact

from effbench.api.export import worker_precision
from effbench.deploy.graph import onnx_file
from effbench.deploy.interpreter import Interpreter
from effbench.deploy.precision import diagnose
from effbench.deploy.precision.diagnose import NumericsReport, examine
from effbench.deploy.precision.half import to_fp16
from effbench.errors import UsageError

HEAD = """
<ir_version: 10, opset_import: ["" : 20]>
g (float[1, 8, 4, 4] x) => (float[1, 8, 4, 4] y)
<float tiny = {1e-10}, float huge = {1000.0}, float far = {3000.0}, int64[1] c = {1}, float one = {1.0}>
"""

GRAPHS = {
    "clean": "[a] a = Mul (x, x)  [b] b = Add (a, x)  [c1] d = Sigmoid (b)  [e] y = Mul (d, x)",
    "overflow": """[before] h = Tanh (x) [up] u = Mul (h, huge) [up2] v = Mul (u, huge) [down] w = Div (v, huge)
                   [down2] z = Div (w, huge) [after] y = Add (z, x)""",
    "underflow": """[dead] z = Sub (x, x) [square] s = Mul (z, z) [sum] t = ReduceSum (s, c) [eps] e = Add (t, tiny)
                    [root] r = Sqrt (e) [unit] u = Div (z, r) [after] y = Add (u, x)""",
    "cancellation": "[h1] h = Tanh (x) [lift] u = Add (h, far) [drop] v = Sub (u, far) [after] y = Mul (v, h)",
}
CULPRITS = {"overflow": {"up2", "down"}, "underflow": {"eps", "root", "unit"}, "cancellation": {"lift", "drop"}}


def graph(kind: str) -> onnx.ModelProto:
    return onnx_file.infer_shapes(parser.parse_model(f"{HEAD} {{ {GRAPHS[kind]} }}"), kind)


def feeds() -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    return [{"x": rng.normal(size=(1, 8, 4, 4)).astype(np.float32)} for _ in range(3)]


def test_a_clean_graph_stays_clean() -> None:
    report = examine(graph("clean"), feeds())
    assert report.passed
    assert report.findings == ()
    assert report.islands == ()
    assert all(e.without_islands == e.with_islands for e in report.errors)


@pytest.mark.parametrize("kind", sorted(CULPRITS))
def test_a_mechanism_is_named_and_cured(kind: str) -> None:
    report = examine(graph(kind), feeds())
    assert [f.mechanism for f in report.findings] == [kind]
    assert set(report.findings[0].nodes) == CULPRITS[kind]
    assert report.passed
    assert all(e.without_islands is None or e.without_islands > 1 for e in report.errors[:1])
    assert all(e.with_islands is not None and e.with_islands <= 1 for e in report.errors)


@pytest.mark.parametrize("kind", sorted(CULPRITS))
def test_every_island_is_needed(kind: str) -> None:
    from effbench.deploy.precision.fp32_islands import HalfPrecisionJudge

    model, images = graph(kind), feeds()
    judge = HalfPrecisionJudge(model, images)
    islands = frozenset(examine(model, images).islands)
    assert judge.worst(islands) <= 1
    assert all(judge.worst(islands - {name}) > 1 for name in islands)


@pytest.mark.parametrize("kind", sorted(CULPRITS))
def test_the_proposed_islands_cure_the_rewritten_graph(kind: str) -> None:
    model, images = graph(kind), feeds()
    report = examine(model, images)
    cured, broken = (Interpreter(to_fp16(model, islands)) for islands in (report.islands, ()))
    exact = Interpreter(model)

    def error(candidate: Interpreter) -> float:
        worst = 0.0
        for feed in images:
            want = exact.run(feed, "float64")["y"]
            have = candidate.run(feed)["y"]
            worst = max(worst, float(np.nan_to_num(np.abs(have - want), nan=np.inf).max()))
        return worst

    assert error(cured) < 0.02
    # Without flush-to-zero a subnormal epsilon survives; 1e-10 is below the subnormals too.
    assert error(broken) > 0.1


def test_ranges_and_tables() -> None:
    report: NumericsReport = examine(graph("overflow"), feeds())
    by_tensor = {r.tensor: r for r in report.ranges}
    assert 5e5 < by_tensor["v"].largest < 1e6
    assert by_tensor["h"].largest < 1
    assert report.range_rows(1)[0]["node"] == "up2"
    assert report.rows()[0]["mechanism"] == "overflow"
    assert "65504" in str(report.rows()[0]["evidence"])
    assert report.island_share_pct == pytest.approx(100 * 2 / 6)


def test_one_image_or_another_precision_is_refused() -> None:
    with pytest.raises(UsageError, match="two images"):
        examine(graph("clean"), feeds()[:1])
    with pytest.raises(UsageError, match="int8"):
        examine(graph("clean"), feeds(), "int8")


def test_a_long_mean_is_examined_as_it_is_written() -> None:
    model = parser.parse_model("""<ir_version: 8, opset_import: ["" : 20]>
        g (float[1, 3, 112, 112] image) => (float[1, 3, 1, 1] output) { [pool] output = GlobalAveragePool (image) }""")
    image = np.random.default_rng(0).uniform(0, 12, (1, 3, 112, 112)).astype(np.float32)
    report = examine(model, [{"image": image * share} for share in (1.0, 0.5, 0.2)])
    assert (report.passed, report.islands, report.nodes) == (True, (), 2)


def test_an_overflow_is_a_culprit_before_the_inexact_operators_in_front_of_it() -> None:
    """Nine inexact operators fill the share that the search may take of a small graph; their error is within limits."""
    names = [f"v{i}" for i in range(9)]
    lost = " ".join(f"[lift{n}] u{n} = Add (h, mid) [drop{n}] {n} = Sub (u{n}, mid)" for n in names)
    body = f"""[before] h = Tanh (x) {lost} [all] s = Sum ({", ".join(names)}) [up] u = Mul (s, huge)
        [up2] v = Mul (u, huge) [down] w = Div (v, huge) [down2] z = Div (w, huge) [weight] q = Mul (z, little)
        [after] y = Add (q, x)"""
    head = HEAD.replace("float one", "float little = {0.0005}, float mid = {300.0}, float one")
    report = examine(onnx_file.infer_shapes(parser.parse_model(f"{head} {{ {body} }}"), "late"), feeds())
    assert report.passed
    assert set(report.islands) == {"v", "w"}


@pytest.mark.parametrize("count", [3, 12])
def test_scenes_are_judged_together_and_extremes_by_themselves(
    count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    examined: list[Any] = []
    monkeypatch.setattr(diagnose, "examine", lambda *arguments: examined.extend(arguments) or examine(*arguments))
    job = {"graph": str(graph_artifact(tmp_path, attention()).folder), "images": "", "precision": "fp16"}
    worker_precision.numerics({**job, "count": count}, lambda event: None)
    feeds, natural = [next(iter(feed.values())) for feed in examined[1]], examined[3]
    constant = [bool(np.ptp(feed, axis=(2, 3)).max() < 1e-6) for feed in feeds]
    assert (natural, constant) == (count, [False] * count + [True, True])
    assert len({feed.tobytes() for feed in feeds}) == count + 2


def test_a_long_softmax_is_examined_as_it_is_written() -> None:
    model = parser.parse_model("""<ir_version: 8, opset_import: ["" : 20]>
        g (float[1, 4, 16384] x) => (float[1, 4, 1] output) <int64[1] last = {-1}> {
            [weigh] w = Softmax (x)  [weighted] m = Mul (w, x)  [sum] output = ReduceSum (m, last) }""")
    rng = np.random.default_rng(0)
    images = [{"x": rng.normal(0, 1 + share, (1, 4, 16384)).astype(np.float32)} for share in (0, 0.5, 1)]
    report = examine(onnx_file.infer_shapes(model, "softmax"), images)
    assert (report.passed, report.islands) == (True, ())
    assert "3 operators stay in fp32" in report.notes[0]
