"""A function of one record, called with the record's fields: the Python side of a request that jobs carry as JSON."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from effbench.errors import unknown_name

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
        documented: Any = call
        documented.__signature__ = signature.replace(return_annotation=inspect.signature(function).return_annotation)
        return call

    return decorate


def build(record: Callable[..., Request], values: Mapping[str, Any], source: str) -> Request:
    """Build a record from named values, such as the keys of a TOML table.

    Args:
        record: A dataclass.
        values: Its fields by name.
        source: Where the names come from, for the message.

    Raises:
        UsageError: A name is not a field of the record; the valid ones are listed.
    """
    valid = [name for name in inspect.signature(record).parameters if name != "notify"]
    for name in values:
        if name not in (*valid, "notify"):
            raise unknown_name(name, valid, source)
    return record(**values)


__all__ = ["build", "from_fields"]
