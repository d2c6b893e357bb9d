"""What a student or a teacher is built from, beside its weights: it decides whether a training is the same one."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from effbench.api.export.dependencies.origins import Origins
from effbench.api.export.dependencies.record import observed
from effbench.api.export.dependencies.trace import Tracer
from effbench.api.export.source import Source, ingredients, places_of
from effbench.codec import to_json

Built = TypeVar("Built")


def recorded(source: Source, home: Path, build: Callable[[], Built]) -> tuple[Built, dict[str, Any]]:
    """Call a function that builds a model; return the model, and all that is known of what it was made from.

    For a user's factory these are also the files, folders, variables and packages that take part while it runs.

    Args:
        source: The model.
        home: Where effbench writes; files below it do not count.
        build: Called once.
    """
    parts = {"source": ingredients(source)}
    if source.backbone.family != "user" or source.path is not None:
        return build(), parts
    tracer = Tracer(places_of(source), Origins(source.backbone.factory, home))
    with tracer.active():
        model = build()
    return model, {**parts, "dependencies": to_json(observed(tracer.result(), os.environ))}
