"""Messages that could not be read at all, and what is seen of letters from outside."""

from uuid import UUID, uuid4

import pytest
from parcels import Script, closed, inbox, letters, move, opened, parked, tell, until, until_done, until_parked
from prometheus_client import CollectorRegistry
from sqlalchemy import update

from cqrs_fastapi import CQRS
from cqrs_fastapi.brokers.broker import OutgoingMessage
from cqrs_fastapi.dead_letters.reading import Counts
from cqrs_fastapi.inbox.replaying import ReplayFailedError
from cqrs_fastapi.runtime.letter_gauges import LetterGauges

pytestmark = pytest.mark.anyio


async def put(cqrs: CQRS, payload: bytes, **headers: str) -> UUID:
    publisher, message_id = await cqrs.broker.publisher(), uuid4()
    given = {"message-id": str(message_id), "type": "news.told", "version": "1", **headers}
    await publisher.publish([OutgoingMessage(message_id, "news", "k", payload, given)])
    await publisher.close()
    return message_id


async def test_a_message_that_nobody_could_read_parks_alone_and_is_replayed_once_it_is_edited(
    database_url: str, script: Script
) -> None:
    async with opened(database_url, script) as cqrs:
        message_id = await put(cqrs, b"no json")
        await tell(cqrs, "k", "a2")
        await until_done(cqrs, "a2")
        [letter] = [one async for one in cqrs.dead_letters.all()]
        assert (letter.consumer, letter.code, letter.payload, letter.sequence) == (
            "tests",
            "malformed_message",
            b"no json",
            None,
        )
        with pytest.raises(ReplayFailedError, match="malformed_message"):
            await cqrs.dead_letters.replay(letter.id)

        await cqrs.dead_letters.edit(letter.id, payload=b'{"what":"a1"}')
        await cqrs.dead_letters.replay(letter.id)
        await until_done(cqrs, "a2", "a1")
        assert script.ids[-1] == message_id
        assert (await letters(cqrs), await inbox(cqrs)) == ([], {"done": 3})


async def test_a_stored_event_that_cannot_be_read_closes_its_stream_for_the_handler(
    database_url: str, script: Script
) -> None:
    async with opened(database_url, script) as cqrs:
        await cqrs.stop_workers()
        await move(cqrs, "a", "a1", "a2")
        await move(cqrs, "b", "b1")
        events = cqrs.database.tables.events
        broken = update(events).where(events.c.position == 1).values(data='{"what":1}')
        await cqrs.database.write(lambda c: c.execute(broken))
        cqrs.engine.draining = False
        await cqrs.start_workers(("consumer",))
        await until_done(cqrs, "b1")

        async def are_parked() -> bool:
            return len(await letters(cqrs)) == 2

        await until(are_parked)
        first, second = await letters(cqrs)
        assert (first.code, second.code, await closed(cqrs)) == ("malformed_message", "behind", 1)
        await cqrs.dead_letters.edit(first.id, payload=b'{"what":"mended"}')
        assert await cqrs.dead_letters.replay_key("worker", first.sequence or "") == 2
        await until_done(cqrs, "b1", "mended", "a2")


async def test_a_letter_without_a_handler_stays(database_url: str, script: Script) -> None:
    script.fail("a1", times=100)
    async with opened(database_url, script) as cqrs:
        await move(cqrs, "a", "a1")
        await until_parked(cqrs, "a1")
        [letter] = await letters(cqrs)
        table, blocked = cqrs.database.tables.dead_letters, cqrs.database.tables.blocked_keys
        await cqrs.database.write(lambda c: c.execute(update(table).values(consumer="former")))
        await cqrs.database.write(lambda c: c.execute(update(blocked).values(owner="former")))
        script.mend()
        with pytest.raises(ReplayFailedError, match="nothing called 'former' reacts to Moved"):
            await cqrs.dead_letters.replay(letter.id)
        assert await parked(cqrs) == ["a1"]
        await cqrs.dead_letters.discard(letter.id)
        assert (await parked(cqrs), await closed(cqrs)) == ([], 0)


async def test_readiness_tells_how_many_letters_there_are_and_stays_green(sqlite_url: str, script: Script) -> None:
    script.fail("a1", times=100)
    async with opened(sqlite_url, script) as cqrs:

        async def told() -> str:
            [check] = [check for check in (await cqrs.readiness()).checks if check.name == "dead letters"]
            assert check.ok
            return check.detail

        assert await told() == "none"
        await move(cqrs, "a", "a1", "a2")
        await until_parked(cqrs, "a1", "a2")
        assert await told() == "worker: 1 dead, 0 waiting, 1 behind"


def test_the_gauge_says_what_was_seen_last_and_forgets_what_is_gone() -> None:
    registry = CollectorRegistry()
    gauges = LetterGauges("shop", registry)
    gauges({"mail": Counts(dead=2, waiting=1)})
    LetterGauges("other", registry)({})

    def seen(state: str) -> float | None:
        labels = {"service": "shop", "consumer": "mail", "state": state}
        return registry.get_sample_value("cqrs_dead_letters", labels)

    assert (seen("dead"), seen("waiting"), seen("behind")) == (2, 1, 0)
    gauges({})
    assert (seen("dead"), seen("waiting")) == (0, 0)
