"""Record the image of the README: export, profile and compare of two .onnx files, as one SVG.

    python benchmarks/terminal.py

It exports EfficientNet-Lite0 with its trained weights (examples/lite0.py; two small packages, see there) to
``yours.onnx``, writes ``slower.onnx`` in which every Clip is a Max and a Min (the same function, but no runtime fuses
it into a convolution), runs the three commands of the README on them, and writes their real output to
``docs/img/terminal.svg``. Lines are shortened to the width of the image, nothing else is changed. Measure on an idle
machine.
"""

from __future__ import annotations

import argparse
import io
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
IMAGE = ROOT / "docs" / "img" / "terminal.svg"
COLUMNS = 126
COMMANDS = (
    "effbench export yours.onnx --target ort --target ov",
    "effbench profile --budget 10",
    "effbench compare yours.onnx slower.onnx",
)
PATHS = " artifact"
"""The last column of the table of an export, which is a path."""

FORMAT = """<svg class="rich-terminal" viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{
    font-family: ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace;
    font-size: {char_height}px; line-height: {line_height}px;
}}
.{unique_id}-title {{ font-size: 18px; font-weight: bold; font-family: sans-serif; }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}" />
</clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""
"""Rich's own template names a font on a public server; this one loads nothing."""


def effbench(command: str, folder: Path) -> list[str]:
    """Run a command in a folder and return the lines it prints; a comparison that finds *slower* ends with 1."""
    words = [sys.executable, "-m", "effbench.cli", *command.split()[1:]]
    result = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
    if result.returncode not in (0, 1):
        sys.exit(f"{command}\n{result.stdout}{result.stderr}")
    return result.stdout.splitlines()


def write_models(folder: Path) -> None:
    """Write ``yours.onnx`` and ``slower.onnx``."""
    import onnx
    from onnx import helper

    from effbench.deploy.artifact import bundle

    effbench("effbench export lite0:net --target ort --no-verify --out factory", folder)
    (graph,) = (item for item in bundle.artifacts(folder / "factory") if item.subject.target == "onnx")
    model = onnx.load(graph.path)
    onnx.save(model, folder / "yours.onnx")
    nodes = []
    for node in model.graph.node:
        if node.op_type != "Clip":
            nodes.append(node)
            continue
        x, low, high = node.input
        inner = f"{node.output[0]}/max"
        nodes.append(helper.make_node("Max", [x, low], [inner]))
        nodes.append(helper.make_node("Min", [inner, high], list(node.output)))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.save(model, folder / "slower.onnx")
    shutil.rmtree(folder / "factory")


def shortened(lines: list[str]) -> list[str]:
    """Leave out the column of paths, and cut lines at the width of the image."""
    width = lines[0].find(PATHS) if lines and PATHS in lines[0] else -1
    table = [line[:width].rstrip() if width > 0 and ("runs/" in line or "---" in line) else line for line in lines]
    table[:1] = [line.removesuffix(PATHS).rstrip() for line in table[:1]]
    return [line if len(line) <= COLUMNS else line[: COLUMNS - 1] + "…" for line in table]


def style(line: str) -> str:
    """Return the style of a line: headings bold, a regression red."""
    if line.startswith(("model ", "comparison ")):
        return "bold"
    return "bold red" if "  slower  " in line else ""


def main() -> None:
    """Write the image."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=IMAGE)
    out = parser.parse_args().out
    from rich.console import Console
    from rich.text import Text

    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True, highlight=False)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        shutil.copy(ROOT / "examples" / "lite0.py", folder)
        write_models(folder)
        for command in COMMANDS:
            console.print(Text(f"$ {command}", style="bold green"))
            lines = effbench(command, folder)
            print(f"$ {command}", *lines, sep="\n", flush=True)
            for line in shortened(lines):
                console.print(Text(line, style=style(line)), no_wrap=True)
            console.print()
    svg = console.export_svg(title="effbench", code_format=FORMAT, unique_id="effbench")
    out.write_text(svg)
    print(f"wrote {out} ({len(svg) / 1e3:.0f} kB)")


if __name__ == "__main__":
    main()
