"""One partition at work: keys side by side, each in its order, and the offset behind them all."""

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pytest

from cqrs_fastapi.brokers.broker import IncomingMessage, Place
from cqrs_fastapi.errors import UnavailableError
from cqrs_fastapi.inbox.lane import Lane
from cqrs_fastapi.inbox.receiver import Piece
from cqrs_fastapi.inbox.track import Bounds

pytestmark = pytest.mark.anyio


def message(offset: int, key: str | None) -> IncomingMessage:
    return IncomingMessage("topic", 0, offset, None if key is None else key.encode(), b"", {}, datetime.now(UTC))


@dataclass(eq=False)
class Work:
    message: IncomingMessage
    consumer: str
    may_share: bool
    receiver: "Receiver"

    async def settle(self, stop: asyncio.Event) -> bool:
        return await self.receiver.run(self, stop)


@dataclass
class Receiver:
    """Remembers who was begun and ended, and waits where it is told to."""

    consumers: tuple[str, ...] = ("one",)
    sharing: bool = False
    held: set[tuple[str, int]] = field(default_factory=set)
    refuses: set[int] = field(default_factory=set)
    failures: int = 0
    begun: list[tuple[str, int]] = field(default_factory=list)
    ended: list[tuple[str, int]] = field(default_factory=list)
    batches: list[list[int]] = field(default_factory=list)
    now: int = 0
    most: int = 0

    async def open(self, messages: Sequence[IncomingMessage]) -> Sequence[Sequence[Piece]]:
        if self.failures:
            self.failures -= 1
            raise UnavailableError("planned")
        return [[Work(one, consumer, self.sharing, self) for consumer in self.consumers] for one in messages]

    async def settle_together(self, pieces: Sequence[Piece], stop: asyncio.Event) -> Collection[Piece]:
        self.batches.append([piece.message.offset for piece in pieces])
        await asyncio.sleep(0.01)
        left = {piece.message.key for piece in pieces if piece.message.offset in self.refuses}
        done = [piece for piece in pieces if piece.message.key not in left]
        self.ended += [(piece.consumer, piece.message.offset) for piece in done]
        return done

    async def give_up(self, place: Place, *, is_finished: bool) -> None:
        pass

    async def run(self, work: Work, stop: asyncio.Event) -> bool:
        name = (work.consumer, work.message.offset)
        self.begun.append(name)
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            while name in self.held:
                if stop.is_set():
                    return False
                await asyncio.sleep(0.005)
            await asyncio.sleep(0.001)
        finally:
            self.now -= 1
        self.ended.append(name)
        return True


class Bench:
    def __init__(self, receiver: Receiver, *, keys: int = 4, batch: int = 10) -> None:
        self.receiver = receiver
        self.failed: list[BaseException] = []
        self.lane = Lane(Place("topic", 0), receiver, Bounds(keys, batch), lambda: None, self.failed.append)

    async def until(self, count: int) -> None:
        async with asyncio.timeout(10):
            while len(self.receiver.ended) < count:
                await asyncio.sleep(0.005)

    def passed(self) -> list[int]:
        return [one.offset for one in self.lane.watermark.take()]


async def test_each_key_keeps_its_order_and_so_many_are_worked_on_at_once() -> None:
    bench = Bench(Receiver(), keys=3)
    bench.lane.add([message(n, f"key-{n % 7}") for n in range(70)])
    await bench.until(70)
    for key in range(7):
        mine = [offset for _, offset in bench.receiver.ended if offset % 7 == key]
        assert mine == sorted(mine)
    assert bench.receiver.most == 3
    assert bench.passed() == list(range(70))


async def test_a_slow_key_holds_up_the_offset_and_no_other_key() -> None:
    bench = Bench(Receiver(held={("one", 1)}))
    bench.lane.add([message(0, "a"), message(1, "slow"), message(2, "slow"), message(3, "b"), message(4, "c")])
    await bench.until(3)
    assert [offset for _, offset in bench.receiver.ended] == [0, 3, 4]
    assert bench.passed() == [0]
    bench.receiver.held.clear()
    await bench.until(5)
    assert bench.passed() == [1, 2, 3, 4]


