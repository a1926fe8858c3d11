"""The parameters of a handler, told apart by their annotations, once, at registration."""

import inspect
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Final, Literal, get_args, get_origin

from msgspec import Struct

from pgcdc_outbox.errors import RouteInvalid
from pgcdc_outbox.job import Job
from pgcdc_outbox.routing.annotations import NOTHING, name_of, resolve
from pgcdc_outbox.routing.connection import KNOWN, connection_class, is_async, is_other
from pgcdc_outbox.routing.context import Context

Kind = Literal["payload", "job", "context", "connection"]

_BY_POSITION: Final = (
    inspect.Parameter.POSITIONAL_ONLY,
    inspect.Parameter.POSITIONAL_OR_KEYWORD,
)
_LISTS: Final = (list, Sequence, Collection, Iterable)
# Without an annotation they would get a payload, which is hardly what is meant.
_TELLING: Final = {
    "job": "Job", "jobs": "list[Job]", "context": "Context", "ctx": "Context",
    "contexts": "list[Context]", "connection": "psycopg.AsyncConnection",
    "session": "AsyncSession",
}  # fmt: skip


class Argument(Struct, frozen=True):
    """What a parameter is to be given."""

    kind: Kind
    type: Any
    """The type of one payload, or the class of the connection."""
    keyword: str | None = None
    """Its name, if it has to be given by name."""


class Signature(Struct, frozen=True):
    """How a handler is called."""

    arguments: tuple[Argument, ...]
    is_async: bool
    payload: Any = NOTHING
    """The type of one payload; nothing if none is asked for."""

    @property
    def connections(self) -> tuple[type, ...]:
        """The classes of connections that are asked for."""
        return tuple(each.type for each in self.arguments if each.kind == "connection")


def read(
    function: Callable[..., Any],
    *,
    batch: bool,
    transactional: bool,
    around: Mapping[str, Any],
) -> Signature:
    """Read the signature of a handler.

    Raises `RouteInvalid`, naming the function and the parameter, for what
    nothing could be given to.
    """
    name = name_of(function)
    asynchronous = _check(function, name)
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError, NameError) as error:
        raise RouteInvalid(
            f"{name}: its parameters cannot be read: {error}",
            hint="Wrap it in a function of your own.",
        ) from error

    reader = _Reader(function, name, batch=batch, around=around)
    arguments = [argument for each in parameters if (argument := reader.argument(each)) is not None]
    payload = reader.payload()
    for each in arguments:
        if each.kind == "connection":
            _check_connection(name, each.type, transactional, asynchronous)

    return Signature(tuple(arguments), asynchronous, payload)


