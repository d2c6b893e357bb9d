"""Register backbones by name. A family is a module that ends in ``BACKBONES``.

They are listed from an index (``index.json``), which needs no torch. ``python -m effbench.models.index`` generates it
from the code, and a test checks it.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from effbench import reading
from effbench.codec import from_json
from effbench.errors import unknown_name
from effbench.registry import plugins
from effbench.schema import Backbone

INDEX = Path(__file__).with_name("index.json")


@cache
def models() -> dict[str, Backbone]:
    """Return every registered backbone by name, in the order of families and sizes."""
    registered = {entry["name"]: from_json(Backbone, entry, str(INDEX)) for entry in reading.json_file(INDEX)}
    for point in plugins("effbench.models"):
        for backbone in point.load():
            registered.setdefault(backbone.name, backbone)
    return registered


def get(name: str) -> Backbone:
    """Return a backbone by name.

    Raises:
        UsageError: The name is unknown; the message lists near misses.
    """
    registered = models()
    if name not in registered:
        raise unknown_name(name, registered, "model")
    return registered[name]


def list_models(family: str | None = None) -> list[Backbone]:
    """Return the registered backbones in the order of families and sizes, of one family or all.

    Raises:
        UsageError: The family is unknown.
    """
    families = list(dict.fromkeys(item.family for item in models().values()))
    if family is not None and family not in families:
        raise unknown_name(family, families, "family")
    return [item for item in models().values() if family in (None, item.family)]