async def test_a_handler_that_waits_holds_up_the_offset_and_no_other_handler() -> None:
    bench = Bench(Receiver(consumers=("one", "two"), held={("one", 0)}))
    bench.lane.add([message(n, "k") for n in range(5)])
    await bench.until(5)
    assert bench.receiver.ended == [("two", n) for n in range(5)]
    assert bench.passed() == []
    bench.receiver.held.clear()
    await bench.until(10)
    assert bench.passed() == [0, 1, 2, 3, 4]


async def test_messages_without_a_key_wait_for_nobody() -> None:
    bench = Bench(Receiver(held={("one", 0)}))
    bench.lane.add([message(0, None), message(1, None), message(2, None)])
    await bench.until(2)
    assert bench.passed() == []


async def test_what_waits_while_a_transaction_is_under_way_shares_the_next() -> None:
    bench = Bench(Receiver(sharing=True), keys=2, batch=10)
    bench.lane.add([message(n, f"key-{n % 3}") for n in range(35)])
    await bench.until(35)
    assert all(len(batch) <= 10 for batch in bench.receiver.batches)
    assert len(bench.receiver.batches) <= 5
    for key in range(3):
        mine = [offset for _, offset in bench.receiver.ended if offset % 3 == key]
        assert mine == sorted(mine)
    assert bench.passed() == list(range(35))


async def test_what_a_batch_leaves_is_settled_alone_before_the_rest_of_its_key() -> None:
    bench = Bench(Receiver(sharing=True, refuses={4}, held={("one", 4)}))
    bench.lane.add([message(n, f"key-{n % 2}") for n in range(10)])
    await bench.until(5)
    bench.lane.add([message(n, f"key-{n % 2}") for n in range(10, 20)])
    await bench.until(12)
    assert [offset for _, offset in bench.receiver.ended if offset % 2 == 0] == [0, 2]
    bench.receiver.held.clear()
    await bench.until(20)
    even = [offset for _, offset in bench.receiver.ended if offset % 2 == 0]
    assert even == sorted(even)
    assert bench.passed() == list(range(20))


async def test_a_drain_ends_what_was_begun_and_begins_nothing_more() -> None:
    bench = Bench(Receiver(), keys=2)
    bench.lane.add([message(n, f"key-{n}") for n in range(50)])
    await bench.until(3)
    await bench.lane.drain()
    assert sorted(bench.receiver.begun) == sorted(bench.receiver.ended)
    assert len(bench.receiver.ended) < 50
    passed = bench.passed()
    assert passed == list(range(len(passed)))
    bench.lane.add([message(50, "late")])
    await asyncio.sleep(0.02)
    assert len(bench.receiver.begun) == len(bench.receiver.ended)


async def test_a_drain_does_not_wait_for_what_waits_between_two_attempts() -> None:
    bench = Bench(Receiver(held={("one", 0)}))
    bench.lane.add([message(0, "a"), message(1, "b")])
    await bench.until(1)
    await bench.lane.drain()
    assert bench.passed() == []


async def test_what_is_received_again_while_it_is_in_hand_is_passed_over() -> None:
    bench = Bench(Receiver())
    bench.lane.add([message(n, "k") for n in range(5)])
    bench.lane.add([message(n, "k") for n in range(3, 8)])
    await bench.until(8)
    assert bench.receiver.ended == [("one", n) for n in range(8)]


async def test_what_cannot_be_opened_now_is_asked_for_again() -> None:
    bench = Bench(Receiver(failures=1))
    bench.lane.add([message(n, "k") for n in range(3)])
    await bench.until(3)
    assert bench.passed() == [0, 1, 2]
