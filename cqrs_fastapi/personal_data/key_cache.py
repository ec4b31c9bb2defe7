"""Unwrapped keys that this process keeps for a while."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection
from datetime import timedelta
from typing import NamedTuple
from uuid import UUID

KEPT = timedelta(seconds=60)
"""How long a process may go on with a key that another one has destroyed."""
AT_MOST = 10_000


class SubjectKey(NamedTuple):
    """The key of a subject; `key` is None if it is forgotten, or not known here and never was."""

    key_id: UUID
    key: bytes | None


class Reading(NamedTuple):
    """When somebody began to read keys: by the clock, and by what had been dropped until then."""

    at: float
    drops: int


class _Entry(NamedTuple):
    expires: float
    key: SubjectKey
    owner: tuple[str, str] | None


class KeyCache:
    """Bounded in number and time. `now` is a monotonic clock, in seconds."""

    __slots__ = ("_by_id", "_by_owner", "_drops", "_now")

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._by_id: OrderedDict[UUID, _Entry] = OrderedDict()
        self._by_owner: dict[tuple[str, str], UUID] = {}
        self._drops = 0

    def reading(self) -> Reading:
        """For whoever is about to read keys, and will `put` them here."""
        return Reading(self._now(), self._drops)

    def of_id(self, key_id: UUID) -> SubjectKey | None:
        entry = self._by_id.get(key_id)
        return entry.key if entry is not None and entry.expires > self._now() else None

    def of_subject(self, tenant: str, subject: str) -> SubjectKey | None:
        key_id = self._by_owner.get((tenant, subject))
        return None if key_id is None else self.of_id(key_id)

    def put(self, key: SubjectKey, owner: tuple[str, str] | None, reading: Reading) -> None:
        """Keep a key, counted from when it was read. Not if some were dropped since: it may have been among them."""
        if reading.drops != self._drops:
            return
        self._remove(key.key_id)
        self._by_id[key.key_id] = _Entry(reading.at + KEPT.total_seconds(), key, owner)
        if owner is not None:
            self._by_owner[owner] = key.key_id
        while len(self._by_id) > AT_MOST:
            self._remove(next(iter(self._by_id)))

    def drop(self, key_ids: Collection[UUID]) -> None:
        """Keep these no longer, and nothing that is being read at this moment."""
        self._drops += 1
        for key_id in key_ids:
            self._remove(key_id)

    def __len__(self) -> int:
        return len(self._by_id)

    def _remove(self, key_id: UUID) -> None:
        entry = self._by_id.pop(key_id, None)
        if entry is not None and entry.owner is not None and self._by_owner.get(entry.owner) == key_id:
            del self._by_owner[entry.owner]
