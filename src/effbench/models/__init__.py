"""Backbones by name. A family is one module that ends in ``BACKBONES``; listing them reads an index and needs no torch.

The index (``index.json``) is generated from the code by ``python -m effbench.models.index`` and checked by a test.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

from effbench.codec import from_json
from effbench.errors import unknown_name
from effbench.registry import plugins
from effbench.schema import Backbone

INDEX = Path(__file__).with_name("index.json")


@cache
def models() -> dict[str, Backbone]:
    """Return every registered backbone by name, in the order of families and sizes."""
    found = {entry["name"]: from_json(Backbone, entry, str(INDEX)) for entry in json.loads(INDEX.read_text())}
    for point in plugins("effbench.models"):
        for backbone in point.load():
            found.setdefault(backbone.name, backbone)
    return found


def get(name: str) -> Backbone:
    """Return a backbone by name.

    Raises:
        UsageError: The name is unknown; the message lists near misses.
    """
    found = models()
    if name not in found:
        raise unknown_name(name, found, "model")
    return found[name]


def list_models(family: str | None = None) -> list[Backbone]:
    """Return the registered backbones in the order of families and sizes, of one family or all.

    Raises:
        UsageError: The family is unknown.
    """
    families = list(dict.fromkeys(item.family for item in models().values()))
    if family is not None and family not in families:
        raise unknown_name(family, families, "family")
    return [item for item in models().values() if family in (None, item.family)]
