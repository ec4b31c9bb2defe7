"""What one unit of work learns about people, and what it may commit because of that."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from uuid import UUID

from sqlalchemy import Connection

from cqrs_fastapi.eventstore.records import StoredEvent
from cqrs_fastapi.messages.events import AnyEvent
from cqrs_fastapi.personal_data.events import NO_KEYS, PersonalEvents
from cqrs_fastapi.personal_data.key_cache import SubjectKey
from cqrs_fastapi.personal_data.key_ring import Within
from cqrs_fastapi.personal_data.subject_keys import hold
from cqrs_fastapi.storage.prepared import Row
from cqrs_fastapi.storage.tables import Tables


class Disclosures:
    """`keys`, by subject, are those that the events of the unit are encrypted with."""

    __slots__ = ("_held", "_personal", "keys")

    def __init__(self, personal: PersonalEvents | None) -> None:
        self._personal = personal
        self._held: set[UUID] = set()
        self.keys: Mapping[str, SubjectKey] = NO_KEYS

    def __bool__(self) -> bool:
        """Whether there was anything personal."""
        return bool(self._held)

    def of(self, events: Iterable[AnyEvent]) -> list[AnyEvent]:
        """Those that have personal fields."""
        personal = self._personal
        return [] if personal is None else [event for event in events if personal.registry.of(event).personal]

    async def reveal(self, tenant: str, stored: Sequence[StoredEvent], within: Within | None) -> Sequence[StoredEvent]:
        """The events with their personal values, or placeholders where the subject was forgotten."""
        if self._personal is None:
            return stored
        events, key_ids = await self._personal.reveal(tenant, stored, within)
        self._held.update(key_ids)
        return events

    async def reveal_history(
        self, tenant: str, stream: str, rows: Sequence[Row], within: Within | None
    ) -> Sequence[Row]:
        """The same of the rows that an aggregate is folded from."""
        if self._personal is None:
            return rows
        revealed, key_ids = await self._personal.reveal_history(tenant, stream, rows, within)
        self._held.update(key_ids)
        return revealed

    async def find_keys(self, tenant: str, events: Sequence[AnyEvent], within: Within | None) -> None:
        """The keys for these events. SubjectForgottenError if there can be none."""
        if self._personal is not None:
            self.keys = await self._personal.keys_of(tenant, events, within)
            self._held.update(key.key_id for key in self.keys.values())

    def check(self, tables: Tables) -> Callable[[Connection], None]:
        """For a transaction that writes the application's own rows, which may hold personal values in clear: it is not
        committed beside a forgetting that would not find them.
        """
        return partial(hold, tables=tables, key_ids=frozenset(self._held))

    def forget(self, key_ids: Iterable[UUID]) -> None:
        """These keys turned out to be destroyed."""
        if self._personal is not None:
            self._personal.ring.drop(frozenset(key_ids))
