from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import pytest
from report_builder import campaign, grade_a, grade_of, measurement_of

from effbench.reports import Accuracy, build_rows
from effbench.reports.labels import place_labels
from effbench.reports.plot import draw, groups, write_plots
from effbench.schema import InputShapes

pytest.importorskip("matplotlib")


def test_one_figure_per_group_that_may_be_ranked() -> None:
    measurements = [measurement_of(), measurement_of(threads=2), measurement_of(before={"cpu_model": "Test CPU 2"})]
    names = [name for name, _ in groups(build_rows(measurements, grade=grade_a, published_rows="none"))]
    stem = "pareto-local-224px-b1"
    assert [f"{stem}-t1-e2e", f"{stem}-t2-e2e", f"{stem}-t1-e2e-2"] == names


def test_borrowed_points_are_hollow_and_measured_ones_filled() -> None:
    measurements = [measurement_of("iformer_m"), measurement_of("iformer_s", 8.0)]
    accuracies = {measurements[0].digest: Accuracy(71.0, "measured", "a test", borrowed=False)}
    rows = build_rows(measurements, grade=grade_a, accuracies=accuracies, published_rows="none")
    (axes,) = draw(rows, "top1").axes
    faces = {line.get_ydata()[0]: line.get_markerfacecolor() for line in axes.lines if line.get_marker() == "o"}
    assert "white" == faces[78.8]
    assert "white" != faces[71.0]


def test_a_measured_accuracy_shows_its_interval_and_its_data() -> None:
    measurement = measurement_of("iformer_m")
    accuracy = Accuracy(90.0, "measured", "here: 18 of 20", borrowed=False, interval=(70.0, 97.0), data="twenty.csv")
    accuracy = replace(accuracy, digest=measurement.digest)
    rows = build_rows([measurement], grade=grade_a, accuracies={measurement.digest: accuracy}, published_rows="none")
    (axes,) = draw(rows, "top1").axes
    ends = {y for line in axes.lines for y in line.get_ydata()}
    assert {70.0, 90.0, 97.0} <= ends
    assert "accuracy of iformer_m: measured here: 18 of 20" in axes.get_title(loc="left")


def test_a_front_is_drawn_as_steps_through_its_points() -> None:
    ((_, rows), *_) = groups(build_rows(campaign(), grade=grade_of, published_rows="none"))
    figure = draw(rows, "top1")
    (line,) = [line for line in figure.axes[0].lines if line.get_drawstyle() == "steps-post"]
    expected = sorted((row.p50_ms, row.accuracy) for row in rows if row.on_front)
    assert expected == list(zip(line.get_xdata(), line.get_ydata(), strict=True))
    assert "--" == line.get_linestyle()
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert {"borrowed accuracy", "borrowed front", "ort", "ov"} <= set(legend)


def test_the_subtitle_states_reconstruction_and_untrained_weights() -> None:
    _, (_, rows) = groups(build_rows(campaign(), grade=grade_of, published_rows="none"))
    text = draw(rows, "top1").axes[0].get_title(loc="left")
    for part in ("untrained", "regla_m: reconstruction", "accuracy at 224 px beside latency at 512 px"):
        assert part in text


def test_labels_neither_overlap_nor_cover_points() -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.text import Text

    figure = Figure(figsize=(8, 5))
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    points = [(1 + 0.08 * i, 75 + 0.1 * (i % 3), f"model_{i}") for i in range(9)]
    axes.plot([x for x, _, _ in points], [y for _, y, _ in points], "o")
    axes.set(xlim=(0, 3), ylim=(74, 77))
    assert 0 == place_labels(figure, axes, points)
    boxes = [Text.get_window_extent(text) for text in axes.texts]
    assert len(points) == len(boxes)
    for first, second in itertools.combinations(boxes, 2):
        assert not first.overlaps(second)
    spots = axes.transData.transform([(x, y) for x, y, _ in points])
    assert not any(box.contains(*spot) for box in boxes for spot in spots)


def test_a_label_without_a_free_position_is_omitted() -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3, 2))
    axes = figure.add_subplot()
    axes.set(xlim=(0, 1), ylim=(0, 1))
    crowd = [(0.5, 0.5, f"a_rather_long_name_{i}") for i in range(18)]
    left_out = place_labels(figure, axes, crowd)
    assert 0 < left_out < 18
    assert 18 - left_out == len(axes.texts)


def test_a_single_published_point_has_no_figure_and_wide_ranges_are_logarithmic(tmp_path: Path) -> None:
    measurements = [measurement_of("iformer_t", 2.0), measurement_of("iformer_m", 40.0, shapes=InputShapes((224, 224)))]
    rows = build_rows([*measurements, measurement_of("regla_m", shapes=InputShapes((512, 512)))], grade=grade_a)
    names = {path.name for _, path in write_plots(rows, "top1", tmp_path)}
    assert "pareto-512px-published.svg" not in names
    assert any(name.startswith("pareto-iphone-13") for name in names)
    (wide,) = [group for name, group in groups(rows) if name == "pareto-local-224px-b1-t1-e2e"]
    assert "log" == draw(wide, "top1").axes[0].get_xscale()
