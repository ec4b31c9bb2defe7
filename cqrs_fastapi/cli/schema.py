"""Whether what is stored can still be read, for continuous integration and before a deployment."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from cqrs_fastapi.catalogue import check as checks
from cqrs_fastapi.catalogue import corpus, lockfile
from cqrs_fastapi.catalogue.lockfile import Lockfile
from cqrs_fastapi.cli.target import Target, load
from cqrs_fastapi.errors import ConfigurationError
from cqrs_fastapi.runtime.application import Application

File = Annotated[Path, typer.Option("--file", help="The lockfile.")]

app = typer.Typer(no_args_is_help=True, help="What was stored, and whether this code still reads it.")


@app.command()
def lock(target: Target, file: File = Path(lockfile.FILE)) -> None:
    """Write what the code stores now into the lockfile, beside all that was stored before.

    Status 1, and the file is left as it is, if `check` would find that something breaks.
    """
    registry = load(target).registry
    before = lockfile.read(file) or Lockfile()
    _refuse(checks.breaks(before, registry))
    after = before.with_code(registry)
    lockfile.write(file, after)
    typer.echo(f"{file}: {len(list(after))} versions of {len(after.events)} events")


@app.command()
def check(target: Target, file: File = Path(lockfile.FILE)) -> None:
    """Compare the code with the lockfile; no database is asked.

    Status 1, with numbered sentences, if a version that was stored could no longer be read, if consumers of a topic
    would break, or if the file lacks what the code stores.
    """
    registry = load(target).registry
    locked = lockfile.read(file)
    if locked is None:
        raise ConfigurationError(f"there is no {file}; write it by: cqrs schema lock {target} --file {file}")
    missing = [f"{one}; run: cqrs schema lock {target} --file {file}" for one in checks.not_locked(locked, registry)]
    _refuse([*checks.breaks(locked, registry), *missing])
    typer.echo(f"{file}: {len(list(locked))} versions of {len(locked.events)} events can be read")


@app.command()
def verify(target: Target) -> None:
    """Read the whole event store of the application's database: each event is upcast and decoded, nothing is changed.

    Status 1 if one cannot be read. Places and kinds are told, and never values.
    """
    verdict = asyncio.run(_verify(load(target)))
    for (name, version), count in sorted(verdict.counts.items()):
        typer.echo(f"{name!r} version {version}: {count}")
    for failure in verdict.failures:
        typer.echo(failure)
    total = verdict.counts.total()
    if verdict.failed:
        typer.echo(f"{verdict.failed} of {total} events cannot be read")
        raise typer.Exit(1)
    typer.echo(f"{total} events can be read")


async def _verify(application: Application) -> corpus.Verdict:
    """The database alone: neither broker nor handlers are needed."""
    registry, database = application.registry, application.database
    await database.open()
    try:
        await database.check_schema()
        return await corpus.verify(database, registry)
    finally:
        await database.close()


def _refuse(problems: Sequence[str]) -> None:
    if problems:
        for number, problem in enumerate(problems, start=1):
            typer.echo(f"{number}. {problem}")
        raise typer.Exit(1)
