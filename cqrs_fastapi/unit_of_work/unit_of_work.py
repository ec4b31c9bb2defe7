"""One transaction per message: what a handler changed, recorded and published is committed together or not at all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncSession

from cqrs_fastapi.domain.aggregate import Aggregate
from cqrs_fastapi.errors import ReadOnlyError
from cqrs_fastapi.eventstore.append import append
from cqrs_fastapi.eventstore.appender import FEW, Appender
from cqrs_fastapi.eventstore.expected_version import NO_STREAM, ExpectedVersion
from cqrs_fastapi.eventstore.records import AppendUnit, Condition, IdempotencyRecord, StoredEvent
from cqrs_fastapi.eventstore.repeats import record_of
from cqrs_fastapi.eventstore.store import Reveal
from cqrs_fastapi.mediation.contention import give_way
from cqrs_fastapi.mediation.idempotency import Attempt
from cqrs_fastapi.mediation.scope import Scope
from cqrs_fastapi.messages.events import AnyEvent, definition_of
from cqrs_fastapi.messages.metadata import Metadata, holder
from cqrs_fastapi.messages.registry import EventRegistry
from cqrs_fastapi.outbox.routing import Routing
from cqrs_fastapi.personal_data.events import PersonalEvents
from cqrs_fastapi.personal_data.key_ring import Within
from cqrs_fastapi.personal_data.subject_keys import ForgottenMeanwhileError
from cqrs_fastapi.storage.database import Database
from cqrs_fastapi.storage.driver_errors import before_commit, commit
from cqrs_fastapi.unit_of_work.disclosures import Disclosures
from cqrs_fastapi.unit_of_work.drafts import Draft, Limits, Prepared, prepare_rows

if TYPE_CHECKING:
    from cqrs_fastapi.mediation.kernel import Kernel

T = TypeVar("T")
Work = Callable[[Connection], None]


@dataclass(frozen=True, slots=True)
class Services:
    """What every unit of work of an application shares. `wake` tells the relay that there is something to send;
    `personal` is None where nothing is encrypted.
    """

    database: Database
    appender: Appender
    registry: EventRegistry
    routing: Routing
    limits: Limits
    wake: Callable[[], None]
    personal: PersonalEvents | None = None


class UnitOfWork:
    """Begins nothing until it must: a unit that only reads by repositories opens no transaction, and one that only
    records events is a single short transaction at its end.

    Ask for it as a parameter to `publish` events that belong to no aggregate.
    """

    __slots__ = (
        "_aggregates",
        "_appends",
        "_condition",
        "_disclosed",
        "_drafts",
        "_joined",
        "_kernel",
        "_published",
        "_read_only",
        "_record",
        "_seen",
        "_services",
        "_session",
        "_session_is_ours",
    )

    def __init__(self, services: Services, scope: Scope, session: AsyncSession | None = None) -> None:
        self._services = services
        # Not the scope, which holds this: what is in a cycle waits for the garbage collector.
        self._kernel = scope.kernel
        self._read_only = scope.read_only
        self._session = session
        self._session_is_ours = session is None
        self._aggregates: dict[str, Aggregate] = {}
        self._seen: dict[str, int] = {}
        self._published: list[AnyEvent] = []
        self._appends: list[tuple[str, Sequence[AnyEvent], ExpectedVersion]] = []
        self._drafts: list[Draft] = []
        self._joined: list[Work] = []
        self._record: IdempotencyRecord | None = None
        self._condition: Condition | None = None
        self._disclosed = Disclosures(services.personal)

    @property
    def tenant(self) -> str:
        return _current_metadata(self._kernel).tenant or ""

    @property
    def session(self) -> AsyncSession:
        """The session of this unit. From the first use on, everything of the unit happens in its transaction."""
        if self._session is None:
            self._session = self._services.database.session(read_only=self._read_only)
        return self._session

    def publish(self, event: AnyEvent, /) -> None:
        """Make an event known with the commit: by its topic if it has one, else by a stream of its own."""
        self._services.registry.of(event)
        self._published.append(event)

    def append(
        self, stream: str, events: Sequence[AnyEvent], expected: ExpectedVersion, condition: Condition | None
    ) -> None:
        """Append to a stream with the commit, on the condition of what the unit's one decision has read."""
        if condition is not None and self._condition not in (None, condition):
            raise ValueError("a unit of work has one condition: read all that it decides on by one call of decide()")
        self._condition = self._condition or condition
        self._appends.append((stream, tuple(events), expected))

    def track(self, aggregate: Aggregate, /) -> None:
        """Store what the aggregate records, with the commit."""
        known = self._aggregates.setdefault(aggregate.stream, aggregate)
        if known is not aggregate:
            raise ValueError(f"{aggregate.stream} is already part of this unit of work; change the one that was loaded")

    def tracked(self, stream: str, /) -> Aggregate | None:
        return self._aggregates.get(stream)

    def join(self, work: Work, /) -> None:
        """Run `work` in the commit's transaction, before the events are appended; its error rolls everything back."""
        self._joined.append(work)

    def remember(self, attempt: Attempt, response: str, /) -> None:
        """Write with the commit what the attempt is answered with; the commit raises RepeatedError if another was."""
        self._record = record_of(attempt, response)

    async def read(self, work: Callable[[Connection], T], /) -> T:
        """Run a reading `work`: in the session's transaction if there is one, else on its own."""
        if self._session is not None:
            return await self._services.database.run(self._session, work)
        return await self._services.database.read(work)

    async def read_few(self, work: Callable[[Connection], T], /) -> T:
        """As `read`, for one statement that finds at most a few hundred rows."""
        if self._session is not None:
            return await self._services.database.run(self._session, work)
        return await self._services.database.read_few(work)

    @property
    def revealing(self) -> Reveal | None:
        """Gives events their personal values, or placeholders where the subject was forgotten; None where nothing is
        encrypted. If the unit writes tables of its own it can then be committed only while these subjects are known.
        """
        return None if self._services.personal is None else self._reveal

    async def prepare(self, scope: Scope) -> None:
        """Draft what was recorded and run in-transaction handlers on it, until nothing new appears."""
        pipelines = self._kernel.pipelines
        while new := self._new_drafts():
            self._drafts.extend(new)
            for draft in new:
                await pipelines.react(scope, draft.event, draft.metadata)
        if self._services.personal is not None:
            await self._find_keys()

    async def commit(self) -> None:
        """One transaction: what was joined, the session's changes, events and outbox rows. Returns when it is durable.

        Raises ConcurrencyError, UnavailableError (nothing was written) or UnknownOutcomeError.
        """
        services = self._services
        prepared = prepare_rows(
            self._drafts, services.registry, services.routing, services.limits, self._disclosed.keys
        )
        give_way(one.stream for one in prepared.appends)
        try:
            await self._commit(prepared)
        except ForgottenMeanwhileError as error:
            self._disclosed.forget(error.key_ids)
            raise
        if prepared.sends:
            services.wake()

    async def _commit(self, prepared: Prepared) -> None:
        if self._session is not None and self._read_only:
            await self._session.close()
            return
        if self._disclosed and (self._session is not None or self._joined):
            self.join(self._disclosed.check(self._services.database.tables))
        if self._session is not None:
            await self._commit_session(self._session, prepared)
        elif prepared or self._joined or self._record:
            await self._write(prepared)

    async def rollback(self) -> None:
        """Leave nothing behind. A session that was handed in stays its owner's to end."""
        if self._session is not None and self._session_is_ours:
            await self._session.close()

    async def _commit_session(self, session: AsyncSession, prepared: Prepared) -> None:
        work = self._work(self._unit(prepared)) if prepared or self._joined or self._record else None
        if self._session_is_ours:
            await commit(session, work)
        else:
            await session.flush()
            if work is not None:
                await self._services.database.run(session, work)

    async def _find_keys(self) -> None:
        """What the drafts are to be encrypted with. The session is flushed first: of two units that wait for each
        other's rows and keys neither would ever go on.
        """
        events = self._disclosed.of(draft.event for draft in self._drafts)
        if not events:
            return
        if self._session is not None:
            with before_commit():
                await self._session.flush()
        await self._disclosed.find_keys(self.tenant, events, self._within())

    async def _reveal(self, stored: Sequence[StoredEvent]) -> Sequence[StoredEvent]:
        return await self._disclosed.reveal(self.tenant, stored, self._within())

    def _within(self) -> Within | None:
        if self._session is None:
            return None
        return Within(partial(self._services.database.run, self._session), self._session_is_ours)

    async def _write(self, prepared: Prepared) -> None:
        unit, database = self._unit(prepared), self._services.database
        if not self._joined:
            await self._services.appender.append(unit)
        elif unit.rows <= FEW:
            await database.write_few(self._work(unit))
        else:
            await database.write(self._work(unit))

    def _work(self, unit: AppendUnit) -> Work:
        """The commit's work. It may run in another thread, where no message is current: it asks for nothing there."""
        tables = self._services.database.tables

        def write(connection: Connection) -> None:
            for work in self._joined:
                work(connection)
            if unit.rows:
                append(connection, tables, unit)

        return write

    def _unit(self, prepared: Prepared) -> AppendUnit:
        return prepared.unit(self.tenant, self._kernel.clock.now(), self._record, self._condition)

    def _new_drafts(self) -> list[Draft]:
        """What was recorded, appended and published since the last look, in that order."""
        drafts: list[Draft] = []
        for stream, aggregate in self._aggregates.items():
            recorded = aggregate.recorded
            for event in recorded[self._seen.get(stream, 0) :]:
                expected = aggregate.version or NO_STREAM
                drafts.append(self._draft(event, stream, aggregate.__category__, expected))
            self._seen[stream] = len(recorded)
        for stream, events, expected in self._appends:
            drafts += [self._draft(event, stream, stream.partition("-")[0], expected) for event in events]
        drafts += [self._draft(event, None, definition_of(type(event)).name, NO_STREAM) for event in self._published]
        self._appends.clear()
        self._published.clear()
        if drafts and self._read_only:
            raise ReadOnlyError(
                f"a query recorded {type(drafts[0].event).__name__}; queries change nothing: make it a command"
            )
        return drafts

    def _draft(self, event: AnyEvent, stream: str | None, category: str, expected: ExpectedVersion) -> Draft:
        current = holder()
        message_id, time = self._kernel.ids(), self._kernel.clock.now()
        metadata = (
            current.next(message_id, time)
            if current is not None
            else Metadata(message_id=message_id, correlation_id=str(message_id), time=time)
        )
        return Draft(event, metadata, stream, category, expected)


def _current_metadata(kernel: Kernel) -> Metadata:
    current = holder()
    if current is not None:
        return current.metadata
    message_id = kernel.ids()
    return Metadata(message_id=message_id, correlation_id=str(message_id), time=kernel.clock.now())
