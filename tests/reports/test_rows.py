from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from report_builder import campaign, grade_a, grade_of, measurement_of

from effbench.api.profile.run import Profile
from effbench.commands.text import results
from effbench.errors import DataError, UsageError
from effbench.reports import Accuracy, build_rows
from effbench.reports.layout import sections
from effbench.schema import InputShapes, Measurement, Row, Weights
from effbench.statistics import percentiles


def only(rows: tuple[Row, ...]) -> Row:
    (row,) = rows
    return row


def one_row(measurement: Measurement, metric: str = "top1", **options: object) -> Row:
    (row,) = build_rows([measurement], grade=grade_a, metric=metric, published_rows="none", **options)  # type: ignore[arg-type]
    return row


def test_untrained_weights_borrow() -> None:
    row = one_row(measurement_of("iformer_m"))
    assert (80.4, True, "published", 224) == (row.accuracy, row.borrowed, row.accuracy_status, row.accuracy_px)
    assert "Table 3" in row.accuracy_source
    assert ("zheng2025iformer",) == row.citations


def test_weights_from_a_file_borrow_too() -> None:
    row = one_row(measurement_of("iformer_m", weights=Weights(kind="file", seed=None, sha256="0" * 64)))
    assert row.borrowed


PRETRAINED = Weights(kind="pretrained", seed=None, source="fastvit_t12.apple_dist_in1k")


def test_pretrained_weights_have_the_accuracy_published_for_them() -> None:
    row = one_row(measurement_of("fastvit_t12", weights=PRETRAINED, shapes=InputShapes((256, 256))))
    assert (80.364, False, True) == (row.accuracy, row.borrowed, row.on_front)


@pytest.mark.parametrize(
    "change",
    [
        {"shapes": InputShapes((224, 224))},
        {"storage_precision": "int8"},
        {"fidelity_passed": False},
        {"fidelity_passed": None},
        {"reconstruction": "rebuilt from a drawing"},
        {"weights": Weights()},
    ],
    ids=lambda change: next(iter(change)),
)
def test_pretrained_weights_borrow_if_the_artifact_differs(change: dict[str, object]) -> None:
    fields = {
        "weights": PRETRAINED,
        "shapes": InputShapes((256, 256)),
        "published": "FastViT-T12 (distilled)",
        **change,
    }
    assert one_row(measurement_of("fastvit_t12", **fields)).borrowed  # type: ignore[arg-type]


def test_a_task_metric_is_always_borrowed() -> None:
    row = one_row(measurement_of("iformer_m", shapes=InputShapes((512, 512))), metric="coco_ap")
    assert (40.8, True, "published") == (row.accuracy, row.borrowed, row.accuracy_status)


def test_downstream_figures_of_regla_are_called_implied() -> None:
    row = one_row(measurement_of("regla_m", shapes=InputShapes((512, 512))), metric="ade_miou")
    assert (46.0, True, "implied") == (row.accuracy, row.borrowed, row.accuracy_status)


def test_a_measured_accuracy_takes_precedence_and_is_not_borrowed() -> None:
    measurement = measurement_of("iformer_m")
    measured = {measurement.digest: Accuracy(71.2, "measured", "300 images", borrowed=False, image_px=224)}
    row = one_row(measurement, accuracies=measured)
    assert (71.2, "measured", False, True) == (row.accuracy, row.accuracy_status, row.borrowed, row.on_front)


def test_an_unpublished_model_has_no_accuracy() -> None:
    row = one_row(measurement_of("my_own"))
    assert (None, False, False) == (row.accuracy, row.borrowed, row.on_front)


