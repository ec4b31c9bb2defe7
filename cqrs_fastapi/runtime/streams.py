"""What operators do with streams: archive, truncate, delete."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from sqlalchemy import Connection

from cqrs_fastapi.eventstore import maintenance
from cqrs_fastapi.eventstore.records import checked_stream
from cqrs_fastapi.messages.events import AnyEvent
from cqrs_fastapi.messages.metadata import Metadata, Origin, Received, enter, holder, leave
from cqrs_fastapi.runtime.builtins import store_of, unit_of

if TYPE_CHECKING:
    from cqrs_fastapi.runtime.engine import Engine


class Streams:
    """`cqrs.streams`. Each call is a transaction of its own, also inside of a handler: what the handler does later, or
    fails to do, changes nothing about it. A handler that holds a session on SQLite must not wait for it.

    The `tenant` is that of the message being handled, or none, unless it is given. A ValueError says what is wrong with
    a name; NotFoundError that there is no such stream; StreamDeletedError, one of its kind, that it is a tombstone.
    """

    __slots__ = ("_engine",)

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def archive(self, stream: str, *, tenant: str | None = None) -> None:
        """Leave the stream out of what reads all streams, and refuse appends to it; it stays readable by its name.

        ReadersBehindError while a reader of the store has not had its last event. Archiving it again does nothing.
        """
        await self._change(maintenance.archive, stream, tenant)

    async def restore(self, stream: str, *, tenant: str | None = None) -> None:
        """Undo `archive`. Readers of all streams that have begun meanwhile do not come back for its events."""
        await self._change(maintenance.restore, stream, tenant)

    async def delete(self, stream: str, *, tenant: str | None = None) -> None:
        """Delete all of its events for good, and leave a tombstone: the name is never used again.

        ReadersBehindError while a reader of the store has not had its last event. What waits in the outbox is sent.
        """
        now = self._engine.clock.now()
        await self._change(partial(maintenance.delete_stream, now=now), stream, tenant)

    async def truncate(
        self, stream: str, summary: AnyEvent, *, expected_version: int, tenant: str | None = None
    ) -> None:
        """Append a summary of the stream's events up to `expected_version`, its last one, and delete those events.

        Both happen in one transaction, or neither. The summary is an event like any other: it is handled and sent, and
        an aggregate of the stream needs a fold for it. ConcurrencyError if the stream is not at that version (make
        another summary), ReadersBehindError while a reader of the store has not had that event, StreamClosedError for
        an archived stream.
        """
        if expected_version < 1:
            raise ValueError(f"a summary stands for versions 1 to expected_version, which is not {expected_version}")
        engine, of_tenant = self._engine, self._tenant(tenant)
        cut: Callable[[Connection], None] = partial(
            maintenance.truncate,
            tables=engine.database.tables,
            stream=checked_stream(stream),
            tenant=of_tenant,
            version=expected_version,
        )
        with self._on_behalf_of(of_tenant):
            async with engine.scope(None) as scope:
                unit = unit_of(scope)
                unit.join(cut)
                await store_of(unit, engine).append(stream, [summary], expected_version)

    async def _change(self, change: Callable[..., None], stream: str, tenant: str | None) -> None:
        database = self._engine.database
        of_tenant = self._tenant(tenant)
        await database.write(partial(change, tables=database.tables, stream=checked_stream(stream), tenant=of_tenant))

    def _tenant(self, given: str | None) -> str:
        if given is not None:
            return given
        current = holder()
        return (current.metadata.tenant or "") if current is not None else ""

    @contextmanager
    def _on_behalf_of(self, tenant: str) -> Iterator[None]:
        """The message being handled, if there is one, is the cause of what happens here, whoever its tenant is."""
        current, kernel = holder(), self._engine.kernel
        if current is not None:
            token = enter(Received(replace(current.metadata, tenant=tenant or None)))
        else:
            message_id = kernel.ids()
            metadata = Metadata(message_id, str(message_id), kernel.clock.now(), tenant=tenant or None)
            token = enter(Origin(metadata))
        try:
            yield
        finally:
            leave(token)
