"""Commands that race for one stream: turns, and what becomes of those who wait for theirs."""

import asyncio
import random
from collections.abc import AsyncIterator, Coroutine
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeVar
from uuid import uuid4

import pytest
from small_app import SmallApp, Steady, Unit, started

from cqrs_fastapi.errors import ConcurrencyError
from cqrs_fastapi.mediation.contention import QUEUE_AFTER, Contention, give_way
from cqrs_fastapi.mediation.request_map import RequestMap
from cqrs_fastapi.mediation.request_mediator import RequestMediator
from cqrs_fastapi.mediation.stream_queue import Key, StreamQueues, Turn
from cqrs_fastapi.messages.metadata import Metadata, Origin, enter, leave
from cqrs_fastapi.messages.requests import Command

pytestmark = pytest.mark.anyio

T = TypeVar("T")

A, B = ("", "a"), ("", "b")


class Write(Command[None]):
    number: int = 0


class WriteTwo(Command[None]):
    first: str
    second: str


class Nest(Command[None]):
    number: int


class Insist(Command[None]):
    """Cannot be committed, whatever the version is."""


class Lose(Command[int]):
    """Loses so many races and answers how often it was decided."""

    times: int


def task(work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    return asyncio.get_running_loop().create_task(work)


async def taken(queues: StreamQueues, key: Key, *, seconds: float = 30) -> Turn:
    """The turn of somebody else: it does not belong to the context of the test."""
    turn = await task(queues.take(key, later(seconds)))
    assert turn is not None
    return turn


def later(seconds: float) -> float:
    return asyncio.get_running_loop().time() + seconds


async def settled() -> None:
    """Let everything happen that waits for nothing but the event loop."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_turns_come_in_the_order_in_which_they_were_asked_for() -> None:
    queues, order = StreamQueues(), []

    async def visit(number: int) -> None:
        turn = await queues.take(A, later(30))
        assert turn is not None
        order.append(number)
        await asyncio.sleep(0)
        turn.leave()

    await asyncio.gather(*(visit(number) for number in range(20)))
    assert order == list(range(20))


async def test_a_queue_is_gone_when_nobody_has_its_turn() -> None:
    queues = StreamQueues()
    turn = await taken(queues, A)
    assert len(queues) == 1
    turn.leave()
    turn.leave()
    assert len(queues) == 0


async def test_each_stream_of_each_tenant_has_a_queue_of_its_own() -> None:
    queues = StreamQueues()
    for key in (A, B, ("red", "a")):
        await taken(queues, key)
    assert len(queues) == 3


@pytest.mark.parametrize("moment", ["before its turn comes", "in the moment in which its turn comes"])
async def test_one_that_is_cancelled_while_it_waits_does_not_keep_the_turn(moment: str) -> None:
    queues = StreamQueues()
    first = await taken(queues, A)
    leaving, staying = task(queues.take(A, later(30))), task(queues.take(A, later(30)))
    await settled()
    for step in (leaving.cancel, first.leave) if moment == "before its turn comes" else (first.leave, leaving.cancel):
        step()
    turn = await staying
    assert turn is not None
    assert leaving.cancelled()
    turn.leave()
    assert len(queues) == 0


async def test_a_turn_that_does_not_come_in_time_is_not_waited_for() -> None:
    queues = StreamQueues()
    first = await taken(queues, A)
    assert await queues.take(A, later(0.01)) is None
    first.leave()
    assert len(queues) == 0


async def test_a_turn_ends_by_itself_when_its_time_is_over() -> None:
    queues = StreamQueues()
    hanging = await taken(queues, A, seconds=0.01)
    await taken(queues, A)
    assert not hanging.lasts
    hanging.leave()
    assert len(queues) == 1


async def test_within_a_turn_no_other_is_waited_for() -> None:
    queues = StreamQueues()
    other, mine = await taken(queues, B), await queues.take(A, later(30))
    assert mine is not None
    assert not queues.is_ahead(B)
    assert await task(queues.take(B, later(30))) is None

    mine.leave()
    assert queues.is_ahead(B)
    other.leave()
    assert await queues.take(B, later(30)) is not None


@dataclass
class Streams:
    """Versions, raised in a commit if they are still those that the decision has seen."""

    versions: dict[str, int] = field(default_factory=lambda: {"a": 0, "b": 0})
    decided: list[int] = field(default_factory=list)
    written: list[int] = field(default_factory=list)

    async def commit(self) -> None:
        unit = COMMITTING.get()
        give_way(stream for stream, _, _ in unit.notes)
        await asyncio.sleep(0.001)
        for stream, seen, _ in unit.notes:
            if self.versions[stream] != seen:
                raise conflict(self.versions[stream], stream)
        for stream, seen, number in unit.notes:
            self.versions[stream] = seen + 1
            self.written.append(number)

    def decide(self, unit: Unit, number: int, *streams: str) -> None:
        COMMITTING.set(unit)
        self.decided.append(number)
        for stream in streams:
            unit.note((stream, self.versions[stream], number))


COMMITTING: ContextVar[Unit] = ContextVar("committing")


def conflict(actual: int, stream: str = "a") -> ConcurrencyError:
    return ConcurrencyError(stream=stream, expected="another version", actual=actual)


@dataclass
class Race:
    app: SmallApp
    streams: Streams
    queues: StreamQueues

    async def send(self, command: Command[T]) -> T:
        return await self.app.mediator.send(command)


async def started_race(*, timeout: float = 30.0, retries: int = 3) -> Race:  # noqa: ASYNC109  # a setting
    streams, requests = Streams(), RequestMap()

    @requests.handles(Write)
    async def write(request: Write, unit: Unit) -> None:
        streams.decide(unit, request.number, "a")

    @requests.handles(WriteTwo)
    async def write_two(request: WriteTwo, unit: Unit) -> None:
        streams.decide(unit, 0, request.first, request.second)

    @requests.handles(Nest)
    async def nest(request: Nest, mediator: RequestMediator) -> None:
        await mediator.send(Write(number=request.number))

    @requests.handles(Insist)
    async def insist(request: Insist, unit: Unit) -> None:
        streams.decided.append(-1)
        raise conflict(streams.versions["a"])

    @requests.handles(Lose)
    async def lose(request: Lose, unit: Unit) -> int:
        COMMITTING.set(unit)
        streams.decided.append(0)
        if (count := len(streams.decided)) <= request.times:
            raise conflict(count)
        return count

    app = await started(requests, timeout=timeout, retries=retries, at_once=2000)
    app.world.committing = streams.commit
    return Race(app, streams, app.kernel._queues)


@pytest.fixture
async def race() -> AsyncIterator[Race]:
    race = await started_race()
    yield race
    assert len(race.queues) == 0


async def test_of_many_commands_on_one_stream_all_succeed_after_a_few_attempts(race: Race) -> None:
    await asyncio.gather(*(race.send(Write(number=number)) for number in range(300)))
    assert race.streams.versions["a"] == 300
    assert max(race.streams.decided.count(number) for number in range(300)) <= QUEUE_AFTER + 1


async def test_those_who_queue_are_served_in_the_order_in_which_they_came(race: Race) -> None:
    somebody_s = await taken(race.queues, A)
    racing = [task(race.send(Write(number=number))) for number in range(50)]
    await settled()
    assert race.streams.written == []
    somebody_s.leave()
    await asyncio.gather(*racing)
    assert race.streams.written == list(range(50))


async def test_a_race_may_be_lost_however_often(race: Race) -> None:
    assert await race.send(Lose(times=20)) == 21


async def test_a_decision_that_cannot_be_committed_is_made_again_as_often_as_the_settings_say(race: Race) -> None:
    with pytest.raises(ConcurrencyError):
        await race.send(Insist())
    assert race.streams.decided == [-1] * 4


async def test_a_decision_that_cannot_be_committed_is_given_up_though_others_go_on_writing(race: Race) -> None:
    insisting = task(race.send(Insist()))
    while not insisting.done():
        await race.send(Write())
    assert isinstance(insisting.exception(), ConcurrencyError)
    assert race.streams.decided.count(-1) < 20


async def test_without_retries_no_command_is_decided_again() -> None:
    race = await started_race(retries=0)
    sends = (race.send(Write(number=number)) for number in range(5))
    results = await asyncio.gather(*sends, return_exceptions=True)
    assert [type(result) for result in results] == [type(None)] + [ConcurrencyError] * 4
    assert race.streams.decided == [0, 1, 2, 3, 4]


async def test_a_nested_command_queues_with_the_outer_one(race: Race) -> None:
    await asyncio.gather(*(race.send(Nest(number=number)) for number in range(20)))
    assert race.streams.versions["a"] == 20


async def test_commands_that_write_two_streams_in_opposite_order_all_succeed(race: Race) -> None:
    both = [WriteTwo(first="a", second="b"), WriteTwo(first="b", second="a")]
    await asyncio.gather(*(race.send(command) for command in both * 20))
    assert race.streams.versions == {"a": 40, "b": 40}


async def test_one_who_comes_while_others_queue_gives_way_and_decides_again_in_its_turn(race: Race) -> None:
    turn = await taken(race.queues, A)
    newcomer = task(race.send(Write()))
    while "rolled back" not in race.app.world.endings:
        await asyncio.sleep(0)
    race.streams.versions["a"] = 7
    await settled()
    assert not newcomer.done()

    turn.leave()
    await newcomer
    assert race.streams.versions["a"] == 8
    assert race.app.world.endings == ["rolled back", "committed"]


async def test_one_whose_turn_does_not_come_in_time_is_told_of_a_conflict_that_may_be_tried_again() -> None:
    race = await started_race(timeout=0.05)
    turn = await taken(race.queues, A)
    with pytest.raises(ConcurrencyError, match="others were writing stream 'a'") as raised:
        await race.send(Write())
    assert raised.value.retryable
    turn.leave()
    assert len(race.queues) == 0


async def test_one_that_runs_out_of_time_in_its_turn_is_told_of_the_conflict_and_the_queue_goes_on() -> None:
    race = await started_race(timeout=0.05)
    hanging = asyncio.Event()

    @dataclass
    class Guard:
        attempts: int = 0

        async def __call__(self, scope: object) -> None:
            self.attempts += 1
            if self.attempts > QUEUE_AFTER:
                hanging.set()
                await asyncio.Event().wait()
            raise conflict(self.attempts)

    async def body(scope: object, message: object) -> None: ...

    hangs = task(race.app.kernel.run(body, Write(), read_only=False, guard=Guard()))
    await hanging.wait()
    assert len(race.queues) == 1
    with pytest.raises(ConcurrencyError):
        await hangs
    await race.send(Write())
    assert len(race.queues) == 0


async def test_a_commit_that_hangs_keeps_the_turn_no_longer_than_its_time() -> None:
    race = await started_race(timeout=1)
    commits, go_on = 0, asyncio.Event()

    async def commit() -> None:
        nonlocal commits
        commits += 1
        if commits == 1:
            await go_on.wait()
        else:
            await race.streams.commit()

    race.app.world.committing = commit
    hangs = task(race.send(Lose(times=QUEUE_AFTER)))
    while not commits:
        await asyncio.sleep(0)
    await asyncio.sleep(0.5)
    await race.send(Write())
    assert not hangs.done()

    go_on.set()
    assert await hangs == QUEUE_AFTER + 1
    assert len(race.queues) == 0


async def test_units_that_are_cancelled_in_and_before_their_turn_leave_no_queue(race: Race) -> None:
    sends = [task(race.send(Write(number=number))) for number in range(30)]
    while not len(race.queues):
        await asyncio.sleep(0)
    for unit in set(race.app.kernel._tasks):
        unit.cancel()
    await asyncio.wait(sends)
    await settled()
    assert any(send.cancelled() for send in sends)


async def test_a_command_that_a_handler_sends_from_the_outside_is_not_kept_waiting_by_its_sender(race: Race) -> None:
    requests = RequestMap()
    attempts = []

    @requests.handles(Nest)
    async def outer(request: Nest, unit: Unit) -> None:
        attempts.append("outer")
        if len(attempts) <= QUEUE_AFTER:
            raise conflict(len(attempts))
        await app.mediator.send(Write())  # the application's own mediator: a unit of work of its own

    @requests.handles(Write)
    async def inner(request: Write, unit: Unit) -> None:
        attempts.append("inner")
        if attempts.count("inner") <= QUEUE_AFTER:
            raise conflict(len(attempts))

    app = await started(requests, timeout=5)
    await app.mediator.send(Nest(number=1))
    assert attempts == ["outer"] * (QUEUE_AFTER + 1) + ["inner"] * (QUEUE_AFTER + 1)
    assert len(app.kernel._queues) == 0


async def test_a_unit_of_work_that_is_no_command_s_does_not_give_way(race: Race) -> None:
    turn = await taken(race.queues, A)
    give_way(["a"])
    turn.leave()


async def test_who_loses_every_race_goes_on_until_its_deadline_and_not_beyond() -> None:
    contention = Contention(StreamQueues(), 3, later(0.05), random.Random(1))  # noqa: S311  # no secret
    conflicts = 0
    while await contention.outlast(conflict(conflicts)):
        conflicts += 1
    contention.leave()
    assert conflicts > 3


def contending(queues: StreamQueues) -> Contention:
    return Contention(queues, 3, later(30), Steady())


async def after(contention: Contention, *conflicts: tuple[str, int]) -> list[bool]:
    """Whether the decision is made again after each of the conflicts: stream and version."""

    async def outlast() -> list[bool]:
        return [await contention.outlast(conflict(actual, stream)) for stream, actual in conflicts]

    return await task(outlast())


async def test_a_decision_that_was_in_vain_once_gets_no_more_hope_from_what_others_write() -> None:
    versions = [("a", version) for version in (1, 1, 2, 3)]
    assert await after(contending(StreamQueues()), *versions) == [True, True, True, False]


async def test_a_decision_that_was_in_vain_keeps_nobody_waiting() -> None:
    contention = contending(queues := StreamQueues())
    assert all(await after(contention, ("a", 1), ("a", 2)))
    assert queues.is_ahead(A)
    assert await after(contention, ("a", 2)) == [True]
    assert len(queues) == 0


async def test_one_that_loses_the_race_for_another_stream_leaves_its_turn_for_the_one_on_that() -> None:
    contention = contending(queues := StreamQueues())
    assert all(await after(contention, ("a", 1), ("a", 2), ("b", 1)))
    assert queues.is_ahead(B)
    assert not queues.is_ahead(A)
    contention.leave()


async def test_commands_of_different_tenants_do_not_queue_for_each_other() -> None:
    contention = contending(queues := StreamQueues())
    metadata = Metadata(message_id=uuid4(), correlation_id="c", time=datetime.now(UTC), tenant="red")
    token = enter(Origin(metadata))
    try:
        assert all(await after(contention, ("a", 1), ("a", 2)))
    finally:
        leave(token)
    assert queues.is_ahead(("red", "a"))
    assert not queues.is_ahead(("blue", "a"))
    contention.leave()
