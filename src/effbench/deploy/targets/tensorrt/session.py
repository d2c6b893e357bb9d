"""A session on an NVIDIA GPU: device buffers, one stream, and a CUDA graph if the context can be captured.

Written from NVIDIA's documentation. The tests run what needs no GPU (refusals, validity of an engine's header);
docs/how-to/tensorrt.md lists where the rest was run.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from effbench import reading
from effbench.deploy import Array, Session
from effbench.deploy.targets.tensorrt import cuda
from effbench.deploy.targets.tensorrt.library import Library, check_version, logger
from effbench.errors import DataError, DeviceError, UnavailableError, UsageError
from effbench.schema import Artifact


class Buffers:
    """Page-locked host memory and device memory of every input and output, for one set of shapes."""

    def __init__(self, context: Any, engine: Any, trt: Any) -> None:
        import numpy as np

        self.host: dict[str, Array] = {}
        self.device: dict[str, int] = {}
        self.inputs: list[str] = []
        self.outputs: list[str] = []
        self._pinned: list[int] = []
        for index in range(engine.num_io_tensors):
            name = engine.get_tensor_name(index)
            shape = tuple(context.get_tensor_shape(name))
            dtype = np.dtype(trt.nptype(engine.get_tensor_dtype(name)))
            size = int(np.prod(shape)) * dtype.itemsize
            address, view = cuda.host_buffer(size)
            self._pinned.append(address)
            self.host[name] = view.view(dtype).reshape(shape)
            self.device[name] = int(cuda.call("cudaMalloc", size))
            context.set_tensor_address(name, self.device[name])
            mode = engine.get_tensor_mode(name)
            (self.inputs if mode == trt.TensorIOMode.INPUT else self.outputs).append(name)

    def upload(self, stream: Any) -> None:
        """Queue the copies of all inputs to the device."""
        kind = cuda.runtime().cudaMemcpyKind.cudaMemcpyHostToDevice
        for name in self.inputs:
            host = self.host[name]
            cuda.call("cudaMemcpyAsync", self.device[name], host.ctypes.data, host.nbytes, kind, stream)

    def download(self, stream: Any) -> None:
        """Queue the copies of all outputs to the host."""
        kind = cuda.runtime().cudaMemcpyKind.cudaMemcpyDeviceToHost
        for name in self.outputs:
            host = self.host[name]
            cuda.call("cudaMemcpyAsync", host.ctypes.data, self.device[name], host.nbytes, kind, stream)

    def free(self) -> None:
        """Free all host and device memory."""
        for address in self.device.values():
            cuda.call("cudaFree", address)
        for address in self._pinned:
            cuda.call("cudaFreeHost", address)


class TensorRtSession(Session):
    """A deserialized engine that runs on the GPU of this process."""

    def __init__(self, library: Library, artifact: Artifact, runtime_cache: Path | None = None) -> None:
        check_version(library, artifact.placement, artifact.name)
        self._trt, self._log = library.load(), logger(library.load())
        self._runtime = self._trt.Runtime(self._log)
        plan = artifact.path.read_bytes()
        check_header(self._runtime, self._trt, plan, artifact)
        self.gpu = cuda.gpu()
        check_capability(artifact, self.gpu)
        self.spent: dict[str, float] = {}
        start = time.perf_counter()
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise DataError(f"{artifact.path}: {library.title} cannot load it: {self._log.last_error()}")
        start = self._spend("deserialize_ms", start)
        self._cache_path: Path | None = runtime_cache
        self._cache: Any = None
        self.runtime_cache = "not used by this library"
        self._context = self._create_context()
        self._spend("context_ms", start)
        self._stream = cuda.call("cudaStreamCreate")
        self._buffers: Buffers | None = None
        self._graph: Any = None
        self.cuda_graph = "not tried yet"
        self.compute_precision: str | None = artifact.subject.compute_precision

    def _spend(self, name: str, since: float) -> float:
        now = time.perf_counter()
        self.spent[name] = round((now - since) * 1e3, 3)
        return now

    def _create_context(self) -> Any:
        if not hasattr(self._engine, "create_runtime_config"):
            return self._engine.create_execution_context()
        config = self._engine.create_runtime_config()
        self._cache = config.create_runtime_cache()
        path = self._cache_path
        warm = path is not None and path.exists() and self._cache.deserialize(path.read_bytes())
        self.runtime_cache = "warm" if warm else "cold"
        config.set_runtime_cache(self._cache)
        return self._engine.create_execution_context(config)

    def _prepare(self, feeds: Mapping[str, Array]) -> Buffers:
        for name, value in feeds.items():
            if not self._context.set_input_shape(name, tuple(value.shape)):
                raise UsageError(f"The engine takes no input '{name}' of shape {list(value.shape)}.")
        self._release()
        self._buffers = Buffers(self._context, self._engine, self._trt)
        start = time.perf_counter()
        # The first run compiles the kernels that TensorRT for RTX defers to the GPU, and triggers lazy initialization.
        self._enqueue()
        cuda.call("cudaStreamSynchronize", self._stream)
        self._spend("first_run_ms", start)
        self._capture()
        if self._cache is not None and self._cache_path is not None and self.runtime_cache == "cold":
            self._cache_path.parent.mkdir(parents=True, exist_ok=True)
            self._cache_path.write_bytes(bytes(self._cache.serialize()))
        return self._buffers

    def _enqueue(self) -> None:
        if not self._context.execute_async_v3(int(self._stream)):
            raise DeviceError(f"The inference could not be queued: {self._log.last_error()}")

    def _capture(self) -> None:
        """Capture the inference as a CUDA graph if the context allows it; else record why there is none."""
        capturable = getattr(self._context, "is_stream_capturable", None)
        if capturable is not None and not capturable(int(self._stream)):
            self.cuda_graph = "none: the context reports that this stream cannot be captured"
            return
        mode = cuda.runtime().cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        cuda.call("cudaStreamBeginCapture", self._stream, mode)
        queued = self._context.execute_async_v3(int(self._stream))
        code, graph = cuda.runtime().cudaStreamEndCapture(self._stream)
        if not queued or int(code) != 0:
            self.cuda_graph = f"none: {cuda.error_text(code) if int(code) else self._log.last_error()}"
            return
        self._graph = cuda.call("cudaGraphInstantiate", graph, 0)
        cuda.call("cudaGraphDestroy", graph)
        self.cuda_graph = "captured"

    def _compute(self) -> None:
        if self._graph is not None:
            cuda.call("cudaGraphLaunch", self._graph, self._stream)
        else:
            self._enqueue()

    def _load(self, feeds: Mapping[str, Array]) -> Buffers:
        buffers = self._buffers
        if buffers is None or any(buffers.host[name].shape != value.shape for name, value in feeds.items()):
            buffers = self._prepare(feeds)
        for name, value in feeds.items():
            buffers.host[name][...] = value
        return buffers

    def __call__(self, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        """Run once: copy in, compute, copy out, wait; outputs are copies, which the next call does not overwrite."""
        buffers = self._load(feeds)
        buffers.upload(self._stream)
        self._compute()
        buffers.download(self._stream)
        cuda.call("cudaStreamSynchronize", self._stream)
        return {name: buffers.host[name].copy() for name in buffers.outputs}

    def phases(self, feeds: Mapping[str, Array]) -> dict[str, float]:
        """Return the device times of the three phases of one inference in ms, by CUDA events."""
        buffers = self._load(feeds)
        marks = [cuda.call("cudaEventCreate") for _ in range(4)]
        steps: tuple[Callable[[], object], ...] = (
            lambda: buffers.upload(self._stream),
            self._compute,
            lambda: buffers.download(self._stream),
        )
        cuda.call("cudaEventRecord", marks[0], self._stream)
        for step, mark in zip(steps, marks[1:], strict=True):
            step()
            cuda.call("cudaEventRecord", mark, self._stream)
        cuda.call("cudaEventSynchronize", marks[-1])
        names = ("host_to_device_ms", "compute_ms", "device_to_host_ms")
        times = {
            name: float(cuda.call("cudaEventElapsedTime", before, after))
            for name, before, after in zip(names, marks, marks[1:], strict=False)
        }
        for mark in marks:
            cuda.call("cudaEventDestroy", mark)
        return times

    def inspect(self) -> dict[str, Any]:
        """Return the engine inspector's report of the compiled layers."""
        inspector = self._engine.create_engine_inspector()
        text = inspector.get_engine_information(self._trt.LayerInformationFormat.JSON)
        return dict(reading.json_value(text, "the engine inspector", finite=False))

    def placement(self) -> dict[str, Any]:
        """Return the GPU, the compiled layers by kind, the start-up times, and the state of the CUDA graph."""
        layers = [layer for layer in self.inspect().get("Layers", []) if isinstance(layer, dict)]
        return {
            "gpu": self.gpu.name,
            "compute_capability": self.gpu.sm,
            "cuda": {"driver": self.gpu.driver, "runtime": self.gpu.runtime},
            "compiled_layers": dict(Counter(str(layer.get("LayerType", "?")) for layer in layers)),
            "cuda_graph": self.cuda_graph,
            "start": {**self.spent, "runtime_cache": self.runtime_cache},
        }

    def _release(self) -> None:
        if self._graph is not None:
            cuda.call("cudaGraphExecDestroy", self._graph)
            self._graph = None
        if self._buffers is not None:
            self._buffers.free()
            self._buffers = None

    def close(self) -> None:
        """Free buffers, graph and stream, then context and engine."""
        self._release()
        cuda.call("cudaStreamDestroy", self._stream)
        del self._context, self._engine, self._runtime


