"""What a handler raises decides what becomes of its message."""

from datetime import UTC, datetime, timedelta

import pytest
from parcels import (
    Script,
    build,
    closed,
    done,
    inbox,
    letters,
    move,
    opened,
    parked,
    tell,
    until,
    until_done,
    until_parked,
)

from cqrs_fastapi import CQRS, DeadLetter, Discard, FailurePolicy, RetryLater, UnavailableError
from cqrs_fastapi.errors import MalformedMessageError, RegistrationError
from cqrs_fastapi.inbox.replaying import ReplayFailedError

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("error", [UnavailableError, TimeoutError, ConnectionResetError])
async def test_a_transient_error_is_tried_in_place_without_a_cap_and_keeps_the_order(
    sqlite_url: str, script: Script, error: type[Exception]
) -> None:
    script.fail("a1", lambda: error("planned"), times=8)
    async with opened(sqlite_url, script) as cqrs:
        await move(cqrs, "a", "a1", "a2")
        await until_done(cqrs, "a1", "a2")
        assert script.seen == ["a1"] * 9 + ["a2"]
        assert await letters(cqrs) == []


async def test_a_bad_payload_is_parked_at_once_with_its_raw_bytes(database_url: str, script: Script) -> None:
    script.fail("a1", lambda: MalformedMessageError("planned"), times=100)
    async with opened(database_url, script) as cqrs:
        await move(cqrs, "a", "a1", "a2")
        await until_parked(cqrs, "a1", "a2")
        [letter, _] = await letters(cqrs)
        assert (letter.code, letter.attempts, letter.payload) == ("malformed_message", 1, b'{"what":"a1"}')
        assert script.seen == ["a1"]


async def test_a_bug_is_tried_as_often_as_its_policy_says(database_url: str, script: Script) -> None:
    script.fail("a1", times=100)
    async with opened(database_url, script, on_failure=FailurePolicy(attempts=2)) as cqrs:
        await move(cqrs, "a", "a1")
        await until_parked(cqrs, "a1")
        assert script.seen == ["a1", "a1"]


async def test_a_policy_names_what_is_transient_and_what_is_a_bad_payload(sqlite_url: str, script: Script) -> None:
    script.fail("a1", lambda: LookupError("planned"), times=6)
    script.fail("b1", lambda: ArithmeticError("planned"), times=6)
    policy = FailurePolicy(transient=(LookupError,), bad_payload=(ArithmeticError,))
    async with opened(sqlite_url, script, on_failure=policy) as cqrs:
        await move(cqrs, "a", "a1")
        await move(cqrs, "b", "b1")
        await until_done(cqrs, "a1")
        await until_parked(cqrs, "b1")
        assert script.seen.count("b1") == 1


async def test_a_handler_may_park_its_message_at_once(database_url: str, script: Script) -> None:
    script.fail("a1", lambda: DeadLetter("the address does not exist"), times=100)
    async with opened(database_url, script) as cqrs:
        await move(cqrs, "a", "a1", "a2")
        await until_parked(cqrs, "a1", "a2")
        [letter, _] = await letters(cqrs)
        assert (letter.code, letter.error) == ("dead_letter", "the address does not exist")
        assert script.seen == ["a1"]


async def test_a_handler_may_discard_its_message(database_url: str, script: Script) -> None:
    script.fail("a1", lambda: Discard("not for us"))
    async with opened(database_url, script) as cqrs:
        await move(cqrs, "a", "a1", "a2")
        await until_done(cqrs, "a2")
        assert await letters(cqrs) == []
        assert await inbox(cqrs) == {"discarded": 1, "done": 1}


async def test_a_handler_may_have_its_message_again_later_and_its_key_waits(database_url: str, script: Script) -> None:
    script.fail("a1", lambda: RetryLater(timedelta(seconds=0.6)), times=2)
    async with opened(database_url, script) as cqrs:
        await move(cqrs, "a", "a1", "a2", "a3")
        await until_parked(cqrs, "a1", "a2", "a3")
        [waiting, behind, _] = await letters(cqrs)
        assert waiting.retry_at is not None
        assert behind.retry_at is None
        assert (await cqrs.dead_letters.counts())["worker"].waiting == 1
        await move(cqrs, "b", "b1")
        await until_done(cqrs, "b1", "a1", "a2", "a3")
        assert (await letters(cqrs), await closed(cqrs), await inbox(cqrs)) == ([], 0, {"done": 4})


