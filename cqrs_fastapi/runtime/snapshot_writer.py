"""Writes snapshots in the background: no answer waits for one, and what is lost is taken again."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextvars import Context
from dataclasses import replace
from functools import partial

import structlog
from sqlalchemy import Connection

from cqrs_fastapi.eventstore.snapshots import Snapshot, write_snapshot
from cqrs_fastapi.personal_data.key_ring import KeyRing
from cqrs_fastapi.personal_data.states import seal_state
from cqrs_fastapi.personal_data.subject_keys import ForgottenMeanwhileError, hold
from cqrs_fastapi.personal_data.tokens import Place
from cqrs_fastapi.storage.database import Database
from cqrs_fastapi.storage.tables import Tables

log = structlog.get_logger("cqrs_fastapi")

AT_ONCE = 4
"""Writes under way. One more is left out: the next commit of that aggregate takes another, since it is still due."""

_PATIENCE = 5.0
_AFTER_CANCEL = 1.0


class SnapshotWriter:
    """Counts what has become of each: written, outdated (a newer one was there, its event was not any more, or somebody
    whose data it holds was forgotten), skipped (too many were under way) or failed. `ring` is None where nothing is
    encrypted.
    """

    def __init__(self, database: Database, service: str, ring: KeyRing | None) -> None:
        self._database = database
        self._service = service
        self._ring = ring
        self._writes: set[asyncio.Task[None]] = set()

    def take(self, snapshots: Iterable[Snapshot]) -> None:
        """Write them soon; returns at once and never raises for what may go wrong with them."""
        for snapshot in snapshots:
            if len(self._writes) >= AT_ONCE:
                self._count("skipped")
                continue
            # In a context of its own: the message that was handled is over.
            write = asyncio.get_running_loop().create_task(self._write(snapshot), context=Context())
            self._writes.add(write)
            write.add_done_callback(self._writes.discard)

    async def close(self) -> None:
        """Wait for the writes under way, a few seconds at most; what is cancelled then is no loss."""
        for seconds in (_PATIENCE, _AFTER_CANCEL):
            if self._writes:
                _, late = await asyncio.wait(set(self._writes), timeout=seconds)
                for write in late:
                    write.cancel()

    async def _write(self, snapshot: Snapshot) -> None:
        try:
            was_stored = await (self._write_sealed(snapshot) if snapshot.key_ids else self._write_as_it_is(snapshot))
        except Exception as error:  # noqa: BLE001  # a snapshot may be missing for any reason
            log.warning("snapshot_not_written", stream=snapshot.stream, version=snapshot.version, error=repr(error))
            self._count("failed")
        else:
            self._count("written" if was_stored else "outdated")

    async def _write_as_it_is(self, snapshot: Snapshot) -> bool:
        work = partial(write_snapshot, tables=self._database.tables, snapshot=snapshot)
        return await self._database.write_few(work)

    async def _write_sealed(self, snapshot: Snapshot) -> bool:
        """Not if one of the subjects was forgotten meanwhile: what was folded before must not come back."""
        if self._ring is None:
            raise ValueError("it holds personal data, and there are no keys to seal it with")
        keys = await self._ring.for_reading(snapshot.key_ids)
        if keys.keys() != snapshot.key_ids:
            return False
        place = Place(snapshot.tenant, snapshot.stream, snapshot.fingerprint, snapshot.version)
        sealed = replace(snapshot, state=seal_state(snapshot.state, keys, place))
        try:
            return await self._database.write_few(partial(_write_held, tables=self._database.tables, snapshot=sealed))
        except ForgottenMeanwhileError as error:
            self._ring.drop(error.key_ids)
            return False

    def _count(self, outcome: str) -> None:
        # Importing the metrics looks at the process, which importing this library must not do.
        from cqrs_fastapi.runtime.snapshot_metrics import count_snapshot  # noqa: PLC0415

        count_snapshot(self._service, outcome)


def _write_held(connection: Connection, tables: Tables, snapshot: Snapshot) -> bool:
    """Either a forgetting waits for this and deletes the snapshot, or it came first and nothing is written."""
    hold(connection, tables, snapshot.key_ids)
    return write_snapshot(connection, tables, snapshot)
