"""What was parked, for people who decide what becomes of it."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Annotated, TypeVar
from uuid import UUID

import typer
from sqlalchemy import Connection

from cqrs_fastapi.cli.letters_shown import details, json_text, listed, plain, summary, told
from cqrs_fastapi.cli.target import Target, load
from cqrs_fastapi.dead_letters.changing import edit as edit_letter
from cqrs_fastapi.dead_letters.parking import Letter, count, newest
from cqrs_fastapi.dead_letters.reading import page, require
from cqrs_fastapi.errors import ConfigurationError, NotFoundError
from cqrs_fastapi.runtime.application import Application
from cqrs_fastapi.storage.database import Database
from cqrs_fastapi.storage.tables import Tables

T = TypeVar("T")

Id = Annotated[UUID, typer.Argument(metavar="ID", help="The id of a letter.")]
Limit = Annotated[int, typer.Option(min=1, max=10_000, help="How many, newest first.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON value, for programs.")]
Consumer = Annotated[str | None, typer.Option(help="The handler that gave up, or 'relay'.", show_default=False)]
Key = Annotated[str | None, typer.Option(help="A closed key, as it is listed.", show_default=False)]
Topic = Annotated[str, typer.Option(help="The topic of the key; asked for where the consumer is 'relay'.")]

app = typer.Typer(no_args_is_help=True, help="Look at parked messages, edit, replay, discard and export them.")


@app.command("list")
def list_(target: Target, limit: Limit = 20, as_json: AsJson = False) -> None:
    """List the messages that could not be handled or sent, newest first."""
    letters, total = _read(
        target, lambda connection, tables: (newest(connection, tables, limit), count(connection, tables))
    )
    typer.echo(json_text([summary(letter) for letter in letters]) if as_json else listed(letters, total))


@app.command()
def show(target: Target, identifier: Id, as_json: AsJson = False) -> None:
    """Show everything about one, with its payload."""
    letter = _read(target, lambda connection, tables: _find(connection, tables, identifier))
    typer.echo(json_text(details(letter)) if as_json else told(letter))


@app.command()
def export(target: Target, consumer: Consumer = None, key: Key = None) -> None:
    """Write all of them to standard output, the oldest first, as one JSON object for each line."""
    asyncio.run(_export(load(target), consumer, key))


@app.command()
def edit(
    target: Target,
    identifier: Id,
    payload: Annotated[Path | None, typer.Option(help="A file with the new payload; - is standard input.")] = None,
    header: Annotated[list[str] | None, typer.Option(help="name=value; an empty value takes the header away.")] = None,
) -> None:
    """Change what will be replayed. The message keeps its id."""
    raw = None if payload is None else sys.stdin.buffer.read() if str(payload) == "-" else payload.read_bytes()
    if raw is None and not header:
        raise ConfigurationError("nothing is to be changed; give --payload FILE or --header name=value")

    def change(connection: Connection, tables: Tables) -> Letter:
        letter = _find(connection, tables, identifier)
        headers = _changed(letter, header) if header else None
        return edit_letter(connection, tables, identifier, payload=raw, headers=headers)

    letter = asyncio.run(_with_database(load(target), lambda database: database.write(partial(_on, database, change))))
    typer.echo(f"{letter.id} has {len(letter.payload)} bytes and {len(letter.headers)} headers now")


@app.command()
def replay(  # noqa: PLR0917  # they are options
    target: Target,
    identifier: Annotated[UUID | None, typer.Argument(metavar="[ID]", help="The id of a letter.")] = None,
    consumer: Consumer = None,
    key: Key = None,
    topic: Topic = "",
    out_of_order: Annotated[bool, typer.Option(help="Also if earlier ones of its key are still there.")] = False,
) -> None:
    """Handle one again, or all of a key in their order; what the relay has parked goes back to the outbox."""
    if (identifier is None) == (key is None) or (key is not None and consumer is None):
        raise ConfigurationError("say what is to be replayed: an ID, or a key by --consumer NAME --key KEY")

    async def work(application: Application) -> str:
        if identifier is not None:
            await application.dead_letters.replay(identifier, out_of_order=out_of_order)
            return f"{identifier} was replayed"
        number = await application.dead_letters.replay_key(consumer or "", key or "", topic=topic)
        return f"{number} of {plain(key or '')} were replayed, and the key is open"

    typer.echo(asyncio.run(_running(load(target), work)))


@app.command()
def discard(target: Target, identifier: Id) -> None:
    """Settle one without an effect. It is gone then; export it first if it may be needed."""

    async def work(application: Application) -> str:
        await application.dead_letters.discard(identifier)
        return f"{identifier} was discarded"

    typer.echo(asyncio.run(_running(load(target), work)))


def _read(target: str, work: Callable[[Connection, Tables], T]) -> T:
    """Ask the database alone: neither broker nor handlers are needed."""
    return asyncio.run(_with_database(load(target), lambda database: database.read(partial(_on, database, work))))


def _on(database: Database, work: Callable[[Connection, Tables], T], connection: Connection) -> T:
    return work(connection, database.tables)


async def _with_database(application: Application, work: Callable[[Database], Awaitable[T]]) -> T:
    database = application.database
    await database.open()
    try:
        await database.check_schema()
        return await work(database)
    finally:
        await database.close()


async def _running(application: Application, work: Callable[[Application], Awaitable[T]]) -> T:
    """With the handlers, and without any worker."""
    async with application.running(workers=()):
        try:
            return await work(application)
        except NotFoundError as error:
            raise ConfigurationError(f"{error}; see: cqrs dead-letters list") from error


async def _export(application: Application, consumer: str | None, key: str | None) -> None:
    async def write(database: Database) -> None:
        after: Letter | None = None
        while True:
            found = await database.read(
                partial(page, tables=database.tables, consumer=consumer, sequence=key, after=after)
            )
            for letter in found:
                typer.echo(json.dumps(json.loads(json_text(details(letter)))))
            if not found:
                return
            after = found[-1]

    await _with_database(application, write)


def _changed(letter: Letter, changes: list[str]) -> dict[str, str]:
    headers = dict(letter.headers)
    for change in changes:
        name, equals, value = change.partition("=")
        if not (name and equals):
            raise ConfigurationError(f"{change!r} changes no header; write name=value")
        headers.pop(name, None)
        if value:
            headers[name] = value
    return headers


def _find(connection: Connection, tables: Tables, identifier: UUID) -> Letter:
    try:
        return require(connection, tables, identifier)
    except NotFoundError:
        raise ConfigurationError(f"no dead letter has the id {identifier}; see: cqrs dead-letters list") from None
