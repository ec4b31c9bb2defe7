"""Events on their way into the store and out of it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple
from uuid import UUID

from cqrs_fastapi.eventstore.records import StoredEvent
from cqrs_fastapi.messages.events import AnyEvent
from cqrs_fastapi.messages.registry import EventRegistry
from cqrs_fastapi.personal_data.fields import find_tokens, subjects_of
from cqrs_fastapi.personal_data.key_cache import SubjectKey
from cqrs_fastapi.personal_data.key_ring import KeyRing, Within
from cqrs_fastapi.personal_data.tokens import Place
from cqrs_fastapi.storage.prepared import Row

NO_KEYS: Mapping[str, SubjectKey] = {}


class Revealed(NamedTuple):
    """Events with their personal values, and the keys that these were decrypted with."""

    events: Sequence[StoredEvent]
    key_ids: frozenset[UUID]


class RevealedText(NamedTuple):
    """The same of one payload; `text` is None if there was nothing to decrypt."""

    text: str | None
    key_ids: frozenset[UUID]


@dataclass(frozen=True, slots=True)
class PersonalEvents:
    """Keys and marks together."""

    ring: KeyRing
    registry: EventRegistry

    async def keys_of(
        self, tenant: str, events: Iterable[AnyEvent], within: Within | None, also: Collection[str] = ()
    ) -> Mapping[str, SubjectKey]:
        """By subject, the keys that these events are to be encrypted with, and those of others; see
        `KeyRing.for_writing`.
        """
        subjects: set[str] = set()
        for event in events:
            personal = self.registry.of(event).personal
            if personal:
                subjects.update(subjects_of(event, personal).values())
        return await self.ring.for_writing(tenant, subjects, within, also=also) if subjects or also else NO_KEYS

    async def reveal(self, tenant: str, stored: Sequence[StoredEvent], within: Within | None = None) -> Revealed:
        """Decrypt what the events of a tenant hold; see `reveal_one` for the errors."""
        places = [Place(tenant, row.stream, row.type, row.schema_version) for row in stored]
        texts, key_ids = await self._reveal_each([row.data for row in stored], places, within)
        if not texts:
            return Revealed(stored, key_ids)
        return Revealed([row._replace(data=texts.get(n, row.data)) for n, row in enumerate(stored)], key_ids)

    async def reveal_history(
        self, tenant: str, stream: str, rows: Sequence[Row], within: Within | None = None
    ) -> tuple[Sequence[Row], frozenset[UUID]]:
        """The same of the rows that an aggregate is folded from: version, type, schema_version and data."""
        places = [Place(tenant, stream, row[1], row[2]) for row in rows]
        texts, key_ids = await self._reveal_each([row[3] for row in rows], places, within)
        if not texts:
            return rows, key_ids
        return [(row[0], row[1], row[2], texts.get(n, row[3])) for n, row in enumerate(rows)], key_ids

    async def _reveal_each(
        self, texts: Sequence[str], places: Sequence[Place], within: Within | None
    ) -> tuple[dict[int, str], frozenset[UUID]]:
        """By number, those that hold something to decrypt."""
        found = {number: one for number, text in enumerate(texts) if (one := find_tokens(text)) is not None}
        if not found:
            return {}, frozenset()
        wanted = {key_id for one in found.values() for key_id in one.key_ids}
        keys = await self.ring.for_reading(wanted, within)
        revealed = {n: one.revealed(keys, places[n], self._marked(places[n])) for n, one in found.items()}
        return revealed, frozenset(keys)

    async def reveal_one(self, place: Place, data: str | bytes) -> RevealedText:
        """Decrypt one payload. MalformedMessageError if a personal field holds what was encrypted for another place;
        KeyNotUnwrappedError and UnavailableError of the key provider.
        """
        found = find_tokens(data)
        if found is None:
            return RevealedText(None, frozenset())
        keys = await self.ring.for_reading(set(found.key_ids))
        return RevealedText(found.revealed(keys, place, self._marked(place)), frozenset(keys))

    def _marked(self, place: Place) -> frozenset[str] | None:
        """The personal fields of the class that is stored like this; None if no class is any more."""
        personal = self.registry.personal_of(place.type, place.version)
        return None if personal is None else frozenset(field.path for field in personal)
