"""Unpickle what a lab sends without running any of it: values stay, and every object becomes an inert one.

Dask unpickles anything that a scheduler or a worker puts into a message, and a pickle can call any function. `protect`
replaces that in the process of the client: a name in a pickle gives a class that does nothing but keep the name.
Answers of jobs are JSON text (`effbench.lab.job`), so that nothing is lost.
"""

from __future__ import annotations

import io
import pickle
from importlib import import_module
from typing import Any

MOST_BYTES = 64 * 2**20


class Inert(Exception):  # noqa: N818 - a stand-in for any object, exceptions among them
    """A stand-in for an object of a pickle; it accepts everything and does nothing."""

    def __init__(self, *arguments: Any, **_: Any) -> None:
        super().__init__(*(item for item in arguments if isinstance(item, (str, int, float))))

    def __call__(self, *arguments: Any, **_: Any) -> Inert:
        """Return another stand-in."""
        return Inert(*arguments)

    def __setstate__(self, state: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, item: Any) -> None:
        """Do nothing; the unpickler calls it for lists."""

    def extend(self, items: Any) -> None:
        """Do nothing."""

    def add(self, item: Any) -> None:
        """Do nothing; the unpickler calls it for sets."""


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """Return an inert class of that name; nothing is imported."""
        return type(str(name).rpartition(".")[2] or "Inert", (Inert,), {"__module__": str(module)})

    def persistent_load(self, pid: Any) -> Any:
        return Inert(str(pid))


def loads(data: Any, *, buffers: Any = (), **_: Any) -> Any:
    """Unpickle data in which every object is replaced by an `Inert` one.

    Raises:
        pickle.UnpicklingError: The data is damaged, or longer than `MOST_BYTES`.
    """
    content = bytes(data)
    if len(content) > MOST_BYTES:
        raise pickle.UnpicklingError(f"a message of {len(content)} bytes")
    try:
        return _Unpickler(io.BytesIO(content), buffers=iter(buffers or ())).load()
    except pickle.UnpicklingError:
        raise
    except Exception as error:  # an unpickler raises anything for damaged data
        raise pickle.UnpicklingError(f"{type(error).__name__}: {error}") from error


class _Module:
    """Stands in for the module pickle: `loads` is the inert one."""

    def __init__(self, module: Any) -> None:
        self._module = module

    loads = staticmethod(loads)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


def protect() -> None:
    """Make Dask's client in this process unpickle by `loads`, wherever it unpickles."""
    # By name: the package has functions of the same names as some of its modules.
    names = ("client", "protocol.pickle", "protocol.core", "protocol.serialize")
    client, pickles, core, serialize = (import_module(f"distributed.{name}") for name in names)
    client.loads = pickles.loads = loads  # type: ignore[attr-defined]
    for module in (client, core, serialize):
        held = vars(module)
        if not isinstance(held["pickle"], _Module):
            held["pickle"] = _Module(held["pickle"])
