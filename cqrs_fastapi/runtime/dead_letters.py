"""`cqrs.dead_letters`: what operators do about messages that were parked."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING
from uuid import UUID

from cqrs_fastapi.dead_letters import changing, reading
from cqrs_fastapi.dead_letters.parking import RELAY, Letter
from cqrs_fastapi.dead_letters.reading import Counts
from cqrs_fastapi.inbox.due_letters import DueLetters
from cqrs_fastapi.inbox.replaying import Replaying
from cqrs_fastapi.outbox import letters as letters_of_relay
from cqrs_fastapi.runtime.health import Probe
from cqrs_fastapi.runtime.worker import Worker
from cqrs_fastapi.storage.database import Database

if TYPE_CHECKING:
    from cqrs_fastapi.runtime.engine import Engine


class DeadLetters:
    """Looks at letters, edits, replays and discards them."""

    __slots__ = ("_engine",)

    def __init__(self, engine: Callable[[], Engine]) -> None:
        self._engine = engine

    async def counts(self) -> Mapping[str, Counts]:
        """By consumer: how many are dead, wait to be tried again by themselves, and are behind another one."""
        database = self._engine().database
        return await database.read(partial(reading.counts, tables=database.tables))

    async def all(self, consumer: str | None = None, *, key: str | None = None) -> AsyncIterator[Letter]:
        """All of them, of one consumer, or of one closed key (`Letter.sequence`); the oldest first, page by page."""
        database, after = self._engine().database, None
        while True:
            found: list[Letter] = await database.read(
                partial(reading.page, tables=database.tables, consumer=consumer, sequence=key, after=after)
            )
            for letter in found:
                yield letter
            if len(found) < reading.PAGE:
                return
            after = found[-1]

    async def get(self, identifier: UUID) -> Letter:
        """NotFoundError if there is none with this id."""
        database = self._engine().database
        return await database.read(partial(reading.require, tables=database.tables, identifier=identifier))

    async def edit(
        self, identifier: UUID, *, payload: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Letter:
        """Change what will be replayed, the payload or all of the headers. The message keeps its id."""
        database = self._engine().database
        work = partial(changing.edit, tables=database.tables, identifier=identifier, payload=payload, headers=headers)
        return await database.write(work)

    async def replay(self, identifier: UUID, *, out_of_order: bool = False) -> None:
        """Give it to its handler again, under its own message id: the effect, the inbox row and the end of the letter
        are one transaction. A letter of the relay goes back to the outbox with all of its key, in the old order.

        NotFirstError unless it is the first of its key, or `out_of_order`. ReplayFailedError if the handler fails
        again: the letter stays, with the new error. LetterTakenError while somebody else replays it.
        """
        letter = await self.get(identifier)
        if letter.consumer != RELAY:
            await self._replaying().replay(identifier, out_of_order=out_of_order)
        elif letter.key is None:
            engine = self._engine()
            tables, now = engine.database.tables, engine.clock.now()
            work = partial(letters_of_relay.put_back, tables=tables, letters=[letter], now=now)
            await engine.database.write(work)
        else:
            await self.replay_key(RELAY, letter.key.decode(), topic=letter.topic)

    async def replay_key(self, consumer: str, key: str, *, topic: str = "") -> int:
        """Replay all letters of a key in their order, until the key is open again; how many there were. The first
        failure ends it with ReplayFailedError. `key` is the `sequence` of its letters; where the consumer is `relay`,
        the key of the messages on `topic`.
        """
        if consumer != RELAY:
            return await self._replaying().replay_key(consumer, key)
        engine, now = self._engine(), self._engine().clock.now()
        tables = engine.database.tables
        return await engine.database.write(
            partial(letters_of_relay.put_back_key, tables=tables, topic=topic, key=key.encode(), now=now)
        )

    async def discard(self, identifier: UUID) -> None:
        """Settle it without an effect. What is behind it in its key comes to the front, and is replayed by hand."""
        letter, database = await self.get(identifier), self._engine().database
        if letter.consumer == RELAY:
            await database.write(partial(letters_of_relay.discard, tables=database.tables, letter=letter))
        else:
            await self._replaying().discard(letter)

    def _replaying(self) -> Replaying:
        return self._engine().replaying()


def letters_worker(replaying: Replaying) -> Worker:
    """Replays the letters that are due."""
    # Importing the metrics looks at the process, which importing this library must not do.
    from cqrs_fastapi.runtime.letter_gauges import LetterGauges  # noqa: PLC0415

    return DueLetters(replaying, LetterGauges(replaying.handlings.settings.service))


def letters_probe(database: Database) -> Probe:
    """How many there are, for readiness, which they do not end."""

    async def tell() -> str:
        return reading.told(await database.read(partial(reading.counts, tables=database.tables)))

    return Probe("dead letters", tell, only_informs=True)
