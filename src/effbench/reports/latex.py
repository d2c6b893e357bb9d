"""Text and tables in LaTeX."""

from __future__ import annotations

from effbench.reports import cells
from effbench.reports.layout import Section

SIGNS = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "_": r"\_",
    "%": r"\%",
    "&": r"\&",
    "#": r"\#",
    "$": r"\$",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "*": r"\textsuperscript{*}",
    "†": r"\textdagger{}",
    "µ": r"\textmu{}",
    "±": r"\textpm{}",
    "–": r"\textendash{}",
    "×": r"\texttimes{}",
    "·": r"\textperiodcentered{}",
}


def escape(text: str) -> str:
    """Escape text for LaTeX."""
    printed = "".join(SIGNS.get(sign, sign) for sign in cells.one_line(text))
    return printed.replace("--", "-{}-")  # two hyphens would print as one dash


def tabular(section: Section, skip: tuple[str, ...] = ()) -> str:
    """Return a section's table as a booktabs ``tabular``.

    Args:
        section: What to draw.
        skip: Columns to leave out.
    """
    indices = [index for index, name in enumerate(section.columns) if name not in skip]
    align = "".join("r" if section.numeric[index] else "l" for index in indices)
    head = " & ".join(escape(section.columns[index]) for index in indices)
    lines = [" & ".join(escape(cells[index]) for index in indices) for cells in section.cells]
    body = "\n".join(f"{line} \\\\" for line in lines)
    return f"\\begin{{tabular}}{{{align}}}\n\\toprule\n{head} \\\\\n\\midrule\n{body}\n\\bottomrule\n\\end{{tabular}}"


def table(section: Section, caption: str, label: str, skip: tuple[str, ...] = ()) -> str:
    """Return a floating ``table*`` with caption, label and footnotes; it needs the package booktabs."""
    notes = "\n".join(
        f"\\par\\scriptsize [{number}] {escape(text)}" for number, text in enumerate(section.footnotes, 1)
    )
    return (
        "\\begin{table*}\n\\centering\n\\footnotesize\n\\setlength{\\tabcolsep}{2pt}\n"
        f"\\caption{{{caption}}}\n\\label{{{label}}}\n{tabular(section, skip)}\n"
        + (f"\\begin{{flushleft}}\n{notes}\n\\end{{flushleft}}\n" if notes else "")
        + "\\end{table*}"
    )
