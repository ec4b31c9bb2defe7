"""cqrs_fastapi itself."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaTimeoutError

from cqrs_fastapi import CQRS, Aggregate, Command, Event, Repository, applies
from cqrs_fastapi.brokers.broker import Delivery
from cqrs_fastapi.brokers.kafka.publisher import KafkaPublisher
from cqrs_fastapi.cli.main import app
from tools.peers.systems.numbers import Handler, die, fault, texts


class Numbered(Event, name="peers.numbered", topic=os.environ.get("PEERS_TOPIC", "peers")):
    text: str


class Line(Aggregate, category="line"):
    last: str = ""

    @applies
    def on_numbered(self, event: Numbered) -> None:
        self.last = event.text


class Add(Command[None]):
    stream: int
    text: str


cqrs = CQRS()
handler = Handler()


@cqrs.handles(Add)
async def add(command: Add, lines: Repository[Line]) -> None:
    (await lines.get_or_new(UUID(int=command.stream + 1))).record(Numbered(text=command.text))


@cqrs.on(Numbered, name="numbers")
async def numbers(event: Numbered) -> None:
    handler(event.text)


async def fill(events: int, streams: int) -> None:
    async with cqrs.running(workers=()):
        for stream, text in texts(events, streams):
            async with cqrs.scope() as scope:
                await scope.send(Add(stream=stream, text=text))


def stream_error() -> None:
    """The first batch holds the first message of every stream: it is refused once."""
    send, failed = AIOKafkaProducer.send_batch, [False]

    async def failing(self: Any, *arguments: Any, **named: Any) -> Any:
        if not failed[0]:
            failed[0] = True
            raise KafkaTimeoutError
        return await send(self, *arguments, **named)

    AIOKafkaProducer.send_batch = failing


def kill_after_ack() -> None:
    publish = KafkaPublisher.publish

    async def killing(self: Any, messages: Sequence[Any]) -> Any:
        outcomes = await publish(self, messages)
        if any(outcome.delivery is Delivery.ACKNOWLEDGED for outcome in outcomes):
            die()
        return outcomes

    KafkaPublisher.publish = killing  # type: ignore[method-assign]


def main(command: str, *arguments: str) -> None:
    if fault():
        {"stream-error": stream_error, "kill-after-ack": kill_after_ack}[fault()]()
    if command == "fill":
        asyncio.run(fill(int(arguments[0]), int(arguments[1])))
    else:
        sys.path.insert(0, str(Path(__file__).parents[3]))
        app([command, "tools.peers.systems.ours:cqrs"])


if __name__ == "__main__":
    main(*sys.argv[1:])
