from __future__ import annotations

import csv
import hashlib
import json
import os
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import golden
import pytest
from places import SUPPORT
from report_builder import campaign, grade_a, grade_of, measurement_of

from effbench.errors import DataError, UsageError
from effbench.reports import FORMATS, build_rows, frame, render, write_report
from effbench.reports.layout import sections
from effbench.schema import InputShapes

GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize("metric", ["top1", "coco_ap"])
@pytest.mark.parametrize("name", sorted(FORMATS))
def test_golden(name: str, metric: str) -> None:
    text = render(build_rows(campaign(), grade=grade_of, metric=metric), name, metric)
    golden.check(GOLDEN / f"{metric}.{FORMATS[name][1]}", text)


WRITE = """
import sys; sys.path.insert(0, sys.argv[1])
from pathlib import Path
from report_builder import campaign, grade_of
from effbench.reports import FORMATS, build_rows, write_report
measurements = campaign()
rows = build_rows(measurements if sys.argv[3] == "0" else reversed(measurements), grade=grade_of)
write_report(rows, Path(sys.argv[2]), tuple(FORMATS), plots=sys.argv[4] == "1", paper=True)
print(*sorted({"torch", "onnx", "onnxruntime", "matplotlib.pyplot"} & set(sys.modules)))
"""


@pytest.mark.parametrize("plots", ["0", pytest.param("1", marks=pytest.mark.slow)])
def test_same_input_same_bytes_in_two_processes(tmp_path: Path, plots: str) -> None:
    hashes = []
    for run in ("0", "1"):
        folder = tmp_path / run
        # The second process hashes strings differently and gets the measurements in reverse order.
        environment = {**os.environ, "PYTHONHASHSEED": run, "MPLCONFIGDIR": str(tmp_path / "mpl")}
        command = [sys.executable, "-c", WRITE, str(SUPPORT), str(folder), run, plots]
        process = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        assert "" == process.stdout.strip()  # none of these packages was imported
        hashes.append({path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()})
    assert hashes[0] == hashes[1]
    names = set(hashes[0])
    assert {"report.html", "report.csv", "paper.tex", "references.bib"} <= names
    figures = {"pareto-local-224px-b1-t1-e2e.svg", "pareto-local-512px-b1-t1-e2e.png"}
    assert figures <= names if plots == "1" else not figures & names


def test_importing_reports_is_cheap() -> None:
    code = "import sys, effbench.reports, effbench.reports.published; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert set() == {"numpy", "pandas", "matplotlib", "tabulate", "torch"} & set(loaded)


def test_terminal_fits_160_columns() -> None:
    text = render(build_rows(campaign(), grade=grade_of), "terminal")
    assert max(len(line) for line in text.splitlines()) <= 160


def test_headers_say_how_to_read_the_accuracy() -> None:
    tables = {section.title: section for section in sections(build_rows(campaign(), grade=grade_of), "top1")}
    at_224, at_512 = (" ".join(tables[f"local, {side} px"].header) for side in (224, 512))
    assert "measured at 224 px, latency at 512 px" in at_512
    assert "512 px task metric: --metric coco_ap or ade_miou" in at_512
    assert "task metric" not in at_224
    for header in (at_224, at_512):
        assert "borrowed" in header
        assert "reconstructed from the abstract" in header
        assert "the authors', not that of this reconstruction" in header


def test_one_table_per_device_machine_and_resolution() -> None:
    measurements = [
        measurement_of(),
        measurement_of(shapes=InputShapes((512, 512))),
        measurement_of(device="phone"),
        measurement_of(before={"cpu_model": "Test CPU 2"}),
        measurement_of(threads=2),
        measurement_of(scope="device-only"),
    ]
    tables = sections(build_rows(measurements, grade=grade_a, published_rows="none"), "top1")
    titles = [section.title for section in tables]
    assert ["local, 224 px", "local, 512 px", "local, 224 px", "phone, 224 px"] == titles
    mixed = tables[0]
    assert ["b1 t1 e2e", "b1 t2 e2e", "b1 t1 device"] == [cells[mixed.columns.index("run")] for cells in mixed.cells]
    assert {"borrowed"} == {cells[mixed.columns.index("front")] for cells in mixed.cells}
    assert any("never ranked together" in text for text in mixed.header)


