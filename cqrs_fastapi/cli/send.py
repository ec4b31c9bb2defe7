"""Commands and queries from the shell."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import typer
from pydantic_core import to_json

from cqrs_fastapi.cli.target import Target, load
from cqrs_fastapi.errors import ConfigurationError
from cqrs_fastapi.messages.forms import is_struct, kind_of
from cqrs_fastapi.messages.json_codec import codec_for
from cqrs_fastapi.messages.requests import Request
from cqrs_fastapi.runtime.application import Application

Name = Annotated[str, typer.Argument(help="The class of the command or query, for instance PlaceOrder.")]
Body = Annotated[str, typer.Argument(metavar="JSON", help="Its fields, for instance '{\"order_id\": 1}'.")]


def send(target: Target, name: Name, body: Body = "{}") -> None:
    """Send a command or a query and print its result as JSON, after the commit.

    Its events wait in the outbox for the relay of the application.
    """
    application = load(target)
    request_type = find(application, name)
    request = codec_for(request_type).decode(body.encode())
    typer.echo(render(asyncio.run(_answer(application, request))))


def find(application: Application, name: str) -> type[Request[Any]]:
    """The request class of this name, or of this `module.name`. ConfigurationError if there is not exactly one."""
    requests = [bound for bound in application.request_types() if kind_of(bound) != "stream"]
    found = [bound for bound in requests if name in (bound.__name__, _full_name(bound))]
    if len(found) == 1:
        return found[0]
    if found:
        choices = ", ".join(_full_name(bound) for bound in found)
        raise ConfigurationError(f"several requests are called {name!r}; write one of: {choices}")
    choices = ", ".join(sorted(bound.__name__ for bound in requests)) or "none, bind a handler first"
    raise ConfigurationError(f"no command or query is called {name!r}; there are: {choices}")


def render(result: object) -> str:
    """The result as JSON; what JSON does not know is shown as text."""
    if is_struct(type(result)):
        import msgspec  # noqa: PLC0415  # an extra: only who answers with a struct needs it

        return msgspec.json.encode(result).decode()
    return to_json(result, inf_nan_mode="constants", fallback=str).decode()


async def _answer(application: Application, request: Request[Any]) -> object:
    async with application.running(workers=()):
        answer: object = await application.mediator.send(request)
        return answer


def _full_name(request_type: type) -> str:
    return f"{request_type.__module__}.{request_type.__qualname__}"
