"""What was parked, for people who decide what becomes of it."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any, TypeVar
from uuid import UUID

import typer
from pydantic_core import to_json
from sqlalchemy import Connection, select

from cqrs_fastapi.cli.target import Target, load
from cqrs_fastapi.dead_letters.parking import Letter, count, newest
from cqrs_fastapi.errors import ConfigurationError
from cqrs_fastapi.messages.json_codec import parse_json
from cqrs_fastapi.runtime.application import Application
from cqrs_fastapi.storage.tables import Tables

T = TypeVar("T")

Limit = Annotated[int, typer.Option(min=1, max=10_000, help="How many, newest first.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON value, for programs.")]
Show = Annotated[
    UUID | None, typer.Option(metavar="ID", help="Everything about one, with its payload.", show_default=False)
]


def dead_letters(target: Target, limit: Limit = 20, as_json: AsJson = False, show: Show = None) -> None:
    """List the messages that could not be handled or sent, newest first. Nothing is changed."""
    application = load(target)
    if show is not None:
        letter = asyncio.run(_read(application, lambda connection, tables: _find(connection, tables, show)))
        typer.echo(_json(_details(letter)) if as_json else _told(letter))
        return
    letters, total = asyncio.run(
        _read(application, lambda connection, tables: (newest(connection, tables, limit), count(connection, tables)))
    )
    typer.echo(_json([_summary(letter) for letter in letters]) if as_json else _listed(letters, total))


async def _read(application: Application, work: Callable[[Connection, Tables], T]) -> T:
    """Ask the database alone: neither broker nor handlers are needed."""
    database = application.database
    await database.open()
    try:
        await database.check_schema()
        return await database.read(lambda connection: work(connection, database.tables))
    finally:
        await database.close()


def _find(connection: Connection, tables: Tables, identifier: UUID) -> Letter:
    letters = tables.dead_letters
    row = connection.execute(select(letters).where(letters.c.id == identifier)).mappings().first()
    if row is None:
        raise ConfigurationError(f"no dead letter has the id {identifier}; list them without --show")
    values: dict[str, Any] = {str(name): value for name, value in row.items()}
    return Letter(**{**values, "headers": parse_json(values["headers"])})


def _summary(letter: Letter) -> dict[str, object]:
    return {
        "id": letter.id,
        "parked_at": letter.parked_at,
        "consumer": letter.consumer,
        "message_id": letter.message_id,
        "topic": letter.topic,
        "partition": letter.partition,
        "offset": letter.offset,
        "code": letter.code,
        "error": letter.error,
        "attempts": letter.attempts,
        "bytes": len(letter.payload),
        "tenant": letter.tenant,
    }


def _details(letter: Letter) -> dict[str, object]:
    return {
        **_summary(letter),
        "headers": dict(letter.headers),
        "key_base64": None if letter.key is None else base64.b64encode(letter.key).decode(),
        "payload_base64": base64.b64encode(letter.payload).decode(),
        "traceback": letter.traceback,
    }


def _listed(letters: list[Letter], total: int) -> str:
    if not letters:
        return "no dead letters"
    blocks = [
        f"{letter.id}  {_moment(letter.parked_at)}  {_plain(letter.consumer)}\n"
        f"    {_plain(letter.topic)}/{letter.partition}/{letter.offset}, {len(letter.payload)} bytes, "
        f"{letter.attempts} attempts\n"
        f"    {_plain(letter.code)}: {_plain(letter.error)}"
        for letter in letters
    ]
    return "\n".join([*blocks, f"{len(letters)} of {total} dead letters"])


def _told(letter: Letter) -> str:
    lines = [f"{name}: {_plain(_value(value))}" for name, value in _summary(letter).items()]
    lines += ["headers:", *(f"  {_plain(name)}: {_plain(value)}" for name, value in letter.headers.items())]
    if letter.key is not None:
        lines.append(f"key: {_bytes(letter.key)}")
    lines += ["payload:", _bytes(letter.payload)]
    if letter.traceback:
        lines += ["traceback:", *(_plain(line) for line in letter.traceback.splitlines())]
    return "\n".join(lines)


def _value(value: object) -> str:
    return _moment(value) if isinstance(value, datetime) else str(value)


def _moment(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds")


def _bytes(data: bytes) -> str:
    """Text as it is, anything else in base64."""
    try:
        return "\n".join(_plain(line) for line in data.decode().split("\n"))
    except UnicodeDecodeError:
        return f"base64 {base64.b64encode(data).decode()}"


def _plain(text: str) -> str:
    """Strangers wrote it: what a terminal would obey is shown as an escape."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def _json(value: object) -> str:
    return to_json(value, indent=2).decode()