def test_statistics_are_those_of_the_samples() -> None:
    measurement = measurement_of(p50_ms=7.0, count=120, batch=4)
    estimate = percentiles.typical([round_.samples_ns for round_ in measurement.samples.rounds], 0.9)
    row = one_row(measurement)
    assert estimate is not None
    assert estimate.interval is not None
    assert row.p90_ms == estimate.value / 1e6
    assert row.p90_interval_ms == pytest.approx((estimate.interval[0] / 1e6, estimate.interval[1] / 1e6))
    total_ns = sum(sum(round_.samples_ns) for round_ in measurement.samples.rounds)
    assert row.images_per_s == pytest.approx(4 * 1200 / (total_ns / 1e9))
    assert (10, 1200, 1) == (row.rounds, row.samples, row.threads)
    assert 0 == row.slow_processes
    assert (0, 0.2589) == pytest.approx(row.slow_processes_interval, abs=1e-4)


def test_images_per_second_is_the_mean_rate_in_the_report_and_on_the_terminal() -> None:
    # Two of three inferences take 10 ms and one 25 ms: 3 images in 45 ms, while 1 / p50 would be 100 a second.
    base = measurement_of()
    rounds = tuple(
        replace(round_, samples_ns=(10_000_000, 10_000_000, 25_000_000) * 20) for round_ in base.samples.rounds
    )
    measurement = replace(base, settings={"threads": "1", "batch": "1"}, samples=replace(base.samples, rounds=rounds))
    row = one_row(measurement)
    assert (10.0, pytest.approx(66.67, abs=0.01)) == (row.p50_ms, row.images_per_s)
    text = results.profile(Profile((measurement,), ()))
    assert " 66.7 " in text
    assert " 100.0 " not in text


def test_the_terminal_states_the_weights_of_every_measurement() -> None:
    base = replace(measurement_of(), settings={"threads": "1", "batch": "1"})
    trained = Weights("pretrained", None, "a package 1.0", "0" * 64)
    other = replace(base, subject=replace(base.subject, model="trained", weights=trained))
    shared = results.profile(Profile((base, base), ())).splitlines()
    assert any(line.endswith("; weights untrained") for line in shared)
    mixed = results.profile(Profile((base, other), ()))
    assert "fresh processes; weights" not in mixed
    assert "trained 224 px fp32 ort: weights pretrained" in mixed
    assert f"{base.subject.model} 224 px fp32 ort: weights untrained" in mixed


def test_a_published_latency_gives_no_throughput() -> None:
    rows = build_rows(campaign(), grade=grade_of)
    assert {None} == {row.images_per_s for row in rows if row.source == "published"}


def test_the_statistic_of_a_tool_is_in_the_p50_column_and_named() -> None:
    base = replace(measurement_of(), origin="imported")
    rounds = tuple(
        replace(round_, samples_ns=(ns,))
        for round_, ns in zip(base.samples.rounds, (9_000_000, 11_000_000), strict=False)
    )
    samples = replace(base.samples, rounds=rounds, aggregate="median of 30 runs")
    row = one_row(replace(base, samples=samples))
    assert (10.0, None, None, None) == (row.p50_ms, row.p50_interval_ms, row.p90_ms, row.images_per_s)
    (section,) = sections([row], "top1")
    assert "aggregate: median of 30 runs; the tool gave no raw times" in section.footnotes


def test_percentiles_without_enough_samples_are_not_shown() -> None:
    row = one_row(measurement_of(rounds=5, count=12))
    assert row.p50_ms is not None
    assert (None, None, None) == (row.p50_interval_ms, row.p90_ms, row.p99_ms)


def test_the_latest_of_repeated_measurements_is_shown() -> None:
    old = measurement_of(p50_ms=20.0, time="2026-01-01T00:00:00+00:00")
    new = measurement_of(p50_ms=10.0, time="2026-01-02T00:00:00+00:00")
    for order in ([old, new], [new, old]):
        (row,) = build_rows(order, grade=grade_a, published_rows="none")
        assert row.p50_ms == pytest.approx(10.0, rel=0.02)