class _Reader:
    """Goes through the parameters of one function."""

    def __init__(
        self, function: Callable[..., Any], name: str, *, batch: bool, around: Mapping[str, Any]
    ) -> None:
        self._function = function
        self._name = name
        self._batch = batch
        self._around = around
        self._payload: Any = NOTHING
        self._payload_name = ""
        self._left: list[str] = []

    def argument(self, parameter: inspect.Parameter) -> Argument | None:
        """What this one is to be given; None if it keeps its default."""
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            return None

        if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            raise self._wrong(parameter, "takes any number of arguments", "Name the parameters.")

        annotation = resolve(self._function, parameter, self._around)
        keyword = None if parameter.kind in _BY_POSITION else parameter.name
        if (kind := connection_class(annotation)) is not None:
            return Argument("connection", kind, keyword)

        if is_other(annotation):
            raise self._wrong(
                parameter,
                f"is a {annotation.__module__}.{annotation.__qualname__}, which cannot be given",
                f"A transactional handler may take {KNOWN}.",
            )

        one = self._one(parameter, annotation)
        if one is Job:
            return Argument("job", Job, keyword)

        if one is Context:
            return Argument("context", Context, keyword)

        return self._as_payload(parameter, one, keyword)

    def payload(self) -> Any:
        """The type of the payload, when all parameters are known."""
        if self._payload is NOTHING and self._left:
            raise RouteInvalid(
                f"{self._name}: the parameter {self._left[0]} has a default, so nothing would "
                "ever be given to it",
                hint="Take its default away for it to be the payload, "
                "or put it behind a `*` for it to keep it.",
            )

        return self._payload

    def _as_payload(
        self, parameter: inspect.Parameter, type_: Any, keyword: str | None
    ) -> Argument | None:
        if parameter.default is not NOTHING:
            if keyword is None:
                self._left.append(parameter.name)

            return None

        if parameter.annotation is NOTHING and (meant := _TELLING.get(parameter.name)):
            raise self._wrong(
                parameter,
                "has no annotation, and would be given the payload",
                f"Write `{parameter.name}: {meant}`, or `{parameter.name}: "
                f"{'list[Any]' if self._batch else 'Any'}` if the payload is meant.",
            )

        if self._payload_name:
            raise self._wrong(
                parameter,
                f"would be a second payload, beside {self._payload_name}",
                "Annotate one of them with Job, Context or a connection, or give it a default.",
            )

        self._payload_name = parameter.name
        self._payload = type_
        return Argument("payload", type_, keyword)

    def _one(self, parameter: inspect.Parameter, annotation: Any) -> Any:
        """The type for one job: the annotation, or for a batch that of the list's elements."""
        if not self._batch:
            if _element(annotation) in (Job, Context):
                raise self._wrong(
                    parameter,
                    "asks for a list, but the handler gets one job at a time",
                    f"Write `{parameter.name}: {_element(annotation).__name__}`, "
                    "or register it with batch=True.",
                )

            return Any if annotation is NOTHING else annotation

        if annotation is NOTHING or annotation is Any:
            return Any

        if annotation in _LISTS:
            return Any

        element = _element(annotation)
        if element is NOTHING:
            shown = getattr(annotation, "__name__", None) or str(annotation)
            raise self._wrong(
                parameter,
                f"is one {shown}, but the handler gets a batch",
                f"Write `{parameter.name}: list[{shown}]`, or register it without batch=True.",
            )

        return element

    def _wrong(self, parameter: inspect.Parameter, what: str, remedy: str) -> RouteInvalid:
        return RouteInvalid(f"{self._name}: the parameter {parameter.name} {what}", hint=remedy)


def _element(annotation: Any) -> Any:
    """What a list is of; nothing if the annotation is no list of something."""
    arguments = get_args(annotation)
    return arguments[0] if get_origin(annotation) in _LISTS and len(arguments) == 1 else NOTHING


def _check(function: Any, name: str) -> bool:
    """Whether it is async. Raises `RouteInvalid` for what is no function, or yields."""
    if inspect.isclass(function):
        raise RouteInvalid(
            f"{name} is a class", hint="Give a function, a method, or an instance with __call__."
        )

    if not callable(function):
        raise RouteInvalid(
            f"{name} cannot be called",
            hint="Give a function, a method, or an object with __call__.",
        )

    call = function if inspect.isroutine(function) else getattr(function, "__call__", function)  # noqa: B004
    for each in (function, call):
        if inspect.isasyncgenfunction(each) or inspect.isgeneratorfunction(each):
            raise RouteInvalid(
                f"{name} is a generator; nothing would run it",
                hint="A handler must not yield: do the work, and return None or an outcome.",
            )

    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(call)


def _check_connection(name: str, kind: type, transactional: bool, asynchronous: bool) -> None:
    shown = f"{kind.__module__.partition('.')[0]} {kind.__name__}"
    if not transactional:
        raise RouteInvalid(
            f"{name}: a {shown} is asked for, but the route is not transactional",
            hint="Register it with transactional=True, or open a connection of your own.",
        )

    if is_async(kind) != asynchronous:
        raise RouteInvalid(
            f"{name}: a {shown} cannot be used in {'an async' if asynchronous else 'a sync'} "
            "handler",
            hint=f"Ask for {KNOWN}.",
        )
