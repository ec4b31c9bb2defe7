"""Finds and makes the keys of data subjects: in the cache, in the table, by the key provider."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeVar
from uuid import UUID

from sqlalchemy import Connection

from cqrs_fastapi.clock import Clock
from cqrs_fastapi.errors import DomainError, UnavailableError, UnknownOutcomeError
from cqrs_fastapi.identity import IdFactory
from cqrs_fastapi.personal_data.cipher import new_key
from cqrs_fastapi.personal_data.key_cache import KeyCache, Reading, SubjectKey
from cqrs_fastapi.personal_data.key_provider import KeyProvider, Wrapped
from cqrs_fastapi.personal_data.subject_keys import AT_ONCE, KeyRow, context_of, make, of_ids, of_subjects, parts_of
from cqrs_fastapi.storage.database import Database

T = TypeVar("T")


class SubjectForgottenError(DomainError):
    """Personal data of somebody who was forgotten was to be recorded. Nothing was written, and nothing ever will be."""

    code = "subject_forgotten"

    def __init__(self, subject: str) -> None:
        self.subject = subject
        super().__init__(
            f"data subject {subject!r} was forgotten, and no personal data of it is recorded any more; "
            "give a person who comes back an identifier of its own"
        )


class RunsWork(Protocol):
    """Runs a work in an open transaction."""

    async def __call__(self, work: Callable[[Connection], T], /) -> T: ...


@dataclass(frozen=True, slots=True)
class Within:
    """The open transaction of a unit of work, in which keys are read and made: another one could wait for it for ever.

    `is_ours`: nothing was written in it before by other units, so that what it finds is committed.
    """

    run: RunsWork
    is_ours: bool


class KeyRing:
    """The keys of all subjects, for one process. What it keeps in memory another process may have destroyed up to
    `key_cache.KEPT` ago.
    """

    def __init__(
        self,
        database: Database,
        provider: KeyProvider,
        clock: Clock,
        ids: IdFactory,
        *,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._provider = provider
        self._clock = clock
        self._ids = ids
        self.cache = KeyCache(now)

    async def for_writing(
        self, tenant: str, subjects: Collection[str], within: Within | None = None, *, also: Collection[str] = ()
    ) -> Mapping[str, SubjectKey]:
        """The key of each subject, made now for one that has none. SubjectForgottenError if one was forgotten. So are
        those of others, `also`, which may have been forgotten.

        A key is committed before this returns, or is made in the transaction that will store what it encrypts.
        """
        found: dict[str, SubjectKey] = {}
        missing: list[str] = []
        for subject in sorted({*subjects, *also}):
            key = self.cache.of_subject(tenant, subject)
            if key is None:
                missing.append(subject)
            else:
                found[subject] = key
        for start in range(0, len(missing), AT_ONCE):
            found.update(await self._found_or_made(tenant, missing[start : start + AT_ONCE], within))
        for subject in sorted(subjects):
            if found[subject].key is None:
                raise SubjectForgottenError(subject)
        return found

    async def for_reading(self, key_ids: Collection[UUID], within: Within | None = None) -> Mapping[UUID, bytes]:
        """The keys that there are. The others were destroyed, or belong to another service."""
        found: dict[UUID, bytes] = {}
        missing: list[UUID] = []
        for key_id in sorted(key_ids):
            key = self.cache.of_id(key_id)
            if key is None:
                missing.append(key_id)
            elif key.key is not None:
                found[key_id] = key.key
        for part in parts_of(missing):
            found.update(await self._read(part, within))
        return found

    def drop(self, key_ids: Collection[UUID]) -> None:
        """They are destroyed: keep them no longer."""
        self.cache.drop(key_ids)

    async def _read(self, key_ids: Sequence[UUID], within: Within | None) -> dict[UUID, bytes]:
        reading = self.cache.reading()
        run = self._database.read_few if within is None else within.run
        rows = await run(partial(of_ids, tables=self._database.tables, key_ids=key_ids))
        keys = await self._unwrapped(rows)
        if _is_committed(within):
            for row, key in zip(rows, keys, strict=True):
                self.cache.put(key, (row.tenant, row.subject), reading)
            for unknown in set(key_ids).difference(row.key_id for row in rows):
                self.cache.put(SubjectKey(unknown, None), None, reading)
        return {key.key_id: key.key for key in keys if key.key is not None}

    async def _found_or_made(
        self, tenant: str, subjects: Sequence[str], within: Within | None
    ) -> dict[str, SubjectKey]:
        reading, tables = self.cache.reading(), self._database.tables
        run = self._database.read_few if within is None else within.run
        rows = await run(partial(of_subjects, tables=tables, tenant=tenant, subjects=subjects))
        found = dict(zip([row.subject for row in rows], await self._unwrapped(rows), strict=True))
        if _is_committed(within):
            self._keep(tenant, found, reading)
        absent = [subject for subject in subjects if subject not in found]
        if absent:
            made = await self._made(tenant, absent, within)
            if within is None:
                self._keep(tenant, made, reading)
            found.update(made)
        return found

    async def _made(self, tenant: str, subjects: Sequence[str], within: Within | None) -> dict[str, SubjectKey]:
        new = {subject: (self._ids(), new_key()) for subject in subjects}
        wrapped: dict[str, tuple[UUID, Wrapped]] = {}
        for subject, (key_id, key) in new.items():
            wrapped[subject] = key_id, await self._provider.wrap(key, context_of(key_id))
        work = partial(make, tables=self._database.tables, tenant=tenant, new=wrapped, now=self._clock.now())
        try:
            rows = await (self._database.write_few(work) if within is None else within.run(work))
        except UnknownOutcomeError as error:
            # Of the key alone, which harms nobody: nothing of the unit of work has been sent yet.
            raise UnavailableError("the answer to storing a subject's key was lost; try again") from error
        made = {row.subject: SubjectKey(row.key_id, own) for row in rows if (own := _own(row, new)) is not None}
        others = [row for row in rows if row.subject not in made]
        made.update(zip([row.subject for row in others], await self._unwrapped(others), strict=True))
        return made

    async def _unwrapped(self, rows: Sequence[KeyRow]) -> list[SubjectKey]:
        return list(await asyncio.gather(*(self._unwrap(row) for row in rows)))

    async def _unwrap(self, row: KeyRow) -> SubjectKey:
        wrapped = row.wrapped
        key = None if wrapped is None else await self._provider.unwrap(wrapped, row.context)
        return SubjectKey(row.key_id, key)

    def _keep(self, tenant: str, keys: Mapping[str, SubjectKey], reading: Reading) -> None:
        for subject, key in keys.items():
            self.cache.put(key, (tenant, subject), reading)


def _is_committed(within: Within | None) -> bool:
    return within is None or within.is_ours


def _own(row: KeyRow, new: Mapping[str, tuple[UUID, bytes]]) -> bytes | None:
    """The key, if it is the one that was made here."""
    key_id, key = new[row.subject]
    return key if row.key_id == key_id else None