@pytest.mark.parametrize(
    ("later", "note"),
    [
        ({"rounds": 2}, "measured on 2026-01-01, 6 days before a later, weaker measurement (2 rounds, trust A)"),
        ({"p50_ms": 12.0}, "measured on 2026-01-01, 6 days before a later, weaker measurement (10 rounds, trust C)"),
    ],
)
def test_the_best_evidence_wins_and_says_how_old_it_is(later: dict[str, Any], note: str) -> None:
    old = measurement_of(p50_ms=10.0, time="2026-01-01T12:00:00+00:00")
    new = measurement_of(time="2026-01-07T15:00:00+00:00", **{"p50_ms": 11.0, **later})
    weak = 11.5e6

    def grade(item: Measurement) -> tuple[str, tuple[str, ...]]:
        return ("C" if item.samples.rounds[0].samples_ns[0] > weak else "A"), ()

    for order in ([old, new], [new, old]):
        row = only(build_rows(order, grade=grade, published_rows="none"))
        assert row.p50_ms == pytest.approx(10.0, rel=0.02)
        assert note in row.notes


def test_better_evidence_of_an_earlier_runtime_does_not_win() -> None:
    old = measurement_of(before={"runtime": "onnxruntime 9.8.0"}, time="2026-01-01T00:00:00+00:00")
    new = measurement_of(rounds=2, time="2026-01-02T00:00:00+00:00")
    row = only(build_rows([old, new], grade=grade_a, published_rows="none"))
    assert ("onnxruntime 9.9.1", ()) == (row.runtime, row.notes)


def test_another_version_of_the_runtime_replaces_the_row() -> None:
    old = measurement_of(before={"runtime": "onnxruntime 9.8.0"}, time="2026-01-01T00:00:00+00:00")
    new = measurement_of(time="2026-01-02T00:00:00+00:00")
    assert "onnxruntime 9.9.1" == only(build_rows([new, old], grade=grade_a, published_rows="none")).runtime


def test_different_settings_or_conditions_give_separate_rows() -> None:
    base = measurement_of()
    variants = [
        measurement_of(threads=2),
        measurement_of(device="phone"),
        measurement_of(scope="device-only"),
        measurement_of(settings={"hint": "throughput"}),
        measurement_of(before={"cpu_model": "Test CPU 2"}),
        replace(base, digest="another"),
    ]
    assert 7 == len(build_rows([base, *variants], grade=grade_a, published_rows="none"))


def test_published_rows_keep_their_device_and_front() -> None:
    rows = build_rows(campaign(), grade=grade_of)
    published_rows = [row for row in rows if row.source == "published"]
    assert {"iPhone 13 Core ML", ""} == {row.device for row in published_rows}
    regla = next(row for row in published_rows if row.model == "ReGLA-M")
    assert (4.98, 80.85, (512, 512)) == (regla.p50_ms, regla.accuracy, regla.shapes.image)
    assert {"measured", "published"} == {row.source for row in rows}
    assert rows.index(published_rows[0]) == len(rows) - len(published_rows)
    assert len(build_rows(campaign(), grade=grade_of, published_rows="all")) > len(rows) + 100


def test_an_implied_accuracy_of_a_published_row_is_borrowed() -> None:
    rows = build_rows(campaign(), grade=grade_of, metric="coco_ap")
    regla = next(row for row in rows if row.source == "published" and row.model == "ReGLA-M")
    assert ("implied", True) == (regla.accuracy_status, regla.borrowed)


def test_rows_hold_the_grade_and_its_reasons() -> None:
    rows = build_rows(campaign(), grade=grade_of, published_rows="none")
    (bad,) = [row for row in rows if row.trust == "D"]
    assert ("iformer_t", "ov", 2, False) == (bad.model, bad.target, len(bad.trust_reasons), bad.on_front)


def test_without_measurements_the_next_command_is_named() -> None:
    with pytest.raises(DataError, match="nothing to report") as caught:
        build_rows([], grade=grade_a)
    assert "effbench profile" in (caught.value.hint or "")


def test_unknown_names_list_similar_ones() -> None:
    with pytest.raises(UsageError, match="coco_ap"):
        build_rows(campaign(), grade=grade_a, metric="coco")
    with pytest.raises(UsageError, match="same"):
        build_rows(campaign(), grade=grade_a, published_rows="some")
