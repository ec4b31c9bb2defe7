"""Which shares of the buckets this relay holds. Members divide them evenly; no share ever has two owners.

1. A member announces itself by a row that it renews; those whose rows have run out are gone.
2. Sorted by their ids, members know how many shares each may hold: 16 for one, 6, 5 and 5 for three.
3. Who has fewer takes free or expired ones; each taking is a new epoch. Who has more gives some back, but not before
   what is under way in them has ended.
4. Until it is renewed again, a share is held for a second by the database's clock, and what is written under it is
   refused as soon as another has taken it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, NamedTuple
from uuid import UUID

import structlog
from sqlalchemy import Connection, delete, false, literal, select, true, union_all, update

from cqrs_fastapi.outbox.buckets import SHARES, share_of
from cqrs_fastapi.storage.database import Database
from cqrs_fastapi.storage.dialects import database_now, is_postgres, seconds_until, upsert
from cqrs_fastapi.storage.leases import Lease
from cqrs_fastapi.storage.tables import Tables

log = structlog.get_logger("cqrs_fastapi")

LEASE = timedelta(seconds=1)
BEAT = LEASE.total_seconds() / 3
"""Seconds between two renewals."""
_SOONEST = 0.02
_FORGOTTEN = timedelta(minutes=1)


class _Seen(NamedTuple):
    """A share (`name` is that of its lease), or a member (`name` is empty)."""

    name: str
    owner: UUID | None
    epoch: int
    seconds_left: float
    is_mine: bool


@dataclass(slots=True)
class Shares:
    """`held` may be looked at between two awaits only; what is written under it is fenced all the same."""

    database: Database
    service: str
    owner: UUID
    held: dict[int, Lease] = field(default_factory=dict)
    leaving: set[int] = field(default_factory=set)
    """Held, and to be given back: nothing new is begun in them."""
    takes: bool = True
    """False for a relay that is stopping: what others give back is not for it."""
    members: int = 1
    pause: float = BEAT
    """Seconds until the next beat."""
    _renewed_at: float = float("-inf")

    def usable(self) -> list[int]:
        """Shares in which something may be begun now. None while this process has not been heard of for a lease."""
        if asyncio.get_running_loop().time() - self._renewed_at >= LEASE.total_seconds():
            return []
        return [share for share in self.held if share not in self.leaving]

    def leases_of(self, buckets: Iterable[int]) -> dict[int, Lease]:
        """The leases under which something is done in these buckets, by share; without those that were lost."""
        wanted = {share_of(bucket) for bucket in buckets}
        return {share: self.held[share] for share in sorted(wanted) if share in self.held}

    async def join(self) -> None:
        """Make the rows of the leases. UnavailableError if the database does not answer."""
        await self.database.write(self._make_leases)

    async def beat(self) -> bool:
        """Renew what is held, see who else is there, take or leave shares; True if something was taken or lost."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        seen = await self.database.write_once(self._look)
        self._renewed_at = began
        before = dict(self.held)
        shares = {self._number(one): one for one in seen if one.name}
        self.held = {number: self._lease(one.name, one.epoch) for number, one in shares.items() if one.is_mine}
        quota = self._quota({one.owner for one in seen if not one.name and one.owner is not None})
        free = [n for n, one in shares.items() if n not in self.held and (one.owner is None or one.seconds_left <= 0)]
        self.leaving = set(sorted(self.held)[quota:])
        if free and self.takes and len(self.held) < quota:
            await self._take(free, quota - len(self.held))
        others = [one.seconds_left for n, one in shares.items() if n not in self.held and one.owner is not None]
        self.pause = max(_SOONEST, min([BEAT, *(left + _SOONEST for left in others)]))
        return before != self.held

    async def give_back(self, numbers: Iterable[int]) -> None:
        """Let another take them at once."""
        leases = [self.held.pop(number) for number in numbers if number in self.held]
        self.leaving.difference_update(numbers)
        if leases:
            await self.database.write_once(lambda c: self._release(c, [lease.name for lease in leases]))

    async def leave(self) -> None:
        """Give everything back, also what was taken or given back without an answer, and be no member any more."""
        self.held.clear()
        self.leaving.clear()
        await self.database.write_once(lambda c: self._release(c, self._names()))
        await self.database.write_once(self._forget)

    def _quota(self, others: set[UUID]) -> int:
        members = sorted({*others, self.owner})
        self.members = len(members)
        return SHARES // len(members) + (members.index(self.owner) < SHARES % len(members))

    async def _take(self, free: Sequence[int], at_most: int) -> None:
        # Each member begins elsewhere, so that those who come at once do not all try the same ones.
        first = self.owner.int % SHARES
        order = sorted(free, key=lambda number: (number - first) % SHARES)[:at_most]
        taken = await self.database.write_once(lambda c: self._acquire(c, [self._name(number) for number in order]))
        for name, epoch in taken:
            lease = self._lease(name, epoch)
            self.held[int(name.rpartition(":")[2])] = lease
        if taken:
            log.info("shares_taken", shares=sorted(self.held), members=self.members)

    def _name(self, number: int) -> str:
        return f"relay:{self.service}:{number:02}"

    def _number(self, one: _Seen) -> int:
        return int(one.name.rpartition(":")[2])

    def _lease(self, name: str, epoch: int) -> Lease:
        return Lease(name, self.owner, epoch, LEASE)

    def _names(self) -> list[str]:
        return [self._name(number) for number in range(SHARES)]

    def _make_leases(self, connection: Connection) -> None:
        tables = self.database.tables
        leases, members = tables.leases, tables.relay_members
        known = set(connection.execute(select(leases.c.name).where(leases.c.name.in_(self._names()))).scalars())
        now = connection.execute(select(database_now(connection))).scalar_one()
        rows = [{"name": name, "epoch": 0, "expires_at": now} for name in self._names() if name not in known]
        if rows:
            connection.execute(upsert(connection, leases).on_conflict_do_nothing(), rows)
        old = database_now(connection, after=-_FORGOTTEN)
        connection.execute(delete(members).where(members.c.expires_at < old))

    def _look(self, connection: Connection) -> list[_Seen]:
        tables = self.database.tables
        if is_postgres(connection):
            return [_Seen._make(row) for row in connection.execute(self._beat_in_one(connection, tables))]
        connection.execute(self._announcing(connection, tables))
        connection.execute(self._renewing(connection, tables))
        mine = tables.leases.c.owner == self.owner
        shares = connection.execute(self._shares(connection, tables, mine)).all()
        members = connection.execute(self._members(connection, tables)).all()
        return [_Seen(*row)._replace(is_mine=bool(row[-1])) for row in (*shares, *members)]

    def _beat_in_one(self, connection: Connection, tables: Tables) -> Any:
        """What is selected is as it was before; that a share was renewed is told by the renewal itself."""
        leases = tables.leases
        announced = self._announcing(connection, tables).returning(tables.relay_members.c.member).cte("announced")
        renewed = self._renewing(connection, tables).returning(leases.c.name).cte("renewed")
        mine = select(true()).where(renewed.c.name == leases.c.name).exists()
        return union_all(self._shares(connection, tables, mine), self._members(connection, tables)).add_cte(announced)

    def _announcing(self, connection: Connection, tables: Tables) -> Any:
        until = database_now(connection, after=LEASE)
        members = tables.relay_members
        values = {"service": self.service, "member": self.owner, "expires_at": until}
        statement = upsert(connection, members).values(**values)
        return statement.on_conflict_do_update(index_elements=["service", "member"], set_={"expires_at": until})

    def _renewing(self, connection: Connection, tables: Tables) -> Any:
        leases = tables.leases
        mine = (leases.c.owner == self.owner) & leases.c.name.in_(self._names())
        return update(leases).where(mine).values(expires_at=database_now(connection, after=LEASE))

    def _shares(self, connection: Connection, tables: Tables, mine: Any) -> Any:
        leases = tables.leases
        left = seconds_until(connection, leases.c.expires_at)
        return select(leases.c.name, leases.c.owner, leases.c.epoch, left, mine.label("mine")).where(
            leases.c.name.in_(self._names())
        )

    def _members(self, connection: Connection, tables: Tables) -> Any:
        members = tables.relay_members
        left = seconds_until(connection, members.c.expires_at)
        alive = (members.c.service == self.service) & (members.c.expires_at > database_now(connection))
        return select(literal(""), members.c.member, literal(0), left, false()).where(alive)

    def _acquire(self, connection: Connection, names: Sequence[str]) -> list[tuple[str, int]]:
        leases, now = self.database.tables.leases, database_now(connection)
        is_free = leases.c.owner.is_(None) | (leases.c.expires_at <= now)
        # A row that somebody has locked is about to be changed, or a write of its owner is under way: next time.
        free = select(leases.c.name).where(leases.c.name.in_(names), is_free).with_for_update(skip_locked=True)
        until = database_now(connection, after=LEASE)
        taken = (
            update(leases)
            .where(leases.c.name.in_(free))
            .values(owner=self.owner, epoch=leases.c.epoch + 1, expires_at=until)
            .returning(leases.c.name, leases.c.epoch)
        )
        return [(row.name, row.epoch) for row in connection.execute(taken)]

    def _release(self, connection: Connection, names: Sequence[str]) -> None:
        """By owner alone, which is enough: whoever takes one over is another."""
        leases = self.database.tables.leases
        mine = (leases.c.owner == self.owner) & leases.c.name.in_(names)
        connection.execute(update(leases).where(mine).values(owner=None, expires_at=database_now(connection)))

    def _forget(self, connection: Connection) -> None:
        members = self.database.tables.relay_members
        connection.execute(delete(members).where(members.c.service == self.service, members.c.member == self.owner))
