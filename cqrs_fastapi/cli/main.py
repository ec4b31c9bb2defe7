"""The command `cqrs`, for people and operators."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from cqrs_fastapi.cli import dead_letters, outbox, schema, topics
from cqrs_fastapi.cli.forget import forget
from cqrs_fastapi.cli.send import send
from cqrs_fastapi.cli.torture_store import torture_store
from cqrs_fastapi.cli.workers import consume, relay, schedule
from cqrs_fastapi.errors import ConfigurationError, CqrsError, MessageError

_WRONG_USE = 2
_FAILED = 1


class _Sentences(TyperGroup):
    """Says this library's own errors in one sentence on standard error; only strangers' errors keep a traceback.

    Status 2: what was asked for is wrong. Status 1: it was right and failed.
    """

    def invoke(self, ctx: Any) -> Any:  # some versions of typer carry their own click
        try:
            return super().invoke(ctx)
        except CqrsError as error:
            typer.echo(f"cqrs: {error}", err=True)
            wrong_use = isinstance(error, ConfigurationError | MessageError)
            raise typer.Exit(_WRONG_USE if wrong_use else _FAILED) from error


app = typer.Typer(
    name="cqrs", cls=_Sentences, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False
)
for _command in (relay, consume, schedule, send, forget):
    app.command()(_command)
app.add_typer(dead_letters.app, name="dead-letters")
app.add_typer(outbox.app, name="outbox")
app.add_typer(topics.app, name="topics")
app.add_typer(schema.app, name="schema")
app.command("torture-store")(torture_store)


def _print_version(wanted: bool) -> None:
    if not wanted:
        return
    try:
        typer.echo(f"cqrs-fastapi {version('cqrs-fastapi')}")
    except PackageNotFoundError:
        typer.echo("cqrs-fastapi, run from its sources")
    raise typer.Exit


@app.callback()
def options(
    _version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """CQRS, event sourcing, transactional outbox and periodic jobs for FastAPI."""


def main() -> None:
    """The entry point of the installed command."""
    app()
