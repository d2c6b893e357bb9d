"""Rows as one self-contained HTML page: no script, no font, no request."""

from __future__ import annotations

import html
import re
from collections.abc import Hashable, Iterable, Sequence

from effbench.reports import cells
from effbench.reports.layout import EMPTY, Section, section_key, sections
from effbench.schema import Row

STYLE = """
:root { --ink: #1c2430; --soft: #5b6675; --line: #dfe4ea; --paper: #ffffff; --back: #f5f7f9; --head: #eef2f6;
  --good: #0b7a4b; --fair: #8a5a00; --bad: #b3261e; --mark: #0a5fb4; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6eaf0; --soft: #a3adba; --line: #323b47; --paper: #171c23;
  --back: #0f1318; --head: #1f2630; --good: #4cc38a; --fair: #e0a84a; --bad: #ff8a80; --mark: #72b3ff; } }
* { box-sizing: border-box; }
body { margin: 0; padding: 2rem clamp(1rem, 3vw, 3rem); background: var(--back); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 84rem; margin: 0 auto; }
h1 { font-size: 1.6rem; margin: 0 0 .25rem; letter-spacing: -.01em; }
h2 { font-size: 1.15rem; margin: 0; }
p { margin: .25rem 0; }
.lead, .facts { color: var(--soft); }
.facts { font-size: .88rem; }
section { background: var(--paper); border: 1px solid var(--line); border-radius: 10px; padding: 1.25rem 1.5rem;
  margin: 1.5rem 0; }
ul.header { margin: .6rem 0 1rem; padding-left: 1.1rem; font-size: .9rem; }
ul.header li { margin: .15rem 0; max-width: 62rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .88rem; font-variant-numeric: tabular-nums; }
th, td { padding: .42rem .65rem; white-space: nowrap; border-bottom: 1px solid var(--line); text-align: left; }
thead th { background: var(--head); font-weight: 600; border-bottom: 2px solid var(--line); }
td.number, th.number { text-align: right; }
tbody tr:hover { background: var(--head); }
.interval { color: var(--soft); font-size: .92em; }
sup { color: var(--soft); line-height: 0; }
.badge { display: inline-block; padding: 0 .5em; border-radius: 999px; border: 1px solid currentColor;
  font-size: .85em; font-weight: 600; }
.trust-A { color: var(--good); } .trust-B { color: var(--mark); } .trust-C { color: var(--fair); }
.trust-D { color: var(--bad); }
.front-measured, .front-published { color: var(--paper); background: var(--mark); border-color: var(--mark); }
.front-borrowed { color: var(--mark); border-style: dashed; }
ol.notes { margin: .8rem 0 0; padding-left: 1.6rem; color: var(--soft); font-size: .82rem; }
figure { margin: 1rem 0 0; } figure svg { max-width: 100%; height: auto; background: #fff; border-radius: 6px; }
@media print { body { background: #fff; padding: 0; } section { break-inside: avoid; border: 0; } }
"""

_NOTE = re.compile(r" \[([\d,]+)\]$")
_INTERVAL = re.compile(r"^(\S+) (\[[\d., ]+\])$")


def page(rows: Iterable[Row], metric: str, figures: Sequence[tuple[Hashable, str]] = ()) -> str:
    """Return the page.

    Args:
        rows: The rows to show.
        metric: One of the metrics of `effbench.reports.rows`.
        figures: `section_key` and SVG text; each is drawn below the table of its section.
    """
    parts = [
        _section(section, [svg for key, svg in figures if key == section_key(section.rows[0])])
        for section in sections(rows, metric)
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>effbench report</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        "<h1>Accuracy and latency</h1>\n"
        '<p class="lead">One table per device and resolution. Rows are never ranked across devices.</p>\n'
        + "\n".join(parts)
        + "\n</main>\n</body>\n</html>\n"
    )


def _section(section: Section, figures: Sequence[str]) -> str:
    from tabulate import tabulate

    lines = [
        [_cell(column, cell, row) for column, cell in zip(section.columns, cells, strict=True)]
        for cells, row in zip(section.cells, section.rows, strict=True)
    ]
    table = tabulate(
        lines,
        headers=[_escaped(name) for name in section.columns],
        tablefmt="unsafehtml",
        disable_numparse=True,
        colalign=["right" if numeric else "left" for numeric in section.numeric],
    )
    for side, kind in (("right", ' class="number"'), ("left", "")):
        table = table.replace(f' style="text-align: {side};"', kind)
    header = "".join(f"<li>{_escaped(text)}</li>" for text in (*section.header, section.legend) if text)
    notes = "".join(f"<li>{_escaped(text)}</li>" for text in section.footnotes)
    return (
        f'<section>\n<h2>{_escaped(section.title)}</h2>\n<p class="facts">{_escaped(section.facts)}</p>\n'
        f'<ul class="header">{header}</ul>\n<div class="scroll">\n{table}\n</div>\n'
        + (f'<ol class="notes">{notes}</ol>\n' if notes else "")
        + "".join(f"<figure>{_inline(figure)}</figure>\n" for figure in figures)
        + "</section>"
    )


def _cell(column: str, text: str, row: Row) -> str:
    match = _NOTE.search(text)
    body, note = (text[: match.start()], f"<sup>{match.group(1)}</sup>") if match else (text, "")
    body = _escaped(body)
    if column == "trust" and body != EMPTY:
        body = f'<span class="badge trust-{body}">{body}</span>'
    elif column == "front" and row.on_front:
        body = f'<span class="badge front-{body}">{body}</span>'
    elif interval := _INTERVAL.match(body):
        body = f'{interval.group(1)} <span class="interval">{interval.group(2)}</span>'
    return body + note


def _inline(svg: str) -> str:
    # The XML prolog and the doctype of an SVG file are not valid inside HTML.
    return svg[svg.index("<svg") :]


def _escaped(text: str) -> str:
    return html.escape(cells.one_line(text))
