from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from effbench.reports import pareto, table
from effbench.schema import InputShapes, Row

# Few distinct values, so that ties in one or both coordinates are common.
POINTS = st.lists(st.tuples(st.integers(1, 6).map(float), st.integers(70, 76).map(float)), max_size=25)


def row(p50: float | None = 10.0, accuracy: float | None = 80.0, **changes: Any) -> Row:
    fields: dict[str, Any] = {
        "device": "local",
        "shapes": InputShapes((224, 224)),
        "model": "m",
        "source": "measured",
        "threads": 1,
        "trust": "A",
        "accuracy_metric": "top1",
        "fidelity_passed": True,
    }
    return Row(p50_ms=p50, accuracy=accuracy, **{**fields, **changes})


def fronts(*rows: Row) -> list[str]:
    return [pareto.front_name(marked) for marked in pareto.mark_fronts(rows)]


def brute_force(points: list[tuple[float, float]]) -> set[int]:
    def beats(a: tuple[float, float], b: tuple[float, float]) -> bool:
        return a[0] <= b[0] and a[1] >= b[1] and a != b

    return {i for i, point in enumerate(points) if not any(beats(other, point) for other in points)}


@settings(derandomize=True, deadline=None)
@given(POINTS)
def test_the_front_is_the_set_of_points_that_no_point_dominates(points: list[tuple[float, float]]) -> None:
    assert brute_force(points) == pareto.front(points)


@settings(derandomize=True, deadline=None)
@given(POINTS, st.randoms(use_true_random=False))
def test_front_does_not_depend_on_the_order(points: list[tuple[float, float]], random: Any) -> None:
    shuffled = random.sample(points, len(points))
    chosen = sorted(points[index] for index in pareto.front(points))
    assert chosen == sorted(shuffled[index] for index in pareto.front(shuffled))


def test_known_front() -> None:
    points = [(1.0, 70.0), (2.0, 75.0), (3.0, 74.0), (4.0, 80.0), (4.0, 79.0), (2.0, 75.0), (5.0, 80.0)]
    assert {0, 1, 3, 5} == pareto.front(points)
    assert set() == pareto.front([])


def test_grade_d_is_on_no_front_and_dominates_no_row() -> None:
    assert ["", "measured"] == fronts(row(5.0, 85.0, trust="D"), row(10.0, 80.0))
    assert ["", "measured"] == fronts(row(5.0, 85.0, trust=""), row(10.0, 80.0, trust="C"))


def test_failed_fidelity_is_on_no_front() -> None:
    assert ["", "measured"] == fronts(row(5.0, 85.0, fidelity_passed=False), row(10.0, 80.0, fidelity_passed=None))


def test_a_failed_artifact_is_marked_and_that_is_the_first_reason() -> None:
    rows = [row(accuracy=None, fidelity_passed=False, target="ort", storage_precision="fp32")]
    assert "failed verification" in str(pareto.obstacle(rows[0]))
    for text in (table.terminal(rows, "top1"), table.markdown(rows, "top1")):
        assert "m (failed)" in text
        assert "this artifact failed verification: it is not the model" in text


def test_borrowed_rows_have_a_separate_front() -> None:
    assert ["borrowed", "measured"] == fronts(row(5.0, 85.0, borrowed=True), row(10.0, 80.0))


def test_missing_figures_are_on_no_front() -> None:
    assert ["", "", "measured"] == fronts(row(None), row(accuracy=None), row())


def test_rows_under_different_conditions_are_never_ranked_together() -> None:
    best = row(1.0, 99.0)
    for change in (
        {"scope": "device-only"},
        {"batch": 8},
        {"threads": 2},
        {"protocol": "paced"},
        {"device": "phone"},
        {"machine": "another CPU"},
        {"shapes": InputShapes((512, 512))},
        {"source": "published"},
        {"accuracy_metric": "coco_ap"},
    ):
        worse = row(50.0, 10.0, **change)
        assert all(fronts(best, worse)), change
    assert ["measured", ""] == fronts(
        best, row(50.0, 10.0, target="ov", storage_precision="int8", compute_precision="int8")
    )


def test_order_is_kept() -> None:
    rows = [row(3.0, 70.0), row(1.0, 80.0)]
    assert [3.0, 1.0] == [marked.p50_ms for marked in pareto.mark_fronts(rows)]
