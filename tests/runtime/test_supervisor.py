"""Workers are kept running, and all of them stop within a bounded time."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta

import pytest
import structlog

from cqrs_fastapi.runtime.supervisor import Backoff, Supervisor

pytestmark = pytest.mark.anyio

AT_ONCE = Backoff(first=0.001, longest=0.002)
LONG = timedelta(seconds=10)
request_id: contextvars.ContextVar[str] = contextvars.ContextVar("request_id", default="none")


@dataclass
class Work:
    body: Callable[[asyncio.Event], Awaitable[None]]
    name: str = "work"

    async def run(self, stop: asyncio.Event) -> None:
        await self.body(stop)


async def until(met: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not met():  # what is waited for tells nobody
            await asyncio.sleep(0.005)


async def test_a_failed_worker_is_run_again_and_its_repeated_error_is_logged_once() -> None:
    attempts = 0

    async def fails_five_times(stop: asyncio.Event) -> None:
        nonlocal attempts
        attempts += 1
        if attempts <= 5:
            raise OSError("no route" if attempts < 5 else "refused")
        await stop.wait()

    supervisor = Supervisor([Work(fails_five_times)], AT_ONCE, well_after=60)
    with structlog.testing.capture_logs() as logs:
        await supervisor.start()
        await until(lambda: attempts == 6)
        (state,) = supervisor.states()
        await supervisor.stop(LONG)

    assert [(entry["error"], entry["earlier_repeats"]) for entry in logs if entry["event"] == "worker_failed"] == [
        ("OSError: no route", 0),
        ("OSError: refused", 3),
    ]
    assert (state.name, state.status, state.error) == ("work", "restarting", "OSError: refused")


async def test_a_worker_that_has_been_well_for_a_while_is_running() -> None:
    attempts = 0

    async def fails_once(stop: asyncio.Event) -> None:
        nonlocal attempts
        attempts += 1
        if attempts == 1:
            raise OSError("no route")
        await stop.wait()

    supervisor = Supervisor([Work(fails_once)], AT_ONCE, well_after=0.05)
    await supervisor.start()
    await until(lambda: attempts == 2)
    await until(lambda: supervisor.states()[0].status == "running")
    assert supervisor.states()[0].error is None
    await supervisor.stop(LONG)
    assert supervisor.states() == ()


@pytest.mark.parametrize("how", ["returns", "is cancelled by something of its own"])
async def test_a_worker_that_ends_unasked_is_run_again(how: str) -> None:
    attempts = 0

    async def ends(stop: asyncio.Event) -> None:
        nonlocal attempts
        attempts += 1
        if attempts > 2:
            await stop.wait()
        elif how != "returns":
            raise asyncio.CancelledError

    supervisor = Supervisor([Work(ends)], AT_ONCE)
    await supervisor.start()
    await until(lambda: attempts == 3)
    await supervisor.stop(LONG)


async def test_stopping_waits_for_what_a_worker_holds() -> None:
    finished = False

    async def holds(stop: asyncio.Event) -> None:
        nonlocal finished
        await stop.wait()
        await asyncio.sleep(0.05)
        finished = True

    supervisor = Supervisor([Work(holds)])
    await supervisor.start()
    await asyncio.sleep(0)
    await supervisor.stop(LONG)
    assert finished


async def test_a_worker_that_does_not_stop_in_time_is_cancelled_and_named() -> None:
    cancelled = False

    async def never_ends(_: asyncio.Event) -> None:
        nonlocal cancelled
        try:
            await asyncio.Event().wait()
        finally:
            cancelled = True

    async def well_behaved(stop: asyncio.Event) -> None:
        await stop.wait()

    supervisor = Supervisor([Work(never_ends, "stubborn"), Work(well_behaved, "good")])
    await supervisor.start()
    await asyncio.sleep(0)
    with structlog.testing.capture_logs() as logs:
        await supervisor.stop(timedelta(milliseconds=20))

    assert cancelled
    assert [entry["worker"] for entry in logs if entry["event"] == "worker_did_not_stop"] == ["stubborn"]


async def test_a_worker_in_its_pause_stops_at_once() -> None:
    attempts = 0

    async def fails(_: asyncio.Event) -> None:
        nonlocal attempts
        attempts += 1
        raise OSError("no route")

    supervisor = Supervisor([Work(fails)], Backoff(first=3600, longest=3600))
    await supervisor.start()
    await until(lambda: attempts == 1)
    with structlog.testing.capture_logs() as logs:
        await supervisor.stop(LONG)
    assert [entry for entry in logs if entry["event"] == "worker_did_not_stop"] == []


async def test_workers_see_nothing_of_the_context_in_which_they_were_started() -> None:
    seen: list[str] = []

    async def looks(stop: asyncio.Event) -> None:
        seen.append(request_id.get())
        await stop.wait()

    token = request_id.set("of a request")
    supervisor = Supervisor([Work(looks)])
    await supervisor.start()
    await until(lambda: seen)
    await supervisor.stop(LONG)
    request_id.reset(token)
    assert seen == ["none"]


async def test_it_can_be_started_again_after_a_stop_but_not_twice() -> None:
    async def waits(stop: asyncio.Event) -> None:
        await stop.wait()

    supervisor = Supervisor([Work(waits)])
    await supervisor.stop(LONG)
    for _ in range(2):
        await supervisor.start()
        with pytest.raises(RuntimeError, match="run already"):
            await supervisor.start()
        await supervisor.stop(LONG)
        await supervisor.stop(LONG)


def test_pauses_double_to_a_limit_and_are_shortened_by_up_to_a_half() -> None:
    full, half = Backoff(1, 10, lambda: 0.0), Backoff(1, 10, lambda: 1.0)
    assert [full.pause(failures) for failures in (1, 2, 3, 4, 5, 1000)] == [1, 2, 4, 8, 10, 10]
    assert half.pause(4) == 4
