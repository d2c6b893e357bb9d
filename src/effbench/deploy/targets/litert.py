"""LiteRT (TensorFlow Lite): a .tflite from the same ONNX graph, run on XNNPACK.

The converter, onnx2tf, pins versions that no other target takes, and needs Python 3.12: it runs in an environment of
its own, whose interpreter is named by ``--set python=`` or EFFBENCH_LITERT_PYTHON. The runtime, ai-edge-litert, needs
none of that.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from effbench.deploy import Array, Converted, Session, Target
from effbench.errors import (
    ConversionError,
    DataError,
    MissingDependencyError,
    UnavailableError,
    UsageError,
    unknown_name,
)
from effbench.schema import Artifact

ENTRY = "model.tflite"
VARIABLE = "EFFBENCH_LITERT_PYTHON"
DELEGATES = ("xnnpack", "none")
DELEGATE_NODE = "DELEGATE"
LIMIT_S = 900.0

SCRIPT = """
import importlib.metadata, json, platform, sys
import onnx2tf
source, folder, names = sys.argv[1], sys.argv[2], sys.argv[3:]
onnx2tf.convert(
    input_onnx_file_path=source,
    output_folder_path=folder,
    keep_ncw_or_nchw_or_ncdhw_input_names=names,
    copy_onnx_input_output_names_to_tflite=True,
    non_verbose=True,
    verbosity="error",
)
with open(folder + "/made.json", "w") as stream:
    json.dump({"onnx2tf": importlib.metadata.version("onnx2tf"), "python": platform.python_version()}, stream)
"""
"""What the converter's interpreter runs; inputs keep the layout of the graph, so that all targets take the same."""


