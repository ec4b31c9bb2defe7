"""What happens to a database from outside: back ends die, somebody else's transaction stays open, phases are forgotten.

It needs no right that the owner of a database lacks. What it may not do is told in `notes`, and left out.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from random import Random

from sqlalchemy import Connection, bindparam, text
from sqlalchemy.exc import DBAPIError

from cqrs_fastapi.errors import UnavailableError
from cqrs_fastapi.testing.torture.stage import Stage

_BETWEEN_KILLS = 2.0
"""The longest pause, in seconds."""
_FORGOTTEN = 3.0
"""Seconds after which a prepared transaction has been forgotten by whoever prepared it."""
_SETTLED = 30.0

_VICTIMS = text(
    "SELECT pid FROM pg_stat_activity WHERE application_name IN :names AND datname = current_database()"
    " AND pid <> pg_backend_pid() AND usename = current_user"
).bindparams(bindparam("names", expanding=True))
_KILL = text("SELECT pg_terminate_backend(:pid)")
_PREPARED = text(
    "SELECT gid FROM pg_prepared_xacts WHERE database = current_database() AND starts_with(gid, :name)"
    " AND prepared <= clock_timestamp() - make_interval(secs => :age)"
)
_BUSY = text(
    "SELECT count(*) FROM pg_stat_activity WHERE application_name IN :names AND datname = current_database()"
    " AND state <> 'idle'"
).bindparams(bindparam("names", expanding=True))


class Chaos:
    """One task kills, another one clears up after those who were killed between two phases."""

    def __init__(self, stage: Stage, random: Random) -> None:
        self._stage, self._random = stage, random
        self.kills = 0
        self.notes: list[str] = []

    async def allows_prepared(self) -> bool:
        """Whether the server takes prepared transactions; a note says so if it does not."""
        found = await self._ask("SHOW max_prepared_transactions")
        if found == "0":
            self.notes.append("no prepared transactions: the server has max_prepared_transactions = 0")
        return found != "0"

    async def kill(self) -> None:
        """Until it is cancelled, or may not."""
        while True:
            await asyncio.sleep(self._random.uniform(0.1, _BETWEEN_KILLS))
            try:
                await self._kill_one()
            except UnavailableError:
                continue
            except DBAPIError as error:
                self.notes.append(f"no kills: {error.orig}")
                return

    async def clear_up(self) -> None:
        """Until it is cancelled, end prepared transactions that hang in the air."""
        while True:
            await asyncio.sleep(1.0)
            await self.end_prepared(_FORGOTTEN)

    async def end_prepared(self, age: float = 0.0) -> None:
        rows = {"name": self._stage.name, "age": age}
        try:
            for name in await self._stage.chaos.read(lambda it: it.execute(_PREPARED, rows).scalars().all()):
                await self._roll_back(name)
        except UnavailableError:
            return  # the next round finds them again

    async def settle(self) -> None:
        """Wait until no back end of the writers has anything under way: a client may be gone before its statement."""
        names = list(self._stage.application_names[:1])
        for _ in range(int(_SETTLED * 10)):
            if not await self._stage.chaos.read(lambda it: it.execute(_BUSY, {"names": names}).scalar_one()):
                return
            await asyncio.sleep(0.1)
        self.notes.append(f"transactions of the load were still open {_SETTLED:.0f} seconds after its end")

    @asynccontextmanager
    async def foreign_transaction(self) -> AsyncIterator[None]:
        """Writes to another table of the same database, and stays open all through the block."""
        async with self._stage.chaos.engine.connect() as connection:
            await connection.exec_driver_sql("SET LOCAL idle_in_transaction_session_timeout = 0")
            await connection.exec_driver_sql(f"INSERT INTO {self._stage.foreign_table} VALUES (1)")  # noqa: S608  # a name of our own
            yield
            await connection.commit()

    async def _kill_one(self) -> None:
        def work(connection: Connection) -> bool:
            victims: Sequence[int] = (
                connection.execute(_VICTIMS, {"names": list(self._stage.application_names)}).scalars().all()
            )
            if not victims:
                return False
            return bool(connection.execute(_KILL, {"pid": self._random.choice(victims)}).scalar())

        self.kills += await self._stage.chaos.read(work)

    async def _roll_back(self, name: str) -> None:
        try:
            await self._stage.chaos.read(lambda it: it.exec_driver_sql(f"ROLLBACK PREPARED '{name}'").close())
        except DBAPIError:
            return  # its writer was first

    async def _ask(self, statement: str) -> str:
        return str(await self._stage.chaos.read(lambda it: it.exec_driver_sql(statement).scalar_one()))
