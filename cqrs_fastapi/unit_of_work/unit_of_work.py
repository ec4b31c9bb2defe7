"""One transaction per message: what a handler changed, recorded and published is committed together or not at all."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any, TypeVar
from uuid import UUID

from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncSession

from cqrs_fastapi.domain.aggregate import Aggregate
from cqrs_fastapi.domain.finding.places import RootState
from cqrs_fastapi.domain.finding.search import Search
from cqrs_fastapi.domain.finding.streaming import stream_pages, stream_states
from cqrs_fastapi.domain.revealing import Reveals
from cqrs_fastapi.domain.root_rows import rows_of, subjects_of_rows
from cqrs_fastapi.errors import ReadOnlyError
from cqrs_fastapi.eventstore.expected_version import NO_STREAM, ExpectedVersion
from cqrs_fastapi.eventstore.records import AppendUnit, Condition, IdempotencyRecord, StoredEvent
from cqrs_fastapi.eventstore.repeats import record_of
from cqrs_fastapi.eventstore.store import Reveal
from cqrs_fastapi.mediation.contention import give_way
from cqrs_fastapi.mediation.idempotency import Attempt
from cqrs_fastapi.mediation.scope import Scope
from cqrs_fastapi.messages.events import AnyEvent, definition_of
from cqrs_fastapi.outbox.session_outbox import wake_after_commit
from cqrs_fastapi.personal_data.key_cache import SubjectKey
from cqrs_fastapi.personal_data.key_ring import Within
from cqrs_fastapi.personal_data.subject_keys import ForgottenMeanwhileError
from cqrs_fastapi.storage.driver_errors import before_commit
from cqrs_fastapi.unit_of_work.causes import current_metadata, next_metadata
from cqrs_fastapi.unit_of_work.disclosures import Disclosures
from cqrs_fastapi.unit_of_work.drafts import Draft, Prepared, prepare_rows, recorded_since
from cqrs_fastapi.unit_of_work.revealing import UnitReveals
from cqrs_fastapi.unit_of_work.savepoint import Savepoint, Undone
from cqrs_fastapi.unit_of_work.services import Services
from cqrs_fastapi.unit_of_work.writing import Work, write, write_beside

T = TypeVar("T")


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
        "_outgoing",
        "_published",
        "_read_only",
        "_record",
        "_savepoints",
        "_seen",
        "_sends",
        "_services",
        "_session",
        "_session_is_ours",
        "_undone",
        "_unreacted",
        "spoiled",
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
        self._outgoing: list[Mapping[str, Any]] = []
        self._appends: list[tuple[str, Sequence[AnyEvent], ExpectedVersion]] = []
        self._drafts: list[Draft] = []
        self._unreacted: list[Draft] = []
        self._joined: list[Work] = []
        self._sends = False
        self._record: IdempotencyRecord | None = None
        self._condition: Condition | None = None
        self._savepoints: list[Savepoint] | None = None
        self._undone: list[Undone] | None = None
        self.spoiled: BaseException | None = None
        self._disclosed = Disclosures(services.personal)

    @property
    def tenant(self) -> str:
        return current_metadata(self._kernel).tenant or ""

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

    def held(self) -> Iterable[Aggregate]:
        """All aggregates that were loaded or added."""
        return self._aggregates.values()

    def stream_states(self, search: Search, own: Sequence[RootState], /) -> AsyncGenerator[RootState, None]:
        """What a search finds, one by one; `own` are the states of those that the search leaves out."""
        database = self._services.database
        if self._session is None:
            return stream_states(database, search, own)
        return stream_pages(self.read, database.tables, search, own)

    def now(self) -> datetime:
        return self._kernel.clock.now()

    def new_id(self) -> UUID:
        return self._kernel.ids()

    @property
    def is_read_only(self) -> bool:
        """Whether it belongs to a query."""
        return self._read_only

    def join(self, work: Work, /, *, sends: bool = False) -> None:
        """Run `work` in the commit's transaction, before the events; its error rolls back. `sends`: by the outbox."""
        self._joined.append(work)
        self._sends = self._sends or sends

    def remember(self, attempt: Attempt, response: str, /) -> None:
        """Write with the commit what the attempt is answered with; the commit raises RepeatedError if another was."""
        self._record = record_of(attempt, response)

    def savepoint(self) -> Savepoint:
        """`async with unit_of_work.savepoint():` an error that leaves the block undoes all that happened inside, and
        nothing else; caught around the block, it lets the unit go on. See `Savepoint`.
        """
        if self._read_only:
            raise ReadOnlyError("a query asked for a savepoint; it changes nothing that could be undone: leave it out")
        return Savepoint(self)

    async def read(self, work: Callable[[Connection], T], /) -> T:
        """Run a reading `work`: in the session's transaction if there is one, else on its own."""
        if self._session is not None:
            return await self._services.database.run(self._session, work)
        return await self._services.database.read(work)

    async def read_few(self, work: Callable[[Connection], T], /) -> T:
        """As `read`, for one statement that finds about a thousand rows at most."""
        if self._session is not None:
            return await self._services.database.run(self._session, work)
        return await self._services.database.read_few(work)

    def draft(self) -> None:
        """Give what was recorded since the last look the metadata of the message being handled."""
        self._unreacted += self._new_drafts()

    @property
    def revealing(self) -> Reveal | None:
        """Gives events their personal values, or placeholders where the subject was forgotten; None where nothing is
        encrypted. If the unit writes tables of its own it can then be committed only while these subjects are known.
        """
        return None if self._services.personal is None else self._reveal

    @property
    def reveals(self) -> Reveals | None:
        """The same for what repositories load."""
        return None if self._services.personal is None else UnitReveals(self, self._disclosed)

    async def prepare(self, scope: Scope) -> None:
        """Draft what was recorded and run in-transaction handlers on it, until nothing new appears."""
        pipelines = self._kernel.pipelines
        while new := [*self._unreacted, *self._new_drafts()]:
            self._unreacted.clear()
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
        prepared = prepare_rows(self._drafts, services, self._disclosed.keys, self._outgoing)
        give_way(one.stream for one in prepared.appends)
        if self._disclosed and (self._session is not None or self._joined):
            self.join(self._disclosed.check(services.database.tables))
        if prepared.appends and self._aggregates:
            # After that, since what the library writes itself is encrypted.
            rows = rows_of(self._aggregates.values(), partial(self._disclosed.conceal_row, self.tenant))
            if rows:
                self.join(rows.writing(services.database.tables, self.tenant))
        try:
            await self._commit(prepared)
        except ForgottenMeanwhileError as error:
            self._disclosed.forget(error.key_ids)
            raise
        sends = prepared.sends or self._sends
        if sends and (self._session is None or self._session_is_ours):
            services.wake()
        elif sends and self._session is not None:
            wake_after_commit(self._session.sync_session, services.wake)

    async def _commit(self, prepared: Prepared) -> None:
        if self._session is not None and self._read_only:
            await self._session.close()
            return
        if self._session is not None:
            unit, database = self._unit(prepared), self._services.database
            await write_beside(self._session, database, unit, self._joined, is_ours=self._session_is_ours)
        elif prepared or self._joined or self._record:
            await write(self._services, self._unit(prepared), self._joined)

    async def rollback(self) -> None:
        """Leave nothing behind. A session that was handed in stays its owner's to end."""
        if self._session is not None and self._session_is_ours:
            await self._session.close()

    async def keys_for(self, event: AnyEvent, /) -> Mapping[str, SubjectKey]:
        """What the personal fields of an event are encrypted with that is sent by this unit."""
        await self._find_keys_of([event], ())
        return self._disclosed.keys

    async def _find_keys(self) -> None:
        """What the drafts are to be encrypted with."""
        events = self._disclosed.of(draft.event for draft in self._drafts)
        others = subjects_of_rows(self._aggregates.values())
        if events or others:
            await self._find_keys_of(events, others)

    async def _find_keys_of(self, events: Sequence[AnyEvent], others: Collection[str]) -> None:
        """The session is flushed first: of two units that wait for each other's rows and keys neither would go on."""
        if self._session is not None:
            with before_commit():
                await self._session.flush()
        await self._disclosed.find_keys(self.tenant, events, others, self.within())

    async def _reveal(self, stored: Sequence[StoredEvent]) -> Sequence[StoredEvent]:
        return await self._disclosed.reveal(self.tenant, stored, self.within())

    def within(self) -> Within | None:
        """The transaction that is open, if there is one, for those who read and make keys."""
        if self._session is None:
            return None
        return Within(partial(self._services.database.run, self._session), self._session_is_ours)

    def _unit(self, prepared: Prepared) -> AppendUnit:
        return prepared.unit(self.tenant, self._kernel.clock.now(), self._record, self._condition)

    def _new_drafts(self) -> list[Draft]:
        """What was recorded, appended and published since the last look, in that order."""
        for one in self._undone or ():
            one.refuse_changes()
        recorded = recorded_since(self._aggregates, self._seen, self.now)
        drafts = [self._draft(*one) for one in recorded]
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
        return Draft(event, next_metadata(self._kernel), stream, category, expected)
