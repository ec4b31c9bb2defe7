"""What follows a parked message in its key parks behind it, and keeps its order on replay; other keys flow."""

import asyncio
from datetime import timedelta

import pytest
from parcels import Script, closed, done, inbox, letters, move, opened, parked, tell, until_done, until_parked

from cqrs_fastapi import FailurePolicy
from cqrs_fastapi.dead_letters.changing import LetterTakenError, NotFirstError
from cqrs_fastapi.inbox.replaying import ReplayFailedError

pytestmark = pytest.mark.anyio


async def test_later_events_of_a_stream_park_behind_the_failed_one_and_other_streams_flow(
    database_url: str, script: Script
) -> None:
    script.fail("a2", times=100)
    async with opened(database_url, script) as cqrs:
        await move(cqrs, "a", "a1", "a2", "a3")
        await move(cqrs, "b", "b1", "b2")
        await move(cqrs, "a", "a4")
        await until_parked(cqrs, "a2", "a3", "a4")
        await until_done(cqrs, "a1", "b1", "b2")

        assert script.seen == ["a1", "a2", "a2", "a2", "b1", "b2"]
        found = await letters(cqrs)
        assert [(one.ordinal, one.code, one.attempts) for one in found] == [
            (0, "RuntimeError", 3),
            (1, "behind", 0),
            (2, "behind", 0),
        ]
        assert await closed(cqrs) == 1
        assert await inbox(cqrs) == {"done": 3, "parked": 3}


async def test_replaying_the_key_goes_in_order_and_opens_it(database_url: str, script: Script) -> None:
    script.fail("a1", times=100)
    async with opened(database_url, script) as cqrs:
        await move(cqrs, "a", "a1", "a2", "a3")
        await until_parked(cqrs, "a1", "a2", "a3")
        ids = [one.message_id for one in await letters(cqrs)]
        script.mend()
        script.seen.clear()
        script.ids.clear()

        assert await cqrs.dead_letters.replay_key("worker", (await letters(cqrs))[0].sequence or "") == 3
        assert await done(cqrs) == ["a1", "a2", "a3"]
        assert script.ids == ids
        assert await closed(cqrs) == 0
        assert await inbox(cqrs) == {"done": 3}
        await move(cqrs, "a", "a4")
        await until_done(cqrs, "a1", "a2", "a3", "a4")


async def test_messages_of_a_broker_s_key_park_behind_each_other_too(database_url: str, script: Script) -> None:
    script.fail("a1", times=100)
    async with opened(database_url, script) as cqrs:
        await tell(cqrs, "a", "a1", "a2")
        await tell(cqrs, "b", "b1")
        await until_parked(cqrs, "a1", "a2")
        await until_done(cqrs, "b1")
        assert await closed(cqrs) == 1

        script.mend()
        assert await cqrs.dead_letters.replay_key("worker", "a") == 2
        assert await done(cqrs) == ["b1", "a1", "a2"]
        await tell(cqrs, "a", "a3")
        await until_done(cqrs, "b1", "a1", "a2", "a3")


async def test_a_message_without_a_key_parks_alone(database_url: str, script: Script) -> None:
    script.fail("x", times=100)
    async with opened(database_url, script) as cqrs:
        await tell(cqrs, None, "x", "y")
        await until_parked(cqrs, "x")
        await until_done(cqrs, "y")
        assert await closed(cqrs) == 0
        assert [one.sequence for one in await letters(cqrs)] == [None]


async def test_where_order_does_not_matter_nothing_waits_behind(database_url: str, script: Script) -> None:
    script.fail("a1", times=100)
    async with opened(database_url, script, on_failure=FailurePolicy(ordered=False, attempts=1)) as cqrs:
        await move(cqrs, "a", "a1", "a2")
        await until_done(cqrs, "a2")
        await until_parked(cqrs, "a1")
        assert await closed(cqrs) == 0