def check_header(runtime: Any, trt: Any, plan: bytes, artifact: Artifact) -> None:
    """Check an engine's header before it is loaded; needs no GPU.

    Only TensorRT for RTX has this check; TensorRT refuses an engine when it loads it.

    Raises:
        DataError: The header is damaged.
        UnavailableError: The engine needs another version, another GPU or a newer driver.
    """
    if not hasattr(runtime, "get_engine_validity"):
        return
    if len(plan) < runtime.engine_header_size:
        raise DataError(f"{artifact.path}: a file of {len(plan)} bytes is no engine.", hint="Export it again.")
    _, bits = runtime.get_engine_validity(plan[: runtime.engine_header_size])
    kinds = trt.EngineInvalidityDiagnostics.__members__
    problems = [name for name, kind in kinds.items() if int(bits) & int(kind)]
    if "MALFORMED_ENGINE" in problems:
        raise DataError(f"{artifact.path}: damaged, its header is not an engine's.", hint="Export it again.")
    if problems:
        text = ", ".join(name.lower().replace("_", " ") for name in problems)
        raise UnavailableError(f"{artifact.name} cannot be loaded here: the library reports {text}.")


def check_capability(artifact: Artifact, gpu: cuda.Gpu) -> None:
    """Refuse an engine that was built for other GPUs.

    Raises:
        UnavailableError: The engine was not built for this GPU's compute capability.
    """
    built = [str(item) for item in artifact.placement.get("compute_capabilities", [])]
    if built and gpu.sm not in built:
        raise UnavailableError(
            f"{artifact.name} was built for compute capability {', '.join(built)}; {gpu.name} is {gpu.sm}.",
            hint=f"Export it for this GPU: --set cc={gpu.sm}",
        )
