"""What waits in the outbox, for people: to look at, to send now, to leave out, to put right.

A relay may be sending a message at the very moment in which it is changed here: then the broker has what it was before,
and the change finds nothing to change, or comes too late. To be sure, stop the relays first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any, TypeVar
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, Select, delete, func, select, update

from cqrs_fastapi.clock import Clock
from cqrs_fastapi.dead_letters.parking import RELAY, Letter, park
from cqrs_fastapi.errors import ConfigurationError, CqrsError, MalformedMessageError, MessageTooLargeError
from cqrs_fastapi.eventstore.records import DUE
from cqrs_fastapi.identity import IdFactory
from cqrs_fastapi.messages.headers import OURS, all_headers
from cqrs_fastapi.messages.json_codec import parse_json, render_json
from cqrs_fastapi.outbox import owner
from cqrs_fastapi.outbox.buckets import DELAYED
from cqrs_fastapi.outbox.outgoing import GIVEN, home_of
from cqrs_fastapi.outbox.owner import Owner
from cqrs_fastapi.outbox.routing import is_topic
from cqrs_fastapi.settings import Settings
from cqrs_fastapi.storage.database import Database
from cqrs_fastapi.storage.dialects import database_now
from cqrs_fastapi.storage.tables import Tables

T = TypeVar("T")

SKIPPED = "skipped"
"""The code of a dead letter that somebody has taken out of the outbox."""


class NotWaitingError(CqrsError):
    """No message with this id is in the outbox: it was sent, skipped, or never there."""

    code = "not_waiting"

    def __init__(self, message_id: UUID) -> None:
        self.message_id = message_id
        super().__init__(f"no message {message_id} waits in the outbox; it may have been sent meanwhile")


@dataclass(frozen=True, slots=True)
class Waiting:
    """A message of the outbox. `due_at` is None for one that waits for no time; `age` is by the database's clock.

    Personal fields of events are encrypted in the payload, as they are on their way.
    """

    id: UUID
    position: int
    type: str
    topic: str
    key: str | None
    attempts: int
    created_at: datetime
    age: timedelta
    due_at: datetime | None
    blocked: str | None
    """Why its key is closed; None for a key that is not."""
    headers: Mapping[str, str]
    payload: bytes
    tenant: str


@dataclass(frozen=True, slots=True)
class OutboxQueue:
    """Works on the database alone, while it is open. NotWaitingError from whatever finds no such message."""

    database: Database
    settings: Settings
    clock: Clock
    ids: IdFactory

    async def find(
        self, *, topic: str | None = None, key: str | None = None, older_than: timedelta | None = None, limit: int = 20
    ) -> list[Waiting]:
        """The first that wait, in the order of their positions."""
        return await self.database.read(partial(self._find, topic=topic, key=key, older_than=older_than, limit=limit))

    async def count(self, *, topic: str | None = None, key: str | None = None) -> int:
        """How many wait. It reads them all."""
        outbox = self.database.tables.outbox
        query = select(func.count()).select_from(outbox).where(*_filters(outbox, topic, key))
        return await self.database.read(lambda connection: connection.execute(query).scalar_one())

    async def get(self, message_id: UUID) -> Waiting:
        """One of them, with everything."""
        return await self.database.read(partial(self._get, message_id=message_id))

    async def retry(self, message_id: UUID) -> None:
        """Let it be sent at once: its time is over, and its attempts are not counted. A relay that holds its key back
        for some seconds after a failure still does. ConfigurationError if the key is closed behind a dead letter.
        """
        await self._change(message_id, self._retry)

    async def skip(self, message_id: UUID, reason: str) -> None:
        """Take it out, and keep it as a dead letter of the relay with the code `skipped`. Later messages of its key are
        sent without it.
        """
        await self._change(message_id, partial(self._skip, reason=reason))

    async def edit(
        self,
        message_id: UUID,
        *,
        topic: str | None = None,
        payload: bytes | None = None,
        headers: Mapping[str, str | None] | None = None,
    ) -> None:
        """Change it before it is sent; its id, key and place stay. A header of None is taken away.

        MalformedMessageError or MessageTooLargeError for what could not be sent.
        """
        await self._change(message_id, partial(self._edit, topic=topic, payload=payload, headers=headers or {}))

    async def owner(self) -> Owner:
        """Who sends it."""
        return await self.database.read(partial(owner.owner_of, tables=self.database.tables))

    async def give_to_debezium(self) -> None:
        """See `cqrs_fastapi.outbox.owner`."""
        await self.database.write(partial(owner.give_to_debezium, tables=self.database.tables))

    async def give_to_relays(self) -> int:
        """The same; how many messages the relays will send, of which Debezium may have sent some."""
        return await self.database.write(partial(owner.give_to_relays, tables=self.database.tables))

    async def clean(self, older_than: timedelta, *, batch: int = 10_000) -> int:
        """Delete what is older, where the outbox is Debezium's, which reads the log and deletes nothing; how many.
        ConfigurationError where relays send: they delete what they have sent.
        """
        if await self.owner() is not Owner.DEBEZIUM:
            raise ConfigurationError("relays delete what they have sent; only an outbox of Debezium's is cleaned")
        total = 0
        while count := await self.database.write(partial(self._clean, older_than=older_than, batch=batch)):
            total += count
        return total

    async def _change(self, message_id: UUID, work: Callable[[Connection, Waiting], T]) -> T:
        def change(connection: Connection) -> T:
            if owner.owner_of(connection, self.database.tables) is Owner.DEBEZIUM:
                raise ConfigurationError(
                    "the outbox is Debezium's, which has read this message already; leave it alone"
                )
            return work(connection, self._get(connection, message_id, lock=True))

        return await self.database.write(change)

    def _find(
        self, connection: Connection, topic: str | None, key: str | None, older_than: timedelta | None, limit: int
    ) -> list[Waiting]:
        outbox = self.database.tables.outbox
        query = _query(connection, self.database.tables).where(*_filters(outbox, topic, key))
        if older_than is not None:
            query = query.where(outbox.c.created_at < database_now(connection, after=-older_than))
        rows = connection.execute(query.order_by(outbox.c.position).limit(limit)).mappings()
        return [_waiting(row) for row in rows]

    def _get(self, connection: Connection, message_id: UUID, *, lock: bool = False) -> Waiting:
        outbox = self.database.tables.outbox
        query = _query(connection, self.database.tables).where(outbox.c.id == message_id)
        row = connection.execute(query.with_for_update(of=outbox) if lock else query).mappings().first()
        if row is None:
            raise NotWaitingError(message_id)
        return _waiting(row)

    def _retry(self, connection: Connection, found: Waiting) -> None:
        if found.blocked is not None:
            raise ConfigurationError(
                f"the key {found.key!r} of {found.topic!r} is closed ({found.blocked}); replay or discard the dead "
                "letter before it first, or its messages would be out of order"
            )
        home = home_of(found.key, found.id)
        outbox = self.database.tables.outbox
        bucket = DELAYED - home
        is_delayed = (outbox.c.id == found.id) & (outbox.c.bucket == bucket)
        connection.execute(update(outbox).where(outbox.c.id == found.id).values(available_at=DUE, attempts=0))
        connection.execute(update(outbox).where(is_delayed).values(bucket=home))

    def _skip(self, connection: Connection, found: Waiting, reason: str) -> None:
        tables = self.database.tables
        letter = Letter(
            id=self.ids(),
            consumer=RELAY,
            message_id=found.id,
            topic=found.topic,
            partition=-1,
            offset=found.position,
            key=None if found.key is None else found.key.encode(),
            headers=all_headers(found.id, found.type, found.tenant, found.headers),
            payload=found.payload,
            code=SKIPPED,
            error=reason,
            traceback="",
            attempts=found.attempts,
            parked_at=self.clock.now(),
            tenant=found.tenant,
        )
        park(connection, tables, letter)
        connection.execute(delete(tables.outbox).where(tables.outbox.c.id == found.id))

    def _edit(
        self,
        connection: Connection,
        found: Waiting,
        topic: str | None,
        payload: bytes | None,
        headers: Mapping[str, str | None],
    ) -> None:
        values: dict[str, Any] = {}
        if topic is not None:
            if not is_topic(topic):
                raise MalformedMessageError(f"{topic!r} is no topic name; use letters, digits, '.', '_' or '-'")
            values["topic"] = topic
        if payload is not None:
            limit = self.settings.max_event_bytes
            if len(payload) > limit:
                raise MessageTooLargeError(what="the payload", size=len(payload), limit=limit)
            values["payload"] = payload
        if headers:
            if reserved := sorted(set(headers) & (OURS - GIVEN)):
                raise MalformedMessageError(f"the header {reserved[0]!r} is set by the library, and stays as it is")
            merged = {**found.headers, **headers}
            values["headers"] = render_json({name: value for name, value in merged.items() if value is not None})
        if values:
            outbox = self.database.tables.outbox
            connection.execute(update(outbox).where(outbox.c.id == found.id).values(**values))

    def _clean(self, connection: Connection, older_than: timedelta, batch: int) -> int:
        outbox = self.database.tables.outbox
        old = outbox.c.created_at < database_now(connection, after=-older_than)
        chosen = select(outbox.c.position).where(old).order_by(outbox.c.position).limit(batch)
        return connection.execute(delete(outbox).where(outbox.c.position.in_(chosen))).rowcount


def _filters(outbox: Any, topic: str | None, key: str | None) -> list[ColumnElement[bool]]:
    wanted: list[ColumnElement[bool]] = []
    if topic is not None:
        wanted.append(outbox.c.topic == topic)
    if key is not None:
        wanted.append(outbox.c.key == key)
    return wanted


def _query(connection: Connection, tables: Tables) -> Select[Any]:
    outbox, blocked = tables.outbox, tables.blocked_keys
    name = outbox.c.topic + "/" + outbox.c.key
    reason = select(blocked.c.reason).where(blocked.c.owner == RELAY, blocked.c.key == name).limit(1).scalar_subquery()
    return select(outbox, reason.label("blocked"), database_now(connection).label("now"))


def _waiting(row: Mapping[Any, Any]) -> Waiting:
    return Waiting(
        id=row["id"],
        position=row["position"],
        type=row["type"],
        topic=row["topic"],
        key=row["key"],
        attempts=row["attempts"],
        created_at=row["created_at"],
        age=row["now"] - row["created_at"],
        due_at=row["available_at"] if row["bucket"] <= DELAYED else None,
        blocked=row["blocked"],
        headers=parse_json(row["headers"]),
        payload=row["payload"],
        tenant=row["tenant"],
    )
