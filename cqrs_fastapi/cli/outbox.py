"""What waits in the outbox, from the shell: to look at, to send now, to leave out, to put right."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Annotated, TypeVar
from uuid import UUID

import typer
from pydantic import TypeAdapter, ValidationError
from pydantic_core import to_json

from cqrs_fastapi.cli.printing import bytes_told, moment_told, plain
from cqrs_fastapi.cli.target import Target, load
from cqrs_fastapi.errors import ConfigurationError
from cqrs_fastapi.outbox.owner import Owner
from cqrs_fastapi.outbox.queue import OutboxQueue, Waiting

T = TypeVar("T")

Id = Annotated[UUID, typer.Argument(metavar="ID", help="The message's id, as `list` shows it.")]
Topic = Annotated[str | None, typer.Option(help="Only of this topic, without the prefix.", show_default=False)]
Key = Annotated[str | None, typer.Option(help="Only with this key.", show_default=False)]
Age = Annotated[str | None, typer.Option(metavar="DURATION", help="Only older: PT5M, P1D.", show_default=False)]
Limit = Annotated[int, typer.Option(min=1, max=10_000, help="How many, oldest first.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON value, for programs.")]
Reason = Annotated[str, typer.Option(help="Why, for whoever reads the dead letter.")]
NewTopic = Annotated[str | None, typer.Option("--topic", help="Send it there.", show_default=False)]
Payload = Annotated[
    Path | None, typer.Option(help="A file with the new payload.", exists=True, dir_okay=False, show_default=False)
]
Header = Annotated[
    list[str] | None, typer.Option(metavar="NAME=VALUE", help="Set a header; NAME= takes it away.", show_default=False)
]
NewOwner = Annotated[Owner | None, typer.Argument(help="Who shall send it; left out, it is only told.")]
OlderThan = Annotated[str, typer.Option(metavar="DURATION", help="What is older goes: PT1H, P1D.")]

app = typer.Typer(no_args_is_help=True, help="What waits to be sent. The database alone is asked.")


@app.command("list")
def list_waiting(  # noqa: PLR0917  # options of a command line
    target: Target,
    topic: Topic = None,
    key: Key = None,
    older_than: Age = None,
    limit: Limit = 20,
    as_json: AsJson = False,
) -> None:
    """The messages that wait, oldest first."""
    age = None if older_than is None else _duration(older_than)

    async def read(queue: OutboxQueue) -> tuple[list[Waiting], int]:
        found = await queue.find(topic=topic, key=key, older_than=age, limit=limit)
        return found, await queue.count(topic=topic, key=key)

    found, total = _on(target, read)
    typer.echo(_json([_summary(one) for one in found]) if as_json else _listed(found, total))


@app.command()
def show(target: Target, message_id: Id, as_json: AsJson = False) -> None:
    """Everything about one. Personal fields of events are encrypted in it, as they are on their way."""
    found = _on(target, lambda queue: queue.get(message_id))
    typer.echo(_json(_details(found)) if as_json else _told(found))


@app.command()
def retry(target: Target, message_id: Id) -> None:
    """Let it be sent at once, though it was delayed."""
    _on(target, lambda queue: queue.retry(message_id))
    typer.echo(f"{message_id} is sent as soon as a relay looks")


@app.command()
def skip(target: Target, message_id: Id, reason: Reason) -> None:
    """Take it out, and keep it as a dead letter. Later messages of its key are sent without it."""
    _on(target, lambda queue: queue.skip(message_id, reason))
    typer.echo(f"{message_id} is a dead letter now")


@app.command()
def edit(
    target: Target, message_id: Id, topic: NewTopic = None, payload: Payload = None, header: Header = None
) -> None:
    """Change it before it is sent. Its id, its key and its place stay."""
    headers = dict(_header(one) for one in header or ())
    if topic is None and payload is None and not headers:
        raise ConfigurationError("nothing is to be changed; give --topic, --payload or --header")
    content = None if payload is None else payload.read_bytes()
    _on(target, lambda queue: queue.edit(message_id, topic=topic, payload=content, headers=headers))
    typer.echo(f"{message_id} is changed")


@app.command()
def owner(target: Target, new: NewOwner = None) -> None:
    """Say who sends what is in the outbox, relay or debezium; or give it to the other one."""
    if new is None:
        typer.echo(_on(target, lambda queue: queue.owner()).value)
    elif new is Owner.DEBEZIUM:
        _on(target, lambda queue: queue.give_to_debezium())
        typer.echo("the outbox is Debezium's; relays refuse to start")
    else:
        left = _on(target, lambda queue: queue.give_to_relays())
        typer.echo(f"the outbox is the relays'; they will send {left} messages that are there")


@app.command()
def clean(target: Target, older_than: OlderThan = "P1D") -> None:
    """Delete what is older, in an outbox of Debezium's, which deletes nothing itself."""
    age = _duration(older_than)
    typer.echo(f"{_on(target, lambda queue: queue.clean(age))} messages deleted")


def _on(target: str, work: Callable[[OutboxQueue], Awaitable[T]]) -> T:
    application = load(target)

    async def run() -> T:
        database = application.database
        await database.open()
        try:
            await database.check_schema()
            return await work(application.outbox_queue)
        finally:
            await database.close()

    return asyncio.run(run())


def _duration(text: str) -> timedelta:
    try:
        return TypeAdapter(timedelta).validate_python(text)
    except ValidationError:
        raise ConfigurationError(f"{text!r} is no duration; write PT5M for five minutes, P1D for a day") from None


def _header(text: str) -> tuple[str, str | None]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise ConfigurationError(f"{text!r} is no header; write NAME=VALUE, or NAME= to take it away")
    return name, value or None


def _summary(one: Waiting) -> dict[str, object]:
    return {
        "id": one.id,
        "position": one.position,
        "topic": one.topic,
        "key": one.key,
        "type": one.type,
        "age_seconds": round(one.age.total_seconds(), 3),
        "attempts": one.attempts,
        "due_at": one.due_at,
        "blocked": one.blocked,
        "bytes": len(one.payload),
        "tenant": one.tenant,
    }


def _details(one: Waiting) -> dict[str, object]:
    return {**_summary(one), "headers": dict(one.headers), "payload": bytes_told(one.payload)}


def _listed(found: list[Waiting], total: int) -> str:
    blocks = [
        f"{one.id}  {plain(one.topic)}  key {plain(one.key) if one.key is not None else '-'}\n"
        f"    {plain(one.type) or 'bytes'}, {len(one.payload)} bytes, {one.age.total_seconds():.0f} s old, "
        f"{one.attempts} attempts{_state(one)}"
        for one in found
    ]
    return "\n".join([*blocks, f"{len(found)} of {total} messages"])


def _state(one: Waiting) -> str:
    due = f", due at {moment_told(one.due_at)}" if one.due_at is not None else ""
    return due + (f", key closed: {plain(one.blocked)}" if one.blocked is not None else "")


def _told(one: Waiting) -> str:
    lines = [f"{name}: {plain(str(value))}" for name, value in _summary(one).items()]
    lines += ["headers:", *(f"  {plain(name)}: {plain(value)}" for name, value in one.headers.items())]
    return "\n".join([*lines, "payload:", bytes_told(one.payload)])


def _json(value: object) -> str:
    return to_json(value, indent=2).decode()
