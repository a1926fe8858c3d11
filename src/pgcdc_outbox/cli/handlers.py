"""Finding the handler that ``package.module:name`` means."""

import importlib
import inspect
import os
import sys
from types import ModuleType
from typing import Any

from pgcdc_outbox.errors import HandlerInvalid, SettingsError

_SPELLING = "Write package.module:name, such as orders.jobs:handle."


def load_handler(spec: str) -> Any:
    """Import a handler. The current directory is looked into first.

    Raises `SettingsError` if there is none of that name, and `HandlerInvalid`
    for a class.
    """
    module_name, _, name = spec.partition(":")
    if not all(part.isidentifier() for text in (module_name, name) for part in text.split(".")):
        raise SettingsError(f"handler: {spec!r} is not a name of a handler", hint=_SPELLING)

    module = _module(module_name)
    found: Any = module
    for part in name.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise SettingsError(
                f"handler: module {module_name} has no {name}", hint=_functions(module)
            ) from None

    if inspect.isclass(found):
        raise HandlerInvalid(
            f"handler: {spec} is a class",
            hint="Name an instance: `handler = "
            f"{found.__name__}()` in {module_name}, then {module_name}:handler.",
        )

    return found


def _module(name: str) -> ModuleType:
    here = os.getcwd()
    if here not in sys.path:
        # As `python -m` does; an installed command would look beside itself.
        sys.path.insert(0, here)

    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            raise SettingsError(
                f"handler: there is no module {error.name}",
                hint=f"Looked in {here}, then where Python looks for installed packages.",
            ) from None

        raise _broken(name, error) from error
    except (Exception, SystemExit) as error:
        raise _broken(name, error) from error


def _broken(module: str, error: BaseException) -> SettingsError:
    return SettingsError(
        f"handler: importing {module} failed: {type(error).__name__}: {error}",
        hint=f'`python -c "import {module}"` shows where.',
    )


def _functions(module: ModuleType) -> str:
    names = [
        name
        for name, value in vars(module).items()
        if (inspect.isfunction(value) and value.__module__ == module.__name__)
        or (callable(getattr(value, "execute", None)) and not inspect.isclass(value))
    ]
    return f"It has {', '.join(names[:5])}." if names else "It has no function at all."
