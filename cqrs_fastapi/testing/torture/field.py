"""What the writers of one process share, and how an attempt to write gets into the ledger."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import TypeAlias
from uuid import UUID

from asyncpg.exceptions import (  # type: ignore[import-untyped]  # asyncpg ships no types
    InterfaceError,
    InternalClientError,
    PostgresError,
)
from sqlalchemy.exc import DBAPIError, IntegrityError

from cqrs_fastapi.clock import Clock
from cqrs_fastapi.errors import ConcurrencyError, UnavailableError, UnknownOutcomeError
from cqrs_fastapi.eventstore.appender import Appender
from cqrs_fastapi.eventstore.expected_version import ANY, checked
from cqrs_fastapi.eventstore.records import AppendUnit, Condition, NewEvent, StreamAppend
from cqrs_fastapi.storage.database import Database
from cqrs_fastapi.testing.torture.ledger import Ledger

HOT = 16
"""Streams that all writers share."""
COLD = 400
CATEGORY = "torture"


DRIVER_ERRORS = (DBAPIError, PostgresError, InterfaceError, InternalClientError)
"""Of SQLAlchemy, or bare where a back end died in the moment in which it was connected to."""


class RolledBackError(Exception):
    """A writer gave up its own transaction, as it was meant to."""

    def __init__(self) -> None:
        super().__init__("this transaction of the torture was rolled back on purpose")


@dataclass(slots=True)
class Field:
    """`slow` is how long a transaction may stay open after it has appended, in seconds."""

    ledger: Ledger
    random: Random
    clock: Clock
    databases: tuple[Database, ...]
    appenders: tuple[Appender, ...]
    name: str
    slow: float
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    versions: dict[str, int] = field(default_factory=dict)
    """Of streams, as far as somebody here has heard; an append at such a version may well conflict."""
    course: int = 0
    """The tag that decisions fill at present."""

    @property
    def is_postgres(self) -> bool:
        return self.databases[0].dialect == "postgresql"

    async def pause(self, seconds: float) -> None:
        """Sleep for a random time up to so long."""
        await asyncio.sleep(self.random.uniform(0, seconds))

    def learn(self, versions: Mapping[str, int]) -> None:
        for stream, version in versions.items():
            self.versions[stream] = max(version, self.versions.get(stream, 0))


@dataclass(frozen=True, slots=True)
class Hand:
    """One writer: its place in the field, and the pool that it uses."""

    field: Field
    number: int
    kind: str

    @property
    def database(self) -> Database:
        return self.field.databases[self.number % len(self.field.databases)]

    @property
    def appender(self) -> Appender:
        return self.field.appenders[self.number % len(self.field.appenders)]

    def unit(
        self,
        *,
        streams: int = 1,
        exact: bool = False,
        private: bool = False,
        tags: tuple[str, ...] = (),
        condition: Condition | None = None,
    ) -> AppendUnit:
        """One to four events for each of so many streams; at the last known version if `exact`."""
        names = sorted({self._stream(private=private) for _ in range(streams)})
        appends = [self._append(name, exact=exact, tags=tags) for name in names]
        return AppendUnit("", self.field.clock.now(), appends, condition=condition)

    def _append(self, stream: str, *, exact: bool, tags: tuple[str, ...]) -> StreamAppend:
        count = 1 if tags else self.field.random.choice((1, 1, 1, 2, 4))
        kind = f"torture.{self.kind}"
        events = tuple(
            NewEvent(one, kind, 1, '{"n":1}', "{}", None, tags, is_tagged=bool(tags))
            for one in self.field.ledger.new_ids(count)
        )
        expected = checked(self.field.versions.get(stream, 0)) if exact else ANY
        return StreamAppend(stream, CATEGORY, expected, events)

    def _stream(self, *, private: bool) -> str:
        random = self.field.random
        if private:
            return f"own-{self.kind}-{self.number}-{random.randrange(4)}"
        return f"hot-{random.randrange(HOT)}" if random.random() < 0.3 else f"cold-{random.randrange(COLD)}"  # noqa: PLR2004  # some of them


Write: TypeAlias = Callable[[AppendUnit], Awaitable[Mapping[str, int]]]


async def attempt(hand: Hand, unit: AppendUnit, write: Write) -> None:
    """Write a unit and enter what was said of it. An outcome that is unknown is entered nowhere: the table tells it.

    A conflict, a rollback, a deadlock and UnavailableError all promise that nothing was written.
    """
    field, ids = hand.field, ids_of(unit)
    try:
        versions = await write(unit)
    except UnknownOutcomeError:
        field.ledger.outcomes["unknown"] += 1
    except ConcurrencyError as error:
        field.learn({error.stream: error.actual})
        field.ledger.refuse(ids)
        field.ledger.outcomes["conflict"] += 1
    except (RolledBackError, UnavailableError, *DRIVER_ERRORS) as error:
        if _is_certain(error):
            field.ledger.refuse(ids)
        field.ledger.outcomes[_reason(error)] += 1
    else:
        field.ledger.acknowledge(ids, asyncio.get_running_loop().time())
        field.ledger.outcomes["acknowledged"] += 1
        field.learn(versions)


def ids_of(unit: AppendUnit) -> tuple[UUID, ...]:
    return tuple(event.message_id for one in unit.appends for event in one.events)


def _is_certain(error: Exception) -> bool:
    """An error of the driver's own, without a word of the server, says nothing about what happened."""
    if isinstance(error, RolledBackError | UnavailableError | IntegrityError):
        return True
    state = _state_of(error)
    return state is not None and not state.startswith("08")


def _state_of(error: Exception) -> str | None:
    """PostgreSQL's name of the error."""
    return getattr(getattr(error, "orig", error), "sqlstate", None)


def _reason(error: Exception) -> str:
    if isinstance(error, RolledBackError):
        return "rolled back"
    if isinstance(error, UnavailableError):
        return "unavailable"
    state = _state_of(error)
    return "deadlock" if state == "40P01" else f"{type(getattr(error, 'orig', error)).__name__} {state or ''}".strip()
