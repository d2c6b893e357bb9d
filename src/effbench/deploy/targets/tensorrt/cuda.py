"""The CUDA runtime through NVIDIA's binding (cuda-bindings): errors with CUDA's text, the GPU, host buffers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import Any

from effbench.errors import DeviceError, MissingDependencyError, UnavailableError

PACKAGE = "cuda-bindings"


@dataclass(frozen=True)
class Gpu:
    """The GPU of this process: name, compute capability (major, minor), CUDA version of driver and runtime."""

    name: str
    capability: tuple[int, int]
    driver: str
    runtime: str

    @property
    def sm(self) -> str:
        """The compute capability as engines are labelled, for example ``89``."""
        return f"{self.capability[0]}{self.capability[1]}"


@cache
def runtime() -> Any:
    """Return ``cuda.bindings.runtime``.

    Raises:
        MissingDependencyError: cuda-bindings is not installed.
    """
    try:
        from cuda.bindings import runtime as cudart
    except ImportError as error:
        raise MissingDependencyError("A session on an NVIDIA GPU", PACKAGE, "cuda") from error
    return cudart


def error_text(code: Any) -> str:
    """Return CUDA's text and name of an error code."""
    _, text = runtime().cudaGetErrorString(code)
    _, name = runtime().cudaGetErrorName(code)
    return f"{text.decode()} ({name.decode()})"


def call(function: str, *arguments: Any) -> Any:
    """Call a CUDA runtime function by name and return its result (None, a value, or a tuple of values).

    Raises:
        DeviceError: CUDA reports an error; the message carries its text.
    """
    code, *values = getattr(runtime(), function)(*arguments)
    if int(code) != 0:
        raise DeviceError(f"{function}: {error_text(code)}", hint="Look at `nvidia-smi`: other work, or a lost GPU?")
    return values[0] if len(values) == 1 else tuple(values) or None


def missing() -> str | None:
    """Return None if there is a GPU, else the reason why not, with CUDA's text."""
    if find_spec("cuda") is None or find_spec("cuda.bindings") is None:
        return f"the package '{PACKAGE}' is not installed"
    code, count = runtime().cudaGetDeviceCount()
    if int(code) != 0:
        return f"no NVIDIA GPU answers: {error_text(code)}"
    return None if count else "no NVIDIA GPU answers: CUDA reports none"


def gpu() -> Gpu:
    """Describe the GPU of this process.

    Raises:
        UnavailableError: There is none.
    """
    reason = missing()
    if reason is not None:
        raise UnavailableError(f"This needs an NVIDIA GPU, and {reason}.")
    attribute = runtime().cudaDeviceAttr
    index = call("cudaGetDevice")
    major = call("cudaDeviceGetAttribute", attribute.cudaDevAttrComputeCapabilityMajor, index)
    minor = call("cudaDeviceGetAttribute", attribute.cudaDevAttrComputeCapabilityMinor, index)
    name = call("cudaGetDeviceProperties", index).name
    text = name.decode() if isinstance(name, bytes) else str(name)
    driver, built = call("cudaDriverGetVersion"), call("cudaRuntimeGetVersion")
    return Gpu(text.rstrip("\0"), (int(major), int(minor)), _version(driver), _version(built))


def _version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"


def host_buffer(size_bytes: int) -> tuple[int, Any]:
    """Allocate page-locked host memory, which the GPU copies to and from directly.

    Returns:
        Its address, for `call("cudaFreeHost", address)`, and a uint8 array over it.
    """
    import ctypes

    import numpy as np

    address = int(call("cudaMallocHost", size_bytes))
    return address, np.ctypeslib.as_array((ctypes.c_uint8 * size_bytes).from_address(address))
