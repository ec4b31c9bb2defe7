"""Two workers under one name."""

from __future__ import annotations

import asyncio

import pytest

from cqrs_fastapi.runtime.health import Check, Probe
from cqrs_fastapi.runtime.together import Together

pytestmark = pytest.mark.anyio


class Part:
    """A worker that ends as the test says, and remembers how."""

    def __init__(self, *, fails: bool = False, ignores_stop: bool = False) -> None:
        self.fails, self.ignores_stop = fails, ignores_stop
        self.ended = ""

    @property
    def name(self) -> str:
        return "part"

    async def run(self, stop: asyncio.Event) -> None:
        try:
            if self.fails:
                raise RuntimeError("planned")
            await (asyncio.Event() if self.ignores_stop else stop).wait()
            await asyncio.sleep(0)
            self.ended = "finished"
        except asyncio.CancelledError:
            self.ended = "cancelled"
            raise


async def test_all_end_when_they_are_told_to() -> None:
    parts, stop = [Part(), Part()], asyncio.Event()
    running = asyncio.create_task(Together("both", parts).run(stop))
    await asyncio.sleep(0)
    stop.set()
    await running
    assert [part.ended for part in parts] == ["finished", "finished"]


async def test_the_failure_of_one_is_the_failure_of_all_after_the_others_have_finished() -> None:
    failing, other = Part(fails=True), Part()
    with pytest.raises(RuntimeError, match="planned"):
        await Together("both", (failing, other)).run(asyncio.Event())
    assert other.ended == "finished"


async def test_a_cancellation_reaches_all() -> None:
    parts, stop = [Part(ignores_stop=True), Part(ignores_stop=True)], asyncio.Event()
    running = asyncio.create_task(Together("both", parts).run(stop))
    await asyncio.sleep(0.01)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert [part.ended for part in parts] == ["cancelled", "cancelled"]


async def test_a_check_that_only_informs_is_ok_whatever_it_finds() -> None:
    async def broken() -> str:
        raise RuntimeError("planned")

    async def hanging() -> str:
        await asyncio.Event().wait()
        return ""

    async def telling() -> str:
        return "7 behind"

    probes = [Probe("it", ping, only_informs=True) for ping in (broken, hanging, telling)]
    found = [await probe.ask(0.05) for probe in probes]
    for probe in probes:
        await probe.close()
    assert found == [
        Check("it", ok=True, detail="does not answer"),
        Check("it", ok=True, detail="does not answer in time"),
        Check("it", ok=True, detail="7 behind"),
    ]
