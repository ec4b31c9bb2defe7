"""The keys whose messages were put aside, and their way back.

While a key is among them, claims pass over it, and its first messages are read here instead, in their order. When none
is left aside, the key is opened, and what came meanwhile is claimed as any other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from sqlalchemy import Connection

from cqrs_fastapi.clock import Clock
from cqrs_fastapi.identity import IdFactory
from cqrs_fastapi.outbox.buckets import share_of
from cqrs_fastapi.outbox.holds import Holds
from cqrs_fastapi.outbox.parked_keys import aside, names_aside, open_when_empty, park_followers, parked_of
from cqrs_fastapi.outbox.pending import Pending
from cqrs_fastapi.outbox.routing import bucket_of
from cqrs_fastapi.outbox.sweeping import CHUNK
from cqrs_fastapi.storage import leases
from cqrs_fastapi.storage.database import Database
from cqrs_fastapi.storage.leases import Lease

AT_ONCE = 50
"""Keys that are tried again together."""


@dataclass(slots=True)
class Asides:
    """Those of one lane. `names` has the share of each."""

    database: Database
    clock: Clock
    ids: IdFactory
    topics: tuple[str, ...] | None
    names: dict[str, int] = field(default_factory=dict)
    _known: set[int] = field(default_factory=set)

    async def learn(self, shares: Sequence[int]) -> None:
        """Of shares that are new here, which keys another relay has put aside."""
        self._known &= set(shares)
        self.names = {name: share for name, share in self.names.items() if share in self._known}
        new = set(shares) - self._known
        if new:
            names = await self.database.read(partial(names_aside, tables=self.database.tables))
            shares_of = {name: share_of(bucket_of(name.partition("/")[2])) for name in names}
            self.names.update({name: share for name, share in shares_of.items() if share in new})
            self._known |= new

    async def claim(self, held: Mapping[int, Lease], holds: Holds, at_most: int) -> list[Pending]:
        """The first messages of keys that may be tried again."""
        due = self._due(held, holds)
        if not due:
            return []

        def work(connection: Connection) -> tuple[list[Pending], list[str]]:
            found: list[Pending] = []
            done: list[str] = []
            parked = parked_of(connection, self.database.tables, due)
            for name in due:
                rows = [] if name in parked else aside(connection, self.database.tables, name, at_most)
                found += rows
                if not rows:
                    done.append(name)
                if len(found) >= at_most:
                    break
            return found, done

        found, done = await self.database.read(work)
        for name in done:
            await self._open(name, held[self.names[name]])
        return sorted(found)

    def _due(self, held: Mapping[int, Lease], holds: Holds) -> list[str]:
        if not self.names:
            return []
        waiting, shut = set(holds.waiting_keys()), set(holds.waiting_topics())
        due: list[str] = []
        for name, share in self.names.items():
            topic = name.partition("/")[0]
            is_wanted = self.topics is None or topic in self.topics
            if share in held and name not in waiting and topic not in shut and is_wanted:
                due.append(name)
            if len(due) >= AT_ONCE:
                break
        return due

    async def _open(self, name: str, lease: Lease) -> None:
        """Nothing of the key is aside any more, or what is aside is behind a message that was parked."""
        tables = self.database.tables

        def work(connection: Connection) -> bool:
            leases.fenced(connection, tables, lease)
            rest = [one.position for one in aside(connection, tables, name, CHUNK)]
            if rest and not park_followers(connection, tables, rest, ids=self.ids, now=self.clock.now()):
                return False  # it was put back meanwhile
            return open_when_empty(connection, tables, name)

        if await self.database.write(work):
            self.names.pop(name, None)