class LiteRtSession(Session):
    """An interpreter; ``invoke`` returns when the outputs are there, and they are copied out."""

    def __init__(self, artifact: Artifact, threads: int, delegate: str) -> None:
        try:
            from ai_edge_litert.interpreter import Interpreter, OpResolverType
        except ImportError as error:
            raise MissingDependencyError("Target 'litert'", "ai-edge-litert", "litert") from error
        kinds = {"xnnpack": OpResolverType.AUTO, "none": OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES}
        try:
            self._interpreter = Interpreter(
                str(artifact.path), num_threads=threads, experimental_op_resolver_type=kinds[delegate]
            )
            self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise DataError(f"{artifact.path}: LiteRT does not load it: {str(error).splitlines()[0]}") from error
        self._delegate = delegate
        self._inputs = {item["name"]: item["index"] for item in self._interpreter.get_input_details()}
        self._outputs = {item["name"]: item["index"] for item in self._interpreter.get_output_details()}
        if missing := {spec.name for spec in artifact.outputs} - set(self._outputs):
            raise DataError(f"{artifact.path} has no output '{min(missing)}'.", hint="Export it again.")
        # XNNPACK computes fp16 weights in fp32 on x86; on Arm it may not, and does not tell.
        self.compute_precision: str | None = "fp32" if artifact.subject.storage_precision == "fp32" else None

    def __call__(self, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        """Run once; outputs are new host arrays."""
        for name, value in feeds.items():
            self._interpreter.set_tensor(self._inputs[name], value)
        self._interpreter.invoke()
        return {name: self._interpreter.get_tensor(index) for name, index in self._outputs.items()}

    def placement(self) -> dict[str, Any]:
        """Say which operators the delegate took, in how many partitions, and which built-in kernels run."""
        # The interpreter has no public word for it; ours are read from the nodes that it lists.
        return {"delegate": self._delegate, **placed(self._interpreter._get_ops_details())}

    def close(self) -> None:
        """Free the interpreter."""
        del self._interpreter


def placed(nodes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Say where the nodes of an interpreter run.

    The interpreter lists the nodes of the file and, after them, one node for each partition that a delegate took. The
    nodes of a partition are those between its inputs and its outputs.

    Args:
        nodes: With ``index``, ``op_name``, and the tensors ``inputs`` and ``outputs``.

    Returns:
        ``operators`` (unit -> operator -> count), ``partitions``, and ``cpu_operators``: what was left, as
        ``name (index)`` in the order of execution.
    """
    own = [node for node in nodes if node["op_name"] != DELEGATE_NODE]
    maker = {int(tensor): node for node in own for tensor in node["outputs"]}
    taken: set[int] = set()
    partitions = [node for node in nodes if node["op_name"] == DELEGATE_NODE]
    for partition in partitions:
        outside = {int(tensor) for tensor in partition["inputs"]}
        waiting = [int(tensor) for tensor in partition["outputs"]]
        while waiting:
            tensor = waiting.pop()
            node = maker.get(tensor)
            if node is None or tensor in outside or node["index"] in taken:
                continue
            taken.add(node["index"])
            waiting += [int(item) for item in node["inputs"]]
    left = [node for node in own if node["index"] not in taken]
    units = {
        "XNNPACK": Counter(node["op_name"] for node in own if node["index"] in taken),
        "CPU": Counter(node["op_name"] for node in left),
    }
    return {
        "operators": {unit: dict(sorted(found.items())) for unit, found in units.items() if found},
        "partitions": len(partitions),
        "cpu_operators": [f"{node['op_name']} ({node['index']})" for node in left],
    }


class LiteRtTarget(Target):
    """LiteRT on the CPU, with XNNPACK where it takes an operator."""

    name = "litert"
    title = "LiteRT"
    extra = "litert"
    packages = ("ai-edge-litert",)
    modules = ("ai_edge_litert.interpreter",)
    precision = "fp32"
    options: Mapping[str, str] = {
        "python": f"interpreter that has onnx2tf; default {VARIABLE}, else this one",
        "delegate": "xnnpack (default) or none",
    }

    @property
    def on_request(self) -> bool:
        """Whether it is made only when asked for: nothing says yet where its converter is."""
        return converter({}) is None

    def convert(self, graph: Artifact, out: Path, options: Mapping[str, str]) -> Converted:
        """Translate the graph with onnx2tf, without TensorFlow.

        Raises:
            ConversionError: The converter refuses the graph.
            UnavailableError: There is no converter, or the precision is one that it does not take from the graph.
        """
        _delegate(options)
        if graph.subject.storage_precision != "fp32":
            raise UnavailableError(
                f"Target 'litert' takes fp32 graphs so far, not {graph.subject.storage_precision}.",
                hint="--precision fp32",
            )
        if any(None in spec.shape for spec in graph.inputs):
            raise UnavailableError("Target 'litert' takes fixed shapes.", hint="Export without --dynamic-batch.")
        python = converter(options)
        if python is None:
            raise UnavailableError(
                "Target 'litert' needs a Python >= 3.12 that has onnx2tf.",
                hint=f"python3.12 -m venv E; E/bin/pip install onnx2tf; then --set python=E/bin/python, or {VARIABLE}.",
            )
        with tempfile.TemporaryDirectory(dir=out) as folder:
            made = _run(python, graph, Path(folder).resolve())
            (Path(folder) / f"{graph.path.stem}_float32.tflite").rename(out / ENTRY)
        note = f"converted by onnx2tf {made['onnx2tf']} under Python {made['python']}"
        return Converted(ENTRY, "fp32", "fp32", {"converter": made}, (note,))

    def open(self, artifact: Artifact, threads: int, options: Mapping[str, str]) -> LiteRtSession:
        """Load the file for inference."""
        return LiteRtSession(artifact, threads, _delegate(options))


def converter(options: Mapping[str, str]) -> str | None:
    """Return the interpreter that has onnx2tf: as asked for, as the environment says, or this one; else None."""
    named = options.get("python") or os.environ.get(VARIABLE)
    return named or (sys.executable if find_spec("onnx2tf") else None)


def _delegate(options: Mapping[str, str]) -> str:
    delegate = options.get("delegate", DELEGATES[0])
    if delegate not in DELEGATES:
        raise unknown_name(delegate, DELEGATES, "delegate")
    return delegate


def _run(python: str, graph: Artifact, folder: Path) -> dict[str, str]:
    """Run the converter; returns its version and that of its Python."""
    source = folder / graph.path.name
    shutil.copyfile(graph.path, source)  # onnx2tf writes into the file that it reads
    command = [python, "-c", SCRIPT, str(source), str(folder), *(spec.name for spec in graph.inputs)]
    # Its own packages, not those of a checkout or of this environment.
    env = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")}
    try:
        done = subprocess.run(
            command, cwd=folder, env=env, capture_output=True, text=True, timeout=LIMIT_S, check=False
        )
    except FileNotFoundError:
        raise UsageError(f"python={python}: there is no such file.") from None
    except (PermissionError, OSError) as error:
        raise UsageError(f"python={python} cannot be run: {error.strerror}.") from error
    except subprocess.TimeoutExpired:
        raise ConversionError("onnx2tf", f"not done after {LIMIT_S:.0f} s.") from None
    if "No module named 'onnx2tf'" in done.stderr:
        raise UnavailableError(f"{python} has no onnx2tf.", hint=f"{python} -m pip install onnx2tf (Python >= 3.12)")
    if done.returncode != 0 or not (folder / "made.json").exists():
        raise ConversionError("onnx2tf", _last_words(done.stderr or done.stdout))
    print(done.stderr, file=sys.stderr)
    made: dict[str, str] = json.loads((folder / "made.json").read_text())
    return made


def _last_words(text: str) -> str:
    lines = [line.strip() for line in text.replace("\r", "\n").splitlines() if line.strip()]
    return lines[-1][:300] if lines else "it said nothing"


TARGET = LiteRtTarget()