async def test_one_that_is_not_the_first_is_replayed_only_if_somebody_insists(
    database_url: str, script: Script
) -> None:
    script.fail("a1", times=100)
    async with opened(database_url, script) as cqrs:
        await move(cqrs, "a", "a1", "a2", "a3")
        await until_parked(cqrs, "a1", "a2", "a3")
        first, second, third = await letters(cqrs)
        with pytest.raises(NotFirstError, match="out of order"):
            await cqrs.dead_letters.replay(third.id)
        assert await done(cqrs) == []

        await cqrs.dead_letters.replay(third.id, out_of_order=True)
        assert await done(cqrs) == ["a3"]
        script.mend()
        await cqrs.dead_letters.replay(first.id)
        assert await parked(cqrs) == ["a2"]
        assert await closed(cqrs) == 1
        await cqrs.dead_letters.replay(second.id)
        assert await done(cqrs) == ["a3", "a1", "a2"]
        assert await closed(cqrs) == 0


async def test_a_replay_that_fails_keeps_the_letter_with_the_new_error(database_url: str, script: Script) -> None:
    script.fail("a1", times=3)
    script.fail("a1", lambda: LookupError("something else"), times=100)
    async with opened(database_url, script) as cqrs:
        await move(cqrs, "a", "a1", "a2")
        await until_parked(cqrs, "a1", "a2")
        [first, _] = await letters(cqrs)
        with pytest.raises(ReplayFailedError, match="something else"):
            await cqrs.dead_letters.replay(first.id)

        [again, _] = await letters(cqrs)
        assert (again.id, again.code, again.error, again.attempts) == (first.id, "LookupError", "something else", 4)
        assert "LookupError" in again.traceback
        assert (await done(cqrs), await inbox(cqrs), await closed(cqrs)) == ([], {"parked": 2}, 1)


async def test_a_discarded_letter_is_settled_and_the_next_comes_to_the_front(database_url: str, script: Script) -> None:
    script.fail("a1", times=100)
    async with opened(database_url, script) as cqrs:
        await move(cqrs, "a", "a1", "a2")
        await until_parked(cqrs, "a1", "a2")
        [first, second] = await letters(cqrs)
        await cqrs.dead_letters.discard(first.id)
        assert await inbox(cqrs) == {"discarded": 1, "parked": 1}
        assert await closed(cqrs) == 1
        await cqrs.dead_letters.discard(second.id)
        assert await inbox(cqrs) == {"discarded": 2}
        assert await closed(cqrs) == 0


async def test_an_edited_letter_is_replayed_as_it_is_now_and_keeps_its_id(database_url: str, script: Script) -> None:
    script.fail("a1", times=100)
    async with opened(database_url, script) as cqrs:
        await move(cqrs, "a", "a1")
        await until_parked(cqrs, "a1")
        [letter] = await letters(cqrs)
        await cqrs.dead_letters.edit(letter.id, payload=b'{"what":"better"}')
        with pytest.raises(ValueError, match="keeps its id"):
            await cqrs.dead_letters.edit(letter.id, headers={**letter.headers, "message-id": str(letter.id)})
        await cqrs.dead_letters.replay(letter.id)
        assert await done(cqrs) == ["better"]
        assert script.ids[-1] == letter.message_id


async def test_of_two_who_replay_at_once_one_has_the_effect(database_url: str, script: Script) -> None:
    script.fail("a1", times=3)
    async with opened(database_url, script) as cqrs:
        await move(cqrs, "a", "a1")
        await until_parked(cqrs, "a1")
        [letter] = await letters(cqrs)
        outcomes = await asyncio.gather(
            *(cqrs.dead_letters.replay(letter.id) for _ in range(5)), return_exceptions=True
        )
        assert [one for one in outcomes if one is None] == [None]
        assert sum(isinstance(one, LetterTakenError) for one in outcomes) <= 4
        assert await done(cqrs) == ["a1"]


async def test_followers_that_come_while_the_key_is_replayed_keep_their_order(
    database_url: str, script: Script
) -> None:
    script.fail("a0", times=3)
    whats = [f"a{number}" for number in range(40)]
    async with opened(database_url, script, on_failure=FailurePolicy(longest_pause=timedelta(0))) as cqrs:
        await move(cqrs, "a", *whats[:10])
        await until_parked(cqrs, *whats[:10])
        [first, *_] = await letters(cqrs)

        async def write() -> None:
            for what in whats[10:]:
                await move(cqrs, "a", what)

        async def replay() -> None:
            while await closed(cqrs):
                await cqrs.dead_letters.replay_key("worker", first.sequence or "")

        await asyncio.gather(write(), replay())
        await until_done(cqrs, *whats)
        assert (await letters(cqrs), await closed(cqrs)) == ([], 0)
        assert await inbox(cqrs) == {"done": 40}
