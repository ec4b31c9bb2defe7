"""Torture of a database's event store, by anyone against their own."""

from __future__ import annotations

import asyncio
import secrets
from typing import Annotated

import typer

from cqrs_fastapi.cli.signals import stop_by_signal
from cqrs_fastapi.clock import SystemClock
from cqrs_fastapi.errors import ConfigurationError
from cqrs_fastapi.testing.torture.plan import READERS, Plan
from cqrs_fastapi.testing.torture.report import report
from cqrs_fastapi.testing.torture.run import Outcome, run

Url = Annotated[str, typer.Option(help="The database, for instance postgresql+asyncpg://user:password@host/database.")]
Seconds = Annotated[float, typer.Option(min=1, help="How long the writers write.")]
Writers = Annotated[int, typer.Option(min=1, max=500, help="How many write at once; each may need a connection.")]
Seed = Annotated[int | None, typer.Option(help="Of the choices that the load makes.", show_default="random")]
ReaderOption = Annotated[
    str, typer.Option(metavar="|".join(READERS), help="Who reads; position and xid are wrong, and there to be caught.")
]
Kills = Annotated[bool, typer.Option("--kills/--no-kills", help="Kill back ends of its own at random (PostgreSQL).")]
Decisions = Annotated[bool, typer.Option("--decisions/--no-decisions", help="Append on conditions over tags, too.")]

GroupCommit = Annotated[
    bool, typer.Option("--group-commit/--no-group-commit", help="Some writers append together in groups.")
]


def torture_store(  # noqa: PLR0917  # typer calls it by name
    database_url: Url,
    seconds: Seconds = 60.0,
    writers: Writers = 48,
    seed: Seed = None,
    reader: ReaderOption = "floor",
    kills: Kills = True,
    decisions: Decisions = True,
    group_commit: GroupCommit = True,
) -> None:
    """Torture the event store on a database, and tell whether a reader lost or inverted anything.

    It makes tables of its own, called torture_..., and drops them at the end, also after Ctrl-C or SIGTERM: all other
    tables are left alone. A second signal ends it at once, and leaves its tables. It kills only connections of its
    own. Status 0 and OK if all that was committed was delivered once and in order; else status 1 and BROKEN.
    """
    if reader not in READERS:
        raise ConfigurationError(f"there is no reader {reader!r}; write one of: {', '.join(READERS)}")
    chosen = secrets.randbits(31) if seed is None else seed
    plan = Plan(database_url, chosen, seconds, writers, reader, kills, decisions, group_commit)
    outcome = asyncio.run(_run(plan))
    typer.echo(report(plan, outcome))
    if not outcome.is_ok:
        raise typer.Exit(1)


async def _run(plan: Plan) -> Outcome:
    with stop_by_signal() as stop:
        return await run(plan, stop, SystemClock())
