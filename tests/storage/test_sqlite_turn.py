"""The turn to write: fair, for threads and event loops alike, and never lost."""

import asyncio
import threading

import pytest

from cqrs_fastapi.errors import UnavailableError
from cqrs_fastapi.storage.sqlite_turn import WriteTurn

pytestmark = pytest.mark.anyio


async def test_the_turn_goes_on_in_the_order_it_was_asked_for() -> None:
    turn, order = WriteTurn(), []
    await turn.come(5)

    async def ask(number: int) -> None:
        await turn.come(5)
        order.append(number)
        turn.leave()

    asking = [asyncio.create_task(ask(number)) for number in range(5)]
    await asyncio.sleep(0)
    turn.leave()
    await asyncio.gather(*asking)

    assert order == [0, 1, 2, 3, 4]


async def test_threads_and_tasks_exclude_each_other() -> None:
    turn, inside, most = WriteTurn(), 0, 0

    def work() -> None:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        inside -= 1

    def in_thread() -> None:
        for _ in range(200):
            turn.wait()
            work()
            turn.leave()

    async def in_task() -> None:
        for _ in range(200):
            await turn.come(20)
            work()
            await asyncio.sleep(0)
            turn.leave()

    threads = [threading.Thread(target=in_thread) for _ in range(3)]
    for thread in threads:
        thread.start()
    await asyncio.gather(*(in_task() for _ in range(3)))
    for thread in threads:
        await asyncio.to_thread(thread.join)

    assert most == 1


async def test_who_is_cancelled_while_waiting_does_not_keep_the_turn() -> None:
    turn = WriteTurn()
    await turn.come(5)
    waiting = asyncio.create_task(turn.come(5))
    await asyncio.sleep(0)
    waiting.cancel()
    turn.leave()
    with pytest.raises(asyncio.CancelledError):
        await waiting

    await turn.come(5)


async def test_who_waits_too_long_is_told_why() -> None:
    turn = WriteTurn()
    await turn.come(5)
    with pytest.raises(UnavailableError, match="another unit of work"):
        await turn.come(0.01)
    turn.leave()

    await turn.come(5)


async def test_an_event_loop_that_is_gone_is_passed_over() -> None:
    turn = WriteTurn()
    turn.wait()

    def ask_and_give_up() -> None:
        async def ask() -> None:
            asking = asyncio.create_task(turn.come(60))
            await asyncio.sleep(0.01)
            asking.cancel()

        asyncio.run(ask())

    await asyncio.to_thread(ask_and_give_up)
    turn.leave()

    await turn.come(5)


async def test_a_turn_that_comes_in_the_moment_of_the_cancellation_is_not_lost() -> None:
    turn = WriteTurn()
    await turn.come(5)
    waiting = asyncio.create_task(turn.come(5))
    await asyncio.sleep(0)
    turn.leave()
    asyncio.get_running_loop().call_soon(waiting.cancel)
    with pytest.raises(asyncio.CancelledError):
        await waiting

    await turn.come(5)
