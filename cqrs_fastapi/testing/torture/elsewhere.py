"""Another process that writes to the same SQLite file, and tells at its end what its writers were told."""

from __future__ import annotations

import asyncio
import json
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from random import Random

from cqrs_fastapi.clock import SystemClock
from cqrs_fastapi.errors import UnavailableError
from cqrs_fastapi.eventstore.appender import Appender
from cqrs_fastapi.storage.database import Database
from cqrs_fastapi.testing.torture import load
from cqrs_fastapi.testing.torture.field import Field, Hand
from cqrs_fastapi.testing.torture.ledger import Ledger
from cqrs_fastapi.testing.torture.plan import Plan
from cqrs_fastapi.testing.torture.stage import settings_of

LANE = 1
_WRITERS = 4
_END_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class _Said:
    """`states` is hexadecimal; see `Ledger.states`."""

    states: str
    outcomes: dict[str, int]


@asynccontextmanager
async def other_process(plan: Plan, name: str, ledger: Ledger, random: Random) -> AsyncIterator[None]:
    """Writes beside the block; at its end the ledger takes over what it says. UnavailableError if it has failed."""
    told = {"url": plan.database_url, "name": name, "run": ledger.run, "seed": random.getrandbits(32)}
    job = json.dumps(told | {"group_commit": plan.group_commit})
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "cqrs_fastapi.testing.torture.elsewhere"),
        stdin=PIPE,
        stdout=PIPE,
        start_new_session=True,  # Ctrl-C is for the process that the user sees
    )
    assert process.stdin is not None  # noqa: S101  # for the checker: it is a pipe
    process.stdin.write(job.encode() + b"\n")
    try:
        yield
        said = await _end(process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    ledger.adopt(LANE, bytes.fromhex(said.states), said.outcomes)


async def _end(process: Process) -> _Said:
    """It stops when its input is closed."""
    assert process.stdin is not None  # noqa: S101  # for the checker: it is a pipe
    process.stdin.close()
    try:
        async with asyncio.timeout(_END_SECONDS):
            output, _ = await process.communicate()
    except TimeoutError as error:
        raise UnavailableError(f"the other process did not end within {_END_SECONDS:.0f} seconds") from error
    if process.returncode != 0:
        raise UnavailableError(f"the other process failed with status {process.returncode}; its error is above")
    return _Said(**json.loads(output))


async def _main() -> None:
    job = json.loads(sys.stdin.readline())
    database = Database(settings_of(job["url"], job["name"], "elsewhere", _WRITERS))
    await database.open()
    ledger = Ledger(job["run"], LANE)
    random = Random(job["seed"])  # noqa: S311  # choices of a load, no secrets
    appender = Appender(database)
    field = Field(ledger, random, SystemClock(), (database,), (appender,), job["name"], slow=0.02)
    kinds = load.kinds(group_commit=job["group_commit"])
    try:
        async with asyncio.TaskGroup() as group:
            for number in range(_WRITERS):
                kind = kinds[number % len(kinds)]
                group.create_task(load.write_on(Hand(field, number, f"elsewhere_{kind.__name__}"), kind))
            await asyncio.to_thread(sys.stdin.read)
            field.stop.set()
        await appender.close()
    finally:
        await database.close()
    print(json.dumps(asdict(_Said(ledger.states().hex(), dict(ledger.outcomes)))))  # noqa: T201  # its answer


if __name__ == "__main__":
    asyncio.run(_main())
