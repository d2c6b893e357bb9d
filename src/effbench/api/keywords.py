"""A function of one record, called with the record's fields: the Python side of a request that jobs carry as JSON."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
Request = TypeVar("Request")
Result = TypeVar("Result")


def from_fields(record: Callable[P, Request]) -> Callable[[Callable[[Request], Result]], Callable[P, Result]]:
    """Give a function of one record that record's fields as its arguments.

    So an option has one definition: the field. The typed function, the command line and a job built from JSON share
    it, and an unknown or misspelt one is an error in all three.

    Args:
        record: The dataclass whose constructor the decorated function takes over.
    """

    def decorate(function: Callable[[Request], Result]) -> Callable[P, Result]:
        @wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> Result:
            return function(record(*args, **kwargs))

        signature = inspect.signature(record)
        told: Any = call
        told.__signature__ = signature.replace(return_annotation=inspect.signature(function).return_annotation)
        return call

    return decorate


__all__ = ["from_fields"]
