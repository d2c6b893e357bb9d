"""LiteRT (TensorFlow Lite): a .tflite from the same ONNX graph, run on XNNPACK.

The converter, onnx2tf, pins versions that conflict with every other target, and needs Python 3.12: it runs in a
separate environment, whose interpreter is set by ``--set python=`` or EFFBENCH_LITERT_PYTHON. The runtime,
ai-edge-litert, needs neither.
"""

from __future__ import annotations

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

from effbench import reading
from effbench.deploy import Array, Converted, Session, Target
from effbench.errors import (
    ConversionError,
    DataError,
    MissingDependencyError,
    UnavailableError,
    UnsupportedError,
    UsageError,
    unknown_name,
)
from effbench.schema import Artifact

ENTRY = "model.tflite"
VARIABLE = "EFFBENCH_LITERT_PYTHON"
DELEGATES = ("xnnpack", "none")
DELEGATE_NODE = "DELEGATE"
LIMIT_S = 900.0
NO_CONVERTER = 4
"""Exit code of `SCRIPT` if its interpreter has no onnx2tf."""

SCRIPT = """
import importlib.metadata, json, platform, sys
try:
    import onnx2tf
except ModuleNotFoundError as error:
    if error.name != "onnx2tf":
        raise
    sys.exit(4)
source, folder, names = sys.argv[1], sys.argv[2], sys.argv[3:]
onnx2tf.convert(
    input_onnx_file_path=source,
    output_folder_path=folder,
    keep_ncw_or_nchw_or_ncdhw_input_names=names,
    copy_onnx_input_output_names_to_tflite=True,
    non_verbose=True,
    verbosity="error",
)
with open(folder + "/versions.json", "w") as stream:
    json.dump({"onnx2tf": importlib.metadata.version("onnx2tf"), "python": platform.python_version()}, stream)
"""
"""The script of the converter's interpreter. Inputs keep the layout of the graph, as on all targets."""