async def test_where_order_does_not_matter_a_failed_message_waits_alone_and_is_tried_again(
    database_url: str, script: Script
) -> None:
    script.fail("a1", lambda: ConnectionError("planned"), times=2)
    script.fail("a2", times=2)
    async with opened(database_url, script, on_failure=FailurePolicy(ordered=False)) as cqrs:
        await move(cqrs, "a", "a1", "a2", "a3")

        async def all_done() -> bool:
            return sorted(await done(cqrs)) == ["a1", "a2", "a3"]

        await until(all_done)
        assert (await done(cqrs))[0] == "a3"
        assert (await letters(cqrs), await inbox(cqrs)) == ([], {"done": 3})


async def test_a_bug_where_order_does_not_matter_parks_after_its_attempts(database_url: str, script: Script) -> None:
    script.fail("a1", times=100)
    async with opened(database_url, script, on_failure=FailurePolicy(ordered=False)) as cqrs:
        await move(cqrs, "a", "a1")

        async def is_dead() -> bool:
            counts = await cqrs.dead_letters.counts()
            return "worker" in counts and counts["worker"].dead == 1 and counts["worker"].waiting == 0

        await until(is_dead)
        assert script.seen == ["a1"] * 3
        [letter] = await letters(cqrs)
        assert (letter.attempts, letter.retry_at) == (3, None)


async def test_a_key_that_fails_again_while_it_is_tried_by_itself_waits_for_somebody(
    database_url: str, script: Script
) -> None:
    script.fail("a1", lambda: RetryLater(timedelta(0)))
    script.fail("a1", lambda: DeadLetter("for good"), times=100)
    async with opened(database_url, script) as cqrs:
        await move(cqrs, "a", "a1", "a2")

        async def is_dead() -> bool:
            counts = await cqrs.dead_letters.counts()
            return "worker" in counts and counts["worker"].dead == 1

        await until(is_dead)
        assert await parked(cqrs) == ["a1", "a2"]
        script.mend()
        [letter, _] = await letters(cqrs)
        assert await cqrs.dead_letters.replay_key("worker", letter.sequence or "") == 2
        assert await done(cqrs) == ["a1", "a2"]


async def test_a_filter_passes_over_a_message_and_settles_it(database_url: str, script: Script) -> None:
    async with opened(database_url, script, where=lambda event: event.what != "a1") as cqrs:
        await move(cqrs, "a", "a1", "a2")
        await tell(cqrs, "k", "a1", "a3")

        async def all_done() -> bool:
            return sorted(await done(cqrs)) == ["a2", "a3"]

        await until(all_done)
        assert await letters(cqrs) == []
        assert "a1" not in script.seen


async def test_a_validator_that_refuses_makes_a_bad_payload(database_url: str, script: Script) -> None:
    def validate(event: object) -> None:
        if getattr(event, "what", "") == "a1":
            raise ValueError("too short")

    async with opened(database_url, script, validate=validate) as cqrs:
        await move(cqrs, "a", "a1", "a2")
        await move(cqrs, "b", "b1")
        await until_done(cqrs, "b1")
        await until_parked(cqrs, "a1", "a2")
        [letter, _] = await letters(cqrs)
        assert (letter.code, letter.error) == ("refused_by_validator", "ValueError: too short")
        with pytest.raises(ReplayFailedError):
            await cqrs.dead_letters.replay(letter.id)
        assert "a1" not in script.seen


def test_an_in_transaction_handler_has_no_policy(sqlite_url: str, script: Script) -> None:
    cqrs = build(sqlite_url, script)

    async def react(event: object) -> None: ...

    from parcels import Moved  # noqa: PLC0415

    cqrs.events.bind(Moved, react, when="in_transaction", on_failure=FailurePolicy(attempts=1))
    with pytest.raises(RegistrationError, match="leave on_failure, where and validate out"):
        _ = cqrs.registry


def test_a_name_has_one_policy(sqlite_url: str, script: Script) -> None:
    from parcels import Moved, Told  # noqa: PLC0415

    cqrs = CQRS()

    async def react(event: object) -> None: ...

    cqrs.events.bind(Moved, react, name="one", on_failure=FailurePolicy(attempts=1))
    cqrs.events.bind(Told, react, name="one")
    with pytest.raises(RegistrationError, match="give all of them the same on_failure"):
        _ = cqrs.registry


def test_a_policy_has_at_least_one_attempt() -> None:
    with pytest.raises(ValueError, match="at least one attempt"):
        FailurePolicy(attempts=0)


def test_a_message_cannot_be_had_in_the_past() -> None:
    with pytest.raises(ValueError, match="not negative"):
        RetryLater(datetime(2026, 1, 1, tzinfo=UTC) - datetime(2026, 1, 2, tzinfo=UTC))
