"""A whole application in a test: nothing to wait for by time, nothing left behind."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from cqrs_fastapi import CQRS, Aggregate, Command, Event, EventMediator, Metadata, Repository, Settings, applies
from cqrs_fastapi.testing import Harness, StandingClock
from cqrs_fastapi.testing.databases import throw_away_database

pytestmark = pytest.mark.anyio

START = datetime(2026, 3, 1, 12, tzinfo=UTC)


class Lit(Event, name="harness.lit", topic="lamps"):
    brightness: int


class Seen(Event, name="harness.seen"):
    """A reaction to what was lit, in the store alone."""


class Reported(Event, name="harness.reported", topic="reports"):
    """A reaction to the reaction."""


class Lamp(Aggregate):
    brightness: int = 0

    @applies
    def on_lit(self, event: Lit) -> None:
        self.brightness = event.brightness


class Light(Command[datetime]):
    lamp_id: UUID
    brightness: int


def make_cqrs(glows: list[str]) -> CQRS:
    cqrs = CQRS(settings=Settings(database_url="sqlite+aiosqlite:////nowhere/never.db", handler_attempts=2))

    @cqrs.handles(Light)
    async def light(command: Light, lamps: Repository[Lamp], metadata: Metadata) -> datetime:
        lamp = await lamps.get_or_new(command.lamp_id)
        lamp.record(Lit(brightness=command.brightness))
        return metadata.time

    @cqrs.on(Lit)
    async def see(event: Lit, events: EventMediator) -> None:
        if event.brightness < 0:
            raise ValueError("darker than dark")
        await events.publish(Seen())

    @cqrs.on(Seen)
    async def report(_event: Seen, events: EventMediator) -> None:
        await events.publish(Reported())

    @cqrs.on(Reported)
    async def glow(_event: Reported) -> None:
        glows.append("glow")

    return cqrs


@pytest.fixture
def glows() -> list[str]:
    return []


@pytest.fixture(params=["sqlite", "postgresql"])
async def cqrs_database_url(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
    server = None if request.param == "sqlite" else str(request.getfixturevalue("postgres_server"))
    async with throw_away_database(tmp_path, server) as url:
        yield url


@pytest.fixture
async def harness(cqrs_database_url: str, glows: list[str]) -> AsyncIterator[Harness]:
    clock = StandingClock(START)
    async with Harness(make_cqrs(glows), database_url=cqrs_database_url, clock=clock) as running:
        yield running


async def test_settled_means_that_all_which_follows_has_happened(harness: Harness, glows: list[str]) -> None:
    for brightness in range(5):
        await harness.send(Light(lamp_id=uuid4(), brightness=brightness))
    await harness.settle()
    assert glows == ["glow"] * 5
    # Of one lamp there would be an order.
    assert sorted(event.brightness for event in harness.published_events("lamps")) == [0, 1, 2, 3, 4]
    assert [message.topic for message in harness.published("reports")] == ["reports"] * 5
    assert len(harness.published()) == 10


async def test_what_is_given_up_fails_the_test_with_its_reason(harness: Harness) -> None:
    await harness.send(Light(lamp_id=uuid4(), brightness=-1))
    with pytest.raises(AssertionError, match="darker than dark"):
        await harness.settle()
    await harness.settle()
    await harness.send(Light(lamp_id=uuid4(), brightness=-2))
    await harness.settle(dead_letters=True)
    assert [letter.code for letter in await harness.dead_letters()] == ["ValueError", "ValueError"]


async def test_the_clock_stands_still_until_it_is_moved(harness: Harness) -> None:
    lamp = uuid4()
    assert await harness.send(Light(lamp_id=lamp, brightness=1)) == START
    assert await harness.send(Light(lamp_id=lamp, brightness=2)) == START
    harness.clock.advance(timedelta(days=2))
    assert await harness.send(Light(lamp_id=lamp, brightness=3)) == START + timedelta(days=2)
    with pytest.raises(ValueError, match="cannot go back"):
        harness.clock.advance(timedelta(seconds=-1))
    with pytest.raises(ValueError, match="no time zone"):
        harness.clock.move_to(datetime(2027, 1, 1))  # noqa: DTZ001  # this is what is refused


async def test_an_application_can_be_in_one_harness_after_another(tmp_path: Path, glows: list[str]) -> None:
    cqrs = make_cqrs(glows)
    before = cqrs.settings
    for _ in range(2):
        async with Harness(cqrs) as harness:
            await harness.send(Light(lamp_id=uuid4(), brightness=1))
            await harness.settle()
            assert len(harness.published("lamps")) == 1
    assert glows == ["glow", "glow"]
    assert cqrs.settings is before
    assert not cqrs.is_open


async def test_what_never_ends_is_told(harness: Harness) -> None:
    """Somebody else's transaction keeps the handlers from going on, for instance."""
    await harness.cqrs.stop_workers()
    await harness.send(Light(lamp_id=uuid4(), brightness=1))
    with pytest.raises(AssertionError, match="see has 1 events before it; 1 messages wait in the outbox"):
        await harness.settle(seconds=0.2)