def test_every_footnote_is_used_and_every_mark_has_one() -> None:
    for section in sections(build_rows(campaign(), grade=grade_of, metric="coco_ap"), "coco_ap"):
        marks = [cell.split(" [")[1].rstrip("]") for cells in section.cells for cell in cells if " [" in cell]
        numbers = {int(part) for mark in marks if "." not in mark for part in mark.split(",")}
        assert set(range(1, len(section.footnotes) + 1)) == numbers


def test_too_few_rounds_for_an_interval_give_a_footnote() -> None:
    (section,) = sections(build_rows([measurement_of(rounds=5)], grade=grade_a, published_rows="none"), "top1")
    assert any("no interval" in text for text in section.footnotes)


def test_frame_holds_raw_numbers_with_units() -> None:
    rows = build_rows(campaign(), grade=grade_of)
    table = frame(rows)
    assert len(rows) == len(table)
    assert {"float64"} == {str(table[name].dtype) for name in ("p50_ms", "p50_low_ms", "images_per_s", "accuracy")}
    assert {"Int64"} == {str(table[name].dtype) for name in ("params", "macs", "size_bytes", "threads")}
    first = table.iloc[0]
    assert rows[0].p50_ms == first["p50_ms"]
    assert (224, "fp32", "fp32") == (first["height_px"], first["storage_precision"], first["compute_precision"])


def test_csv_and_json_agree() -> None:
    rows = build_rows(campaign(), grade=grade_of)
    lines = list(csv.DictReader(render(rows, "csv").splitlines()))
    document = json.loads(render(rows, "json"))["data"]
    assert "top1" == document["metric"]
    assert [float(line["p50_ms"]) for line in lines] == [row["p50_ms"] for row in document["rows"]]
    assert list(lines[0]) == list(document["rows"][0])


class Tags(HTMLParser):
    """Collect the resources that a page loads, and check that tags close."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loads += [
            str(value) for name, value in attrs if name in ("src", "href") and not str(value).startswith("#")
        ]
        self.loads += [tag] if tag in ("script", "link", "iframe", "img") else []
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_well_formed_escaped_and_self_contained(tmp_path: Path) -> None:
    rows = build_rows([measurement_of("<b>&_m", settings={"x": "<script>"})], grade=grade_a)
    write_report(rows, tmp_path, ("html",), plots=False)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    tags = Tags()
    tags.feed(text)
    assert ([], []) == (tags.open, tags.loads)
    assert "&lt;b&gt;&amp;_m" in text
    assert "<script>" not in text


def test_the_page_contains_the_figures(tmp_path: Path) -> None:
    write_report(build_rows(campaign(), grade=grade_of), tmp_path, ("html",))
    assert 3 == (tmp_path / "report.html").read_text(encoding="utf-8").count("<svg ")


def test_markdown_syntax_is_escaped() -> None:
    text = render(build_rows(campaign(), grade=grade_of), "markdown")
    assert "regla\\_m (recon.)" in text
    assert "80.85\\*" in text


def test_unknown_formats_and_unwritable_folders_are_refused(tmp_path: Path) -> None:
    rows = build_rows([measurement_of()], grade=grade_a)
    with pytest.raises(UsageError, match="markdown"):
        render(rows, "markdwn")
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="Cannot write the report"):
        write_report(rows, tmp_path / "file", ("csv",), plots=False)


def test_an_unsupported_percentile_is_a_dash_with_a_reason() -> None:
    (section,) = sections(build_rows([measurement_of(count=5)], grade=grade_a, published_rows="none"), "top1")
    (cells,) = section.cells
    assert cells[section.columns.index("p90 ms")].startswith("- [")
    assert any("too few samples" in text for text in section.footnotes)
