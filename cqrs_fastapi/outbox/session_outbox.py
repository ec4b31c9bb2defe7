"""The outbox of a session that belongs to the application: rows are kept in memory and inserted just before its commit.

1. `add` begins the session's transaction, as `session.add` does, and keeps the row with the innermost savepoint.
2. A savepoint that is rolled back, or left without a release, drops its rows; a released one gives them to its parent.
3. Before the outermost commit the session is flushed, so that all locks of its own rows are taken, and then the rows
   are appended: locks of keys, sorted, then positions. After it the relay is woken.
4. Whatever ends the transaction otherwise drops all rows. A commit whose outcome is unknown has had its rows: whoever
   repeats the transaction adds them again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from sqlalchemy import Connection, event
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session, SessionTransaction

from cqrs_fastapi.clock import Clock
from cqrs_fastapi.errors import ConfigurationError, MessageTooLargeError
from cqrs_fastapi.eventstore.append import append
from cqrs_fastapi.eventstore.records import AppendUnit
from cqrs_fastapi.identity import IdFactory
from cqrs_fastapi.messages.events import AnyEvent
from cqrs_fastapi.messages.metadata import Metadata, holder
from cqrs_fastapi.outbox.outbox import Desk, Outbox
from cqrs_fastapi.personal_data.events import NO_KEYS, PersonalEvents
from cqrs_fastapi.personal_data.key_cache import SubjectKey
from cqrs_fastapi.personal_data.key_ring import Within
from cqrs_fastapi.personal_data.subject_keys import hold
from cqrs_fastapi.storage.database import Database
from cqrs_fastapi.storage.driver_errors import before_commit

_WAKING = "cqrs_wake_after_commit"
_DRIVERS = frozenset({"asyncpg", "aiosqlite"})


@dataclass(frozen=True, slots=True)
class Office:
    """What the outboxes of an application's own sessions share. `max_rows` is the limit for one transaction."""

    desk: Desk
    database: Database
    clock: Clock
    ids: IdFactory
    personal: PersonalEvents | None
    max_rows: int
    wake: Callable[[], None]

    def outbox(self, session: AsyncSession) -> SessionOutbox:
        """The one outbox of this session."""
        found: SessionOutbox | None = session.info.get(self._name)
        if found is None or found.session is not session.sync_session:
            found = SessionOutbox(self, session)
            session.info[self._name] = found
        return found

    @property
    def _name(self) -> str:
        return f"cqrs_outbox_{id(self)}"


class SessionOutbox(Outbox):
    """See `Outbox`, and this module."""

    __slots__ = ("_key_ids", "_office", "_released", "_rows", "_within", "_written", "session")

    def __init__(self, office: Office, session: AsyncSession) -> None:
        super().__init__(office.desk)
        self._office = office
        self.session: Session = session.sync_session
        self._within = Within(partial(office.database.run, session), is_ours=False)
        self._rows: list[tuple[SessionTransaction, Mapping[str, Any]]] = []
        self._key_ids: set[Any] = set()
        self._released: SessionTransaction | None = None
        self._written = False
        event.listen(self.session, "before_commit", self._before_commit)
        event.listen(self.session, "after_commit", self._after_commit)
        event.listen(self.session, "after_transaction_end", self._after_transaction_end)

    def _next_metadata(self) -> Metadata:
        current, message_id, now = holder(), self._office.ids(), self._office.clock.now()
        if current is None:
            return Metadata(message_id=message_id, correlation_id=str(message_id), time=now)
        return current.next(message_id, now)

    async def _keys_for(self, event: AnyEvent, tenant: str) -> Mapping[str, SubjectKey]:
        personal = self._office.personal
        if personal is None:
            return NO_KEYS
        self._transaction()
        keys = await personal.keys_of(tenant, [event], self._within)
        self._key_ids.update(one.key_id for one in keys.values() if one.key is not None)
        return keys

    def _put(self, row: Mapping[str, Any]) -> None:
        if len(self._rows) >= self._office.max_rows:
            limit = self._office.max_rows
            raise MessageTooLargeError(what="the transaction", size=limit + 1, limit=limit, unit="messages")
        self._rows.append((self._transaction(), row))

    def _transaction(self) -> SessionTransaction:
        """The innermost; begun if there is none, which asks the database nothing."""
        return self.session.get_nested_transaction() or self.session.get_transaction() or self.session.begin()

    def _before_commit(self, session: Session) -> None:
        if session.in_nested_transaction() or not self._rows:
            return
        session.flush()
        connection = session.connection()
        if connection.dialect.driver not in _DRIVERS:
            raise ConfigurationError(
                f"the session uses the driver {connection.dialect.driver!r}, by which the outbox cannot be written; "
                "make its engine of a URL with postgresql+asyncpg or sqlite+aiosqlite, or take cqrs.database.session()"
            )
        with before_commit():
            self._append(connection)
        self._rows.clear()
        self._written = True

    def _append(self, connection: Connection) -> None:
        tables = self._office.database.tables
        if self._key_ids:
            hold(connection, tables, frozenset(self._key_ids))
        rows = [row for _, row in self._rows]
        append(connection, tables, AppendUnit("", self._office.clock.now(), outbox=rows))

    def _after_commit(self, session: Session) -> None:
        nested = session.get_nested_transaction()
        if nested is not None:
            self._released = nested
        elif self._written:
            self._office.wake()

    def _after_transaction_end(self, _: Session, transaction: SessionTransaction) -> None:
        parent = transaction.parent
        if parent is None:
            self._rows.clear()
            self._key_ids.clear()
            self._written = False
        elif transaction is self._released:
            self._rows = [(parent if one is transaction else one, row) for one, row in self._rows]
        elif transaction.nested:
            self._rows = [(one, row) for one, row in self._rows if one is not transaction]
        self._released = None


def wake_after_commit(session: Session, wake: Callable[[], None]) -> None:
    """Call `wake` once the session's present transaction is committed by whoever owns it; not after a rollback."""
    waiting: set[Callable[[], None]] | None = session.info.get(_WAKING)
    if waiting is None:
        waiting = session.info[_WAKING] = set()
        event.listen(session, "after_commit", _wake)
        event.listen(session, "after_transaction_end", _forget_waking)
    waiting.add(wake)


def _wake(session: Session) -> None:
    if not session.in_nested_transaction():
        for wake in session.info[_WAKING]:
            wake()


def _forget_waking(session: Session, transaction: SessionTransaction) -> None:
    if transaction.parent is None:
        session.info[_WAKING].clear()
