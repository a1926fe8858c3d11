"""Annotations of a function, resolved: also as text, also of types that stand inside a function."""

import functools
import inspect
import sys
import typing
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any, Final

from pgcdc_outbox.errors import RouteInvalid

NOTHING: Final = inspect.Parameter.empty

_PACKAGE: Final = __name__.rpartition(".")[0]


def name_of(function: Any) -> str:
    """How messages call a function."""
    inner = _innermost(function)
    name = getattr(inner, "__qualname__", None) or type(inner).__qualname__
    return str(name).replace("<locals>.", "")


def names_around() -> Mapping[str, Any]:
    """The local names where a route is being registered: the nearest frame that is not ours."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_globals.get("__name__", "").startswith(_PACKAGE):
        frame = frame.f_back

    return {} if frame is None else dict(frame.f_locals)


def resolve(
    function: Callable[..., Any], parameter: inspect.Parameter, around: Mapping[str, Any]
) -> Any:
    """What a parameter is annotated with; `NOTHING` if it is not.

    Raises `RouteInvalid`, naming function and parameter, for a name that means
    nothing here.
    """
    if parameter.annotation is NOTHING:
        return NOTHING

    inner = _innermost(function)

    def probe() -> None: ...

    # One at a time: a return annotation that cannot be resolved is not our matter.
    probe.__annotations__ = {"it": parameter.annotation}
    try:
        return typing.get_type_hints(
            probe,
            globalns=getattr(inner, "__globals__", None) or {},
            localns={**around, **_closure(inner)},
            include_extras=True,
        )["it"]
    except Exception as error:
        raise RouteInvalid(
            f"{name_of(function)}: the annotation of {parameter.name} cannot be resolved: {error}",
            hint="Import its names at run time, not under TYPE_CHECKING, and define them before "
            "the handler, in its module or in the function around it.",
        ) from error


def _closure(function: Any) -> Mapping[str, Any]:
    code, cells = getattr(function, "__code__", None), getattr(function, "__closure__", None)
    if code is None or not cells:
        return {}

    found = {}
    for name, cell in zip(code.co_freevars, cells, strict=True):
        try:
            found[name] = cell.cell_contents
        except ValueError:  # not bound yet
            continue

    return found


def _innermost(function: Any) -> Any:
    """The function whose module knows the names: behind partials, wrappers and methods."""
    while True:
        if isinstance(function, functools.partial):
            function = function.func
        elif inspect.ismethod(function):
            function = function.__func__
        elif hasattr(function, "__wrapped__"):
            function = function.__wrapped__
        elif not hasattr(function, "__code__") and hasattr(type(function).__call__, "__code__"):
            function = type(function).__call__
        else:
            return function
