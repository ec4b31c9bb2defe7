"""A process with all workers and one handler, which prints the seconds from the commit of an event to its start."""

from __future__ import annotations

import asyncio
import logging
import sys
import time

import structlog

from cqrs_fastapi import CQRS, Command, Event, EventStore, Settings
from cqrs_fastapi.eventstore.expected_version import ANY


class Begun(Event):
    """Told before its commit, so that the commit itself counts too."""

    at: float


class Begin(Command[None]):
    number: int


def application(url: str) -> CQRS:
    """What both processes have."""
    cqrs = CQRS(settings=Settings(database_url=url, broker_url="memory://"))
    cqrs.register(Begun)

    @cqrs.handles(Begin)
    async def begin(command: Begin, store: EventStore) -> None:
        await store.append(f"begun-{command.number}", [Begun(at=time.time())], ANY)

    return cqrs


async def main(url: str) -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    cqrs = application(url)

    @cqrs.on(Begun, name="stopwatch")
    async def stopwatch(event: Begun) -> None:
        print(time.time() - event.at, flush=True)

    async with cqrs.running():
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
