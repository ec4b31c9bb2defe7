"""When the faults are over: waits until nothing waits any more."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import asyncpg

from tools.messaging_torture.stage import Stage, ask

EVENTS = "SELECT count(*) AS n FROM cqrs_events"
OUTBOX = "SELECT count(*) AS n FROM cqrs_outbox"
SETTLED = (
    "SELECT count(DISTINCT message_id) AS n FROM (SELECT message_id FROM effects WHERE handler = $1 UNION ALL "
    "SELECT message_id FROM cqrs_dead_letters WHERE consumer = $1) AS settled"
)
_QUIET = 2.0
_LOOK_EVERY, _TOLD_EVERY = 0.5, 10.0


def drain(stage: Stage, watch: Callable[[], None], tell: Callable[[str], None]) -> tuple[float, list[str]]:
    """The seconds that it took, and what still waits if it was given up. `watch` is called while it waits."""
    began = moved = told = time.monotonic()
    waiting = list(_waiting(stage))
    while waiting and (now := time.monotonic()) < began + stage.plan.drain_seconds:
        if now > moved + stage.plan.still_seconds:
            break
        if now > told + _TOLD_EVERY:
            told = now
            tell("; ".join(waiting))
        _pause(watch)
        before, waiting = waiting, list(_waiting(stage))
        moved = time.monotonic() if waiting != before else moved
    seconds = time.monotonic() - began
    if not waiting:
        time.sleep(_QUIET)  # what must not happen has its chance to happen
    return seconds, waiting


def _pause(watch: Callable[[], None]) -> None:
    ends = time.monotonic() + _LOOK_EVERY
    while time.monotonic() < ends:
        watch()
        time.sleep(0.02)


def _waiting(stage: Stage) -> Iterator[str]:
    try:
        events = _count(stage.writing, EVENTS)
        if outbox := _count(stage.writing, OUTBOX):
            yield f"{outbox} messages wait in the outbox"
        for handler, url in (("journal", stage.writing), ("books", stage.reading), ("notices", stage.reading)):
            if (settled := _count(url, SETTLED, handler)) < events:
                yield f"{handler} has settled {settled} of {events} messages"
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        yield f"the database gives no answer: {error!r}"


def _count(url: str, statement: str, *values: object) -> int:
    return int(ask(url, statement, *values)[0]["n"])
