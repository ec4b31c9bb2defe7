"""What one unit of work learns about people, and what it may commit because of that."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from uuid import UUID

from sqlalchemy import Connection

from cqrs_fastapi.domain.finding.places import RootState
from cqrs_fastapi.domain.revealing import RevealedHistory
from cqrs_fastapi.domain.root_entity import RootEntity
from cqrs_fastapi.eventstore.history import FoundSnapshot
from cqrs_fastapi.eventstore.records import StoredEvent
from cqrs_fastapi.messages.events import AnyEvent
from cqrs_fastapi.personal_data.events import NO_KEYS, PersonalEvents
from cqrs_fastapi.personal_data.fields import conceal_state, subjects_of, tokens_in
from cqrs_fastapi.personal_data.key_cache import SubjectKey
from cqrs_fastapi.personal_data.key_ring import Within
from cqrs_fastapi.personal_data.states import open_state, place_of_state
from cqrs_fastapi.personal_data.subject_keys import hold
from cqrs_fastapi.personal_data.tokens import Place, WrongKeyError
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
    ) -> RevealedHistory:
        """The same of the rows that an aggregate is folded from."""
        if self._personal is None:
            return RevealedHistory(rows, frozenset())
        revealed = RevealedHistory(*await self._personal.reveal_history(tenant, stream, rows, within))
        self._held.update(revealed.key_ids)
        return revealed

    async def open_snapshot(self, place: Place, found: FoundSnapshot, within: Within | None) -> bytes:
        """Its state. WrongKeyError if one of the keys that it was sealed with is no more."""
        if self._personal is None:
            raise WrongKeyError("this application has no keys")
        keys = await self._personal.ring.for_reading(found.key_ids, within)
        state = open_state(found.state, keys, place)
        self._held.update(keys)
        return state

    async def find_keys(
        self, tenant: str, events: Sequence[AnyEvent], rows_of: Collection[str], within: Within | None
    ) -> None:
        """The keys for these events, SubjectForgottenError if there can be none; and for the rows of other subjects."""
        if self._personal is not None:
            self.keys = await self._personal.keys_of(tenant, events, within, rows_of)
            self._held.update(key.key_id for key in self.keys.values() if key.key is not None)

    def conceal_row(self, tenant: str, root: RootEntity, row: RootState) -> RootState:
        """The row of a root entity with its personal values encrypted, or gone if it was forgotten."""
        place = place_of_state(tenant, root.__category__, root.id)
        return row._replace(state=conceal_state(row.state, root.__personal__, self.keys[str(root.id)], place))

    async def reveal_states(
        self, tenant: str, of: type[RootEntity], rows: Sequence[RootState], within: Within | None
    ) -> Sequence[RootState]:
        """Rows of root entities with their personal values, or placeholders."""
        found = {row.id: one for row in rows if (one := tokens_in(row.state)) is not None}
        if self._personal is None or not found:
            return rows
        wanted = {key_id for one in found.values() for key_id in one.key_ids}
        keys = await self._personal.ring.for_reading(wanted, within)
        self._held.update(keys)
        marked = frozenset(field.key for field in of.__personal__)

        def revealed(row: RootState) -> RootState:
            place = place_of_state(tenant, of.__category__, row.id)
            return row._replace(state=found[row.id].revealed_values(keys, place, marked))

        return [revealed(row) if row.id in found else row for row in rows]

    def key_ids_of(self, events: Iterable[AnyEvent]) -> frozenset[UUID]:
        """What these events of the unit are encrypted with."""
        personal = self._personal
        if personal is None:
            return frozenset()
        subjects = (subjects_of(event, personal.registry.of(event).personal).values() for event in events)
        return frozenset(self.keys[subject].key_id for several in subjects for subject in several)

    def check(self, tables: Tables) -> Callable[[Connection], None]:
        """For a transaction that writes the application's own rows, which may hold personal values in clear: it is not
        committed beside a forgetting that would not find them.
        """
        return partial(hold, tables=tables, key_ids=frozenset(self._held))

    def forget(self, key_ids: Iterable[UUID]) -> None:
        """These keys turned out to be destroyed."""
        if self._personal is not None:
            self._personal.ring.drop(frozenset(key_ids))
