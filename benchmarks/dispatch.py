"""`send` against awaiting the handler by hand, and an injected graph against building it by hand."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import ClassVar

from dependency_injector import providers

from benchmarks.timing import Ratio, compare
from cqrs_fastapi import CQRS, Command, CqrsContainer, RequestHandler, Settings

COUNT = 5_000
ROUNDS = 60


class Add(Command[int]):
    amount: int


class AddByGraph(Command[int]):
    amount: int


class Ledger:
    total: ClassVar[int] = 1


class Reads:
    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger


class Prices:
    def __init__(self, reads: Reads) -> None:
        self.reads = reads


class AddByGraphHandler(RequestHandler[AddByGraph, int]):
    def __init__(self, prices: Prices) -> None:
        self.prices = prices

    async def handle(self, command: AddByGraph) -> int:
        return command.amount + self.prices.reads.ledger.total


async def add(command: Add) -> int:
    return command.amount + 1


class Container(CqrsContainer):
    ledger = providers.Singleton(Ledger)
    reads = providers.Factory(Reads)
    prices = providers.Factory(Prices)


async def run() -> list[Ratio]:
    """The public mediator of a running application, with registry, metadata and tracing as they are by default."""
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(database_url=f"sqlite+aiosqlite:///{Path(folder) / 'bench.db'}")
        cqrs = CQRS(settings=settings, container=Container())
        cqrs.handles(Add)(add)
        cqrs.handles(AddByGraph)(AddByGraphHandler)
        async with cqrs.running(workers=()):
            return [await _plain(cqrs), await _constructed(cqrs), await _graph(cqrs)]


async def _plain(cqrs: CQRS) -> Ratio:
    send, command = cqrs.mediator.send, Add(amount=1)

    async def by_mediator(count: int) -> None:
        for _ in range(count):
            await send(command)

    async def by_hand(count: int) -> None:
        for _ in range(count):
            await add(command)

    name = "send to a handler that asks for nothing / direct await"
    return await compare(name, by_mediator, by_hand, limit=2.5, count=COUNT, rounds=ROUNDS)


async def _constructed(cqrs: CQRS) -> Ratio:
    send = cqrs.mediator.send

    async def by_mediator(count: int) -> None:
        for number in range(count):
            await send(Add(amount=number))

    async def by_hand(count: int) -> None:
        for number in range(count):
            await add(Add(amount=number))

    name = "the same, with the command made each time / direct await"
    return await compare(name, by_mediator, by_hand, limit=2.5, count=COUNT, rounds=ROUNDS)


async def _graph(cqrs: CQRS) -> Ratio:
    send, command, ledger = cqrs.mediator.send, AddByGraph(amount=1), Ledger()

    async def by_mediator(count: int) -> None:
        for _ in range(count):
            await send(command)

    async def by_hand(count: int) -> None:
        for _ in range(count):
            await AddByGraphHandler(Prices(Reads(ledger))).handle(command)

    name = "send with a three-level graph / construction by hand"
    return await compare(name, by_mediator, by_hand, limit=1.3, count=COUNT, rounds=ROUNDS)
