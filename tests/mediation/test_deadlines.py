"""Blocks that end at a time, by one timer for all of them: the same outcomes as with a timer for each."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from cqrs_fastapi.mediation.deadline import Deadlines

pytestmark = pytest.mark.anyio


class Around:
    """`asyncio.timeout_at`, entered without `async`, to be held against."""

    def until(self, at: float) -> Any:
        return asyncio.timeout_at(at)


async def ends(deadlines: Any, seconds: float, work: Callable[[], Any]) -> str:
    """What a task sees that does this work in a block with so many seconds."""
    block = deadlines.until(asyncio.get_running_loop().time() + seconds)
    try:
        if isinstance(block, asyncio.Timeout):
            async with block:
                await work()
        else:
            with block:
                await work()
    except TimeoutError as error:
        return f"timeout because of {type(error.__cause__).__name__}"
    except asyncio.CancelledError:
        return "cancelled"
    except ValueError:
        return "its own error"
    task = asyncio.current_task()
    return f"done, {task.cancelling() if task else 0} cancellations left"


async def quick() -> None:
    await asyncio.sleep(0)


async def slow() -> None:
    await asyncio.sleep(30)


async def failing() -> None:
    await asyncio.sleep(0)
    raise ValueError


async def deaf() -> None:
    with suppress(asyncio.CancelledError):
        await asyncio.sleep(30)


@pytest.mark.parametrize("work", [quick, slow, failing, deaf])
@pytest.mark.parametrize("seconds", [-1.0, 0.02])
async def test_a_block_ends_as_one_with_a_timer_of_its_own(work: Callable[[], Any], seconds: float) -> None:
    one = await asyncio.create_task(ends(Deadlines(), seconds, work))
    assert one == await asyncio.create_task(ends(Around(), seconds, work))


@pytest.mark.parametrize("deadlines", [Deadlines(), Around()])
async def test_who_is_cancelled_by_somebody_else_is_cancelled(deadlines: Any) -> None:
    task = asyncio.create_task(ends(deadlines, 30, slow))
    await asyncio.sleep(0)
    task.cancel()
    assert await task == "cancelled"


async def test_each_block_ends_at_its_own_time() -> None:
    deadlines, loop, ended = Deadlines(), asyncio.get_running_loop(), []

    async def block(seconds: float) -> None:
        began = loop.time()
        assert await ends(deadlines, seconds, slow) == "timeout because of CancelledError"
        assert seconds <= loop.time() - began < seconds + 2
        ended.append(seconds)

    await asyncio.gather(*(block(seconds) for seconds in (0.15, 0.05, 0.25, 0.1, 0.2)))
    assert ended == [0.05, 0.1, 0.15, 0.2, 0.25]


async def test_a_block_that_ends_sooner_does_not_wait_for_one_that_was_entered_before_it() -> None:
    deadlines = Deadlines()
    long = asyncio.create_task(ends(deadlines, 60, slow))
    await asyncio.sleep(0)
    async with asyncio.timeout(5):
        assert await ends(deadlines, 0.02, slow) == "timeout because of CancelledError"
    long.cancel()
    assert await long == "cancelled"


async def test_a_timer_that_nobody_needs_any_more_disturbs_nobody() -> None:
    deadlines = Deadlines()
    assert await ends(deadlines, 0.02, quick) == "done, 0 cancellations left"
    await asyncio.sleep(0.05)
    assert await ends(deadlines, 0.05, slow) == "timeout because of CancelledError"


async def test_a_block_needs_a_task() -> None:
    failures: list[BaseException] = []

    def outside() -> None:
        try:
            with Deadlines().until(0):
                raise AssertionError("entered")
        except RuntimeError as error:
            failures.append(error)

    asyncio.get_running_loop().call_soon(outside)
    await asyncio.sleep(0)
    assert "belongs into a task" in str(failures[0])
