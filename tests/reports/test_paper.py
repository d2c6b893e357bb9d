from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from report_builder import campaign, grade_a, grade_of, measurement_of

from effbench.reports import build_rows, write_report
from effbench.reports.latex import escape
from effbench.reports.paper import bibtex, methods, paper

SPECIAL = re.compile(r"(?<!\\)[%#$]|(?<!\\)_(?![^{]*\})")


def test_escape_every_special_sign() -> None:
    assert r"a\_b 5 \% \& \# \$ \{\}" == escape("a_b 5 % & # $ {}")
    assert r"\textbackslash{}x\textasciitilde{}\textasciicircum{}" == escape("\\x~^")
    assert "-{}-metric" == escape("--metric")


def check(text: str) -> None:
    """Fail on what LaTeX rejects: open environments, open braces, unescaped special signs, rows of unequal length."""
    body = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
    stack: list[str] = []
    for kind, name in re.findall(r"\\(begin|end)\{([\w*]+)\}", body):
        if kind == "begin":
            stack.append(name)
        else:
            assert stack.pop() == name
    assert [] == stack
    bare = re.sub(r"\\[{}]", "", body)
    assert bare.count("{") == bare.count("}")
    assert [] == SPECIAL.findall(re.sub(r"\\(label|cite)\{[^}]*\}", "", body))
    for columns, table in re.findall(r"\\begin\{tabular\}\{(\w+)\}(.*?)\\end\{tabular\}", body, re.DOTALL):
        for line in table.splitlines():
            if line.endswith("\\\\"):
                assert len(columns) == len(re.findall(r"(?<!\\)&", line)) + 1


@pytest.mark.parametrize(
    "bad", [r"\begin{table}", "a {b", "50 % of", r"a_b", r"\begin{tabular}{ll}\na\\\n\end{tabular}"]
)
def test_the_latex_check_rejects_invalid_latex(bad: str) -> None:
    with pytest.raises((AssertionError, IndexError)):
        check(bad.replace("\\n", "\n"))


@pytest.mark.parametrize("metric", ["top1", "coco_ap", "ade_miou"])
def test_the_paper_is_valid_latex(metric: str) -> None:
    check(paper(build_rows(campaign(), grade=grade_of, metric=metric, published_rows="all"), metric))


def test_model_names_and_settings_are_escaped() -> None:
    measurements = [measurement_of("50%_{net}&$#~^\\", settings={"cache_dir": "~/a_b"})]
    check(paper(build_rows(measurements, grade=grade_a), "top1"))


def test_cite_keys_and_entries_agree() -> None:
    rows = build_rows(campaign(), grade=grade_of, published_rows="all")
    cited = {key for keys in re.findall(r"\\cite\{([^}]*)\}", paper(rows, "top1")) for key in keys.split(",")}
    assert cited == set(re.findall(r"^@\w+\{(\w+),", bibtex(rows), re.MULTILINE))
    assert {"zheng2025iformer", "li2026regla", "wightman2019timm"} <= cited


def test_methods_state_the_conditions_and_what_was_not_measured() -> None:
    text = methods(build_rows(campaign(), grade=grade_of))
    for part in (
        "Test CPU 1", "Test OS 1.0", "onnxruntime 9.9.1", "openvino 9.9.2", "batch 1, 1 thread, end to end",
        "10 rounds", "600 timed inferences", "224 px and 512 px", "kind untrained", "Reconstructed from a publication",
        "1 graded D", "Not measured: the accuracy of iformer", "energy",
    ):  # fmt: skip
        assert part in text.replace("\\_", "_"), part


def test_failed_and_unchecked_fidelity_are_stated() -> None:
    measurements = [measurement_of("a", fidelity_passed=False), measurement_of("b", fidelity_passed=None)]
    text = methods(build_rows(measurements, grade=grade_a))
    assert "so on no front: a on ort" in text
    assert "Not compared with the reference: b on ort" in text


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_paper_compiles(tmp_path: Path) -> None:
    write_report(build_rows(campaign(), grade=grade_of), tmp_path, (), plots=False, paper=True)
    (tmp_path / "main.tex").write_text(
        "\\documentclass{article}\\usepackage[T1]{fontenc}\\usepackage{booktabs}\n"
        "\\begin{document}\\input{paper}\\bibliographystyle{plain}\\bibliography{references}\\end{document}\n"
    )
    latex = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "main"]
    for command in (latex, ["bibtex", "main"], latex, latex):
        process = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace")
        assert 0 == process.returncode, process.stdout[-2000:]
    assert "undefined" not in process.stdout