class LiteRtSession(Session):
    """A LiteRT interpreter; ``invoke`` returns when the outputs are computed, and they are copied."""

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
        # XNNPACK computes fp16 weights in fp32 on x86; on Arm it may not, and does not report it.
        self.compute_precision: str | None = "fp32" if artifact.subject.storage_precision == "fp32" else None

    def __call__(self, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        """Run once; outputs are new host arrays."""
        for name, value in feeds.items():
            self._interpreter.set_tensor(self._inputs[name], value)
        self._interpreter.invoke()
        return {name: self._interpreter.get_tensor(index) for name, index in self._outputs.items()}

    def placement(self) -> dict[str, Any]:
        """Return which operators the delegate runs, in how many partitions, and which built-in kernels run the rest."""
        # The interpreter has no public method for this; its list of nodes holds it.
        return {"delegate": self._delegate, **assignment(self._interpreter._get_ops_details())}

    def close(self) -> None:
        """Free the interpreter."""
        del self._interpreter


def assignment(nodes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return where the nodes of an interpreter run.

    The interpreter lists the nodes of the file and, after them, one node for each partition that a delegate runs. The
    nodes of a partition are those between its inputs and its outputs.

    Args:
        nodes: With ``index``, ``op_name``, and the tensors ``inputs`` and ``outputs``.

    Returns:
        ``operators`` (unit -> operator -> count), ``partitions``, and ``cpu_operators``: those that no delegate runs,
        as ``name (index)`` in the order of execution.
    """
    operators = [node for node in nodes if node["op_name"] != DELEGATE_NODE]
    producers = {int(tensor): node for node in operators for tensor in node["outputs"]}
    delegated: set[int] = set()
    partitions = [node for node in nodes if node["op_name"] == DELEGATE_NODE]
    for partition in partitions:
        inputs = {int(tensor) for tensor in partition["inputs"]}
        pending = [int(tensor) for tensor in partition["outputs"]]
        while pending:
            tensor = pending.pop()
            node = producers.get(tensor)
            if node is None or tensor in inputs or node["index"] in delegated:
                continue
            delegated.add(node["index"])
            pending += [int(item) for item in node["inputs"]]
    remaining = [node for node in operators if node["index"] not in delegated]
    units = {
        "XNNPACK": Counter(node["op_name"] for node in operators if node["index"] in delegated),
        "CPU": Counter(node["op_name"] for node in remaining),
    }
    return {
        "operators": {unit: dict(sorted(counts.items())) for unit, counts in units.items() if counts},
        "partitions": len(partitions),
        "cpu_operators": [f"{node['op_name']} ({node['index']})" for node in remaining],
    }


class LiteRtTarget(Target):
    """LiteRT on the CPU, with XNNPACK for the operators that it supports."""

    name = "litert"
    title = "LiteRT"
    extra = "litert"
    packages = ("ai-edge-litert",)
    modules = ("ai_edge_litert.interpreter",)
    precision = "fp32"
    refuses: Mapping[str, str] = dict.fromkeys(("fp16", "int8", "a16w8"), "effbench converts fp32 graphs only so far")
    options: Mapping[str, str] = {
        "python": f"interpreter that has onnx2tf; default {VARIABLE}, else this one",
        "delegate": "xnnpack (default) or none",
    }

    @property
    def on_request(self) -> bool:
        """Whether artifacts are made only if the user names this target: there is no converter by default."""
        return converter({}) is None

    def convert(self, graph: Artifact, out: Path, options: Mapping[str, str]) -> Converted:
        """Translate the graph with onnx2tf, without TensorFlow.

        Raises:
            ConversionError: The converter refuses the graph.
            UnsupportedError: The graph has an open batch or image size.
            UnavailableError: There is no converter.
        """
        _delegate(options)
        if any(None in spec.shape for spec in graph.inputs):
            raise UnsupportedError("Target 'litert' takes fixed shapes.", hint="Export without --dynamic-batch.")
        python = converter(options)
        if python is None:
            raise UnavailableError(
                "Target 'litert' needs a Python >= 3.12 that has onnx2tf.",
                hint=f"python3.12 -m venv E; E/bin/pip install onnx2tf; then --set python=E/bin/python, or {VARIABLE}.",
            )
        with tempfile.TemporaryDirectory(dir=out) as folder:
            versions = _run(python, graph, Path(folder).resolve())
            (Path(folder) / f"{graph.path.stem}_float32.tflite").rename(out / ENTRY)
        note = f"converted by onnx2tf {versions['onnx2tf']} under Python {versions['python']}"
        return Converted(ENTRY, "fp32", "fp32", {"converter": versions}, (note,))

    def open(self, artifact: Artifact, threads: int, options: Mapping[str, str]) -> LiteRtSession:
        """Load the file for inference."""
        return LiteRtSession(artifact, threads, _delegate(options))


def converter(options: Mapping[str, str]) -> str | None:
    """Return the interpreter that has onnx2tf: the option, the environment variable, or this one; else None."""
    configured = options.get("python") or os.environ.get(VARIABLE)
    return configured or (sys.executable if find_spec("onnx2tf") else None)


def _delegate(options: Mapping[str, str]) -> str:
    delegate = options.get("delegate", DELEGATES[0])
    if delegate not in DELEGATES:
        raise unknown_name(delegate, DELEGATES, "delegate")
    return delegate


def _run(python: str, graph: Artifact, folder: Path) -> dict[str, str]:
    """Run the converter; returns its version and its Python's."""
    source = folder / graph.path.name
    shutil.copyfile(graph.path, source)  # onnx2tf writes into the file that it reads
    program = str(Path(python).absolute()) if os.sep in python else python  # it runs in another folder than the user's
    command = [program, "-I", "-c", SCRIPT, str(source), str(folder), *(spec.name for spec in graph.inputs)]
    # -I: the converter must import neither the packages of this environment nor a file of the folder it runs in.
    try:
        process = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    except FileNotFoundError:
        raise UsageError(f"python={python}: there is no such file.") from None
    except (PermissionError, OSError) as error:
        raise UsageError(f"python={python} cannot be run: {error.strerror}.") from error
    except subprocess.TimeoutExpired:
        raise ConversionError("onnx2tf", f"not finished after {LIMIT_S:.0f} s.") from None
    if process.returncode == NO_CONVERTER:
        raise UnavailableError(f"{python} has no onnx2tf.", hint=f"{python} -m pip install onnx2tf (Python >= 3.12)")
    if process.returncode != 0 or not (folder / "versions.json").exists():
        raise ConversionError("onnx2tf", _last_line(process.stderr or process.stdout))
    print(process.stderr, file=sys.stderr)
    versions: dict[str, str] = reading.json_file(folder / "versions.json")
    return versions


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.replace("\r", "\n").splitlines() if line.strip()]
    return lines[-1][:300] if lines else "no output"


TARGET = LiteRtTarget()
