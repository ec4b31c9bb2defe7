"""From `module:attribute` to the application that is meant."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Annotated, TypeAlias

import typer

from cqrs_fastapi.errors import ConfigurationError
from cqrs_fastapi.runtime.application import Application

Target: TypeAlias = Annotated[
    str, typer.Argument(metavar="MODULE:CQRS", help="Where the CQRS object is, for instance app:cqrs.")
]


def load(target: str) -> Application:
    """Import the module, as seen from the current directory, and take the object.

    ConfigurationError if the module or the attribute is missing or is something else. What the module itself raises
    while it is imported passes unchanged.
    """
    module_name, colon, path = target.partition(":")
    if not (module_name and colon and path):
        raise ConfigurationError(f"{target!r} names no object; write MODULE:ATTRIBUTE, for instance app:cqrs")
    found: object = _import(module_name)
    for attribute in path.split("."):
        if not hasattr(found, attribute):
            raise ConfigurationError(f"{module_name!r} has no {path!r}; write the name of the variable: cqrs = CQRS()")
        found = getattr(found, attribute)
    if not isinstance(found, Application):
        kind = type(found).__name__
        raise ConfigurationError(
            f"{target} is of type {kind} and not a CQRS object; write the name of one: cqrs = CQRS()"
        )
    return found


def _import(name: str) -> ModuleType:
    directory = str(Path.cwd())
    if directory not in sys.path:
        sys.path.insert(0, directory)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        # A module that exists and imports something missing is another story, and its traceback tells it.
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise
        raise ConfigurationError(
            f"there is no module {name!r} as seen from {directory}; run this command from the root of the project"
        ) from error
