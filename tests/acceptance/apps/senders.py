"""An application whose relays are processes of their own. `DIE_AT` names a point at which this process kills itself."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from cqrs_fastapi import CQRS, Command, Event, EventStore
from cqrs_fastapi.eventstore.expected_version import ANY
from cqrs_fastapi.outbox import lane

TOPIC = os.environ.get("TOPIC", "senders")


class Counted(Event, topic=TOPIC):
    number: int
    written_at: float = 0.0


class Count(Command[None]):
    stream: str
    numbers: tuple[int, ...]


cqrs = CQRS()
cqrs.register(Counted)


@cqrs.handles(Count)
async def count(command: Count, store: EventStore) -> None:
    events = [Counted(number=number, written_at=time.time()) for number in command.numbers]
    await store.append(command.stream, events, ANY)


if "HANDLED" in os.environ:

    @cqrs.on(Counted, name="stopwatch")
    async def stopwatch(event: Counted) -> None:
        took = time.time() - event.written_at
        with Path(os.environ["HANDLED"]).open("a") as file:  # noqa: ASYNC230  # as short as the handler that is timed
            file.write(f"{took}\n")


if os.environ.get("DIE_AT") == "acknowledged":
    # Between the broker's acknowledgement and the delete.
    def die(*_: object, **__: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    lane.settle = die  # type: ignore[assignment]  # a process that is gone returns nothing
