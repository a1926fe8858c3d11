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


def names_around(function: Any) -> Mapping[str, Any]:
    """The local names that a function could see where it was defined, and is being registered.

    Those of the functions around it, as far as they still run, and of the one
    that registers it. A closure has them only if the function uses them, and
    annotations that are text are no use.
    """
    inner = _innermost(function)
    code, around = getattr(inner, "__code__", None), getattr(inner, "__qualname__", "")
    found: dict[str, Any] = {}
    registers = True
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        is_ours = frame.f_globals.get("__name__", "").startswith(_PACKAGE)
        encloses = (
            code is not None
            and frame.f_code.co_filename == code.co_filename
            and around.startswith(f"{frame.f_code.co_qualname}.<locals>.")
        )
        if not is_ours and (registers or encloses):
            registers = False
            found = {**frame.f_locals, **found}

        frame = frame.f_back

    return found


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
