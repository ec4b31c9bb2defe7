"""What must hold at the places where a process may die, or another one may have been faster."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from parcels import (
    Moved,
    Script,
    build,
    closed,
    done,
    inbox,
    letters,
    move,
    opened,
    parked,
    prepare,
    until_done,
)
from sqlalchemy import event as sqlalchemy_event
from sqlalchemy import insert, select

from cqrs_fastapi import CQRS, Metadata, RetryLater
from cqrs_fastapi.brokers.broker import IncomingMessage
from cqrs_fastapi.dead_letters.changing import LetterTakenError, take_up
from cqrs_fastapi.dead_letters.parked_keys import name_of, parked_among
from cqrs_fastapi.dead_letters.parking import Letter, Reason, park
from cqrs_fastapi.errors import UnavailableError
from cqrs_fastapi.inbox import attempts
from cqrs_fastapi.inbox.attempts import HandlerCrashedError
from cqrs_fastapi.inbox.envelope import Envelope
from cqrs_fastapi.inbox.handling import Handlings, Settlement
from cqrs_fastapi.inbox.replaying import ReplayFailedError

pytestmark = pytest.mark.anyio


def message(what: str, key: bytes | None = b"k") -> tuple[Envelope, IncomingMessage]:
    """As a consumer has it."""
    message_id, now = uuid4(), datetime.now(UTC)
    headers = {"message-id": str(message_id).encode(), "type": b"parcel.moved", "version": b"1"}
    payload = b'{"what":"%s"}' % what.encode()
    envelope = Envelope(Moved(what=what), Metadata(message_id, str(message_id), now))
    return envelope, IncomingMessage("parcels", 0, 1, key, payload, headers, now)


async def settle(cqrs: CQRS, one: tuple[Envelope, IncomingMessage], *, closed: set[bytes] | None = None) -> Settlement:
    handlings = cqrs.engine._handlings()
    [handling] = handlings.kernel.pipelines.durable[Moved]
    return await handlings.settle(handling, *one, asyncio.Event(), None, closed)


async def test_a_zombie_s_park_of_a_finished_message_leaves_nothing(database_url: str, script: Script) -> None:
    async with opened(database_url, script) as cqrs:
        one = message("a")
        assert await settle(cqrs, one) is Settlement.NOW
        parking = cqrs.engine._handlings().park("worker", one[1], Reason("x", "y"), asyncio.Event())
        assert await parking is Settlement.BEFORE
        assert (await letters(cqrs), await closed(cqrs), await inbox(cqrs)) == ([], 0, {"done": 1})


async def test_a_message_is_not_handled_past_a_key_that_was_closed_after_somebody_looked(
    database_url: str, script: Script
) -> None:
    """The caller believes that its key is open; the claim of the effect knows better."""
    script.fail("a1", times=3)
    async with opened(database_url, script) as cqrs:
        await settle(cqrs, message("a1"))
        assert await settle(cqrs, message("a2"), closed=set()) is Settlement.NOW
        assert await settle(cqrs, message("b1", b"other"), closed=set()) is Settlement.NOW
        assert await done(cqrs) == ["b1"]
        assert await parked(cqrs) == ["a1", "a2"]


async def test_a_message_that_somebody_else_has_parked_closes_its_key_for_the_next_one(
    database_url: str, script: Script
) -> None:
    script.fail("a1", times=3)
    async with opened(database_url, script) as cqrs:
        first, known = message("a1"), set[bytes]()
        await settle(cqrs, first)
        script.seen.clear()
        assert await settle(cqrs, first, closed=known) is Settlement.BEFORE
        assert known == {b"k"}
        await settle(cqrs, message("a2"), closed=known)
        assert script.seen == ["a1"]
        assert await parked(cqrs) == ["a1", "a2"]


async def test_a_key_that_was_opened_after_somebody_looked_is_open(database_url: str, script: Script) -> None:
    async with opened(database_url, script) as cqrs:
        known = {b"k"}
        assert await settle(cqrs, message("a1"), closed=known) is Settlement.NOW
        assert (await done(cqrs), known) == (["a1"], set())


async def test_a_replay_that_dies_at_its_commit_leaves_letter_and_inbox_as_they_were(
    database_url: str, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever part of the transaction fails, none of it happens."""
    script.fail("a1", times=3)
    async with opened(database_url, script) as cqrs:
        await settle(cqrs, message("a1"))
        [letter] = await letters(cqrs)

        def die(*_: Any, **__: Any) -> None:
            raise RuntimeError("died here")

        with monkeypatch.context() as patch:
            patch.setattr("cqrs_fastapi.inbox.replaying.claim_parked", die)
            with pytest.raises(Exception, match="died here"):
                await cqrs.dead_letters.replay(letter.id)
        assert (await done(cqrs), await parked(cqrs), await inbox(cqrs)) == ([], ["a1"], {"parked": 1})
        assert await closed(cqrs) == 1
        await cqrs.dead_letters.replay(letter.id)
        assert (await done(cqrs), await closed(cqrs), await inbox(cqrs)) == (["a1"], 0, {"done": 1})


async def test_a_key_whose_replay_died_in_the_middle_goes_on_by_itself(database_url: str, script: Script) -> None:
    """The first letter is gone, and with it the moment at which the key was due: the next one has inherited it."""
    await prepare(database_url)
    cqrs = build(database_url, script)
    tables = cqrs.database.tables
    async with cqrs.running(workers=()):
        script.fail("a1", lambda: RetryLater(timedelta(0)))
        for what in ("a1", "a2", "a3"):
            await settle(cqrs, message(what))
        [first, *_] = await letters(cqrs)
        await cqrs.engine.replaying().replay(first.id, by_itself=True)
        due = await cqrs.database.read(lambda c: c.execute(select(tables.dead_letters.c.retry_at)).scalars().all())
        assert sum(moment is not None for moment in due) == 1
    again = build(database_url, script)
    async with again.running(workers=("consumer",)):
        await until_done(again, "a1", "a2", "a3")


async def test_dispatches_that_died_are_counted_and_those_that_ended_are_not(database_url: str, script: Script) -> None:
    async with opened(database_url, script) as cqrs:
        tables, one, now = cqrs.database.tables, uuid4(), datetime.now(UTC)

        async def begin() -> int:
            return await cqrs.database.write(
                lambda c: attempts.count_dispatch(c, tables, "worker", one, limit=3, now=now)
            )

        assert await begin() == 1
        await cqrs.database.write(lambda c: attempts.take_back(c, tables, "worker", one))
        assert [await begin(), await begin()] == [1, 2]
        with pytest.raises(HandlerCrashedError, match="3 times"):
            await begin()


async def test_a_handler_with_one_attempt_is_parked_only_after_a_dispatch_that_was_written_down(
    database_url: str, script: Script
) -> None:
    async with opened(database_url, script) as cqrs:
        tables, one, now = cqrs.database.tables, uuid4(), datetime.now(UTC)

        async def begin() -> int:
            return await cqrs.database.write(
                lambda c: attempts.count_dispatch(c, tables, "worker", one, limit=1, now=now)
            )

        assert await begin() == 1
        with pytest.raises(HandlerCrashedError, match="2 times"):
            await begin()


async def test_a_message_in_doubt_that_is_handled_leaves_no_count(database_url: str, script: Script) -> None:
    script.fail("a1", times=1)
    async with opened(database_url, script) as cqrs:
        handlings: Handlings = cqrs.engine._handlings()
        [handling] = handlings.kernel.pipelines.durable[Moved]
        envelope, incoming = message("a1")
        handlings.doubts.add("worker", [envelope.metadata.message_id])
        assert await handlings.settle(handling, envelope, incoming, asyncio.Event()) is Settlement.NOW
        counts = await cqrs.database.read(lambda c: c.execute(select(cqrs.database.tables.attempts)).all())
        assert (counts, await done(cqrs)) == ([], ["a1"])
        assert not handlings.doubts.has("worker", envelope.metadata.message_id)


async def test_a_database_that_goes_away_in_the_midst_of_a_doubted_dispatch_counts_as_no_death(
    database_url: str, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, away = attempts.take_back, [True] * 8

    def take_back(*given: Any) -> None:
        if away and away.pop():
            raise UnavailableError("planned")
        original(*given)

    monkeypatch.setattr(attempts, "take_back", take_back)
    script.fail("a1", times=1)
    async with opened(database_url, script) as cqrs:
        handlings: Handlings = cqrs.engine._handlings()
        [handling] = handlings.kernel.pipelines.durable[Moved]
        envelope, incoming = message("a1")
        handlings.doubts.add("worker", [envelope.metadata.message_id])
        assert await handlings.settle(handling, envelope, incoming, asyncio.Event()) is Settlement.NOW
        assert (await letters(cqrs), await done(cqrs), away) == ([], ["a1"], [])


async def test_a_stored_event_takes_three_statements_beside_its_effect(postgres_url: str, script: Script) -> None:
    """Its claim, which asks whether the key is closed; the fence of the lease; the checkpoint."""
    statements: list[str] = []
    await prepare(postgres_url)
    cqrs = build(postgres_url, script)

    def note(*given: Any) -> None:
        statements.append(given[2])

    async with cqrs.running(workers=()):
        await move(cqrs, "a", *(f"a{number}" for number in range(20)))
        sqlalchemy_event.listen(cqrs.database.engine.sync_engine, "before_cursor_execute", note)
        await cqrs.start_workers(("consumer",))
        await until_done(cqrs, *(f"a{number}" for number in range(20)))
    counted = {
        words: sum(one.startswith(words) for one in statements)
        for words in ("INSERT INTO cqrs_inbox", "UPDATE cqrs_checkpoints", "INSERT INTO effects")
    }
    assert counted == {"INSERT INTO cqrs_inbox": 20, "UPDATE cqrs_checkpoints": 20, "INSERT INTO effects": 20}
    assert sum("FOR SHARE" in one for one in statements) == 20
    for table in ("cqrs_attempts", "cqrs_dead_letters WHERE", "UPDATE cqrs_blocked_keys"):
        assert not [one for one in statements if table in one and "retry_at" not in one and "GROUP BY" not in one]


@pytest.mark.parametrize(
    ("key", "name"),
    [(b"parcel-7", "parcel-7"), (b"\xff\x00", "\\xff00"), (b"a\x00b", "\\x610062"), (b"\\xff", "\\x5c786666")],
)
def test_a_key_has_a_name_that_every_database_takes(key: bytes, name: str) -> None:
    assert name_of(key) == name


async def test_closed_keys_are_found_among_many(database_url: str, script: Script) -> None:
    script.fail("a1", times=3)
    async with opened(database_url, script) as cqrs:
        await settle(cqrs, message("a1", b"\xff"))
        keys = [b"\xff", *(f"k{number}".encode() for number in range(2500))]
        tables = cqrs.database.tables
        assert await cqrs.database.read(lambda c: parked_among(c, tables, "worker", keys)) == {b"\xff"}
        assert await cqrs.database.read(lambda c: parked_among(c, tables, "other", keys)) == set()


async def test_what_the_relay_has_parked_goes_back_in_its_old_order_before_what_came_later(
    database_url: str, script: Script
) -> None:
    await prepare(database_url)
    cqrs = build(database_url, script)
    tables = cqrs.database.tables
    ids = [uuid4() for _ in range(3)]

    def parked_by_relay(position: int, message_id: UUID) -> Letter:
        headers = {"message-id": str(message_id), "type": "news.told", "version": "1", "outbox-position": str(position)}
        return Letter(
            uuid4(), "relay", message_id, "news", -1, position, b"k", headers, b"{}", "refused", "", "", 1,
            datetime.now(UTC),
        )  # fmt: skip

    async with cqrs.running(workers=()):
        outbox, blocked = tables.outbox, tables.blocked_keys
        now = datetime.now(UTC)
        later = {
            "position": 50, "id": ids[2], "aggregatetype": "k", "aggregateid": "k", "type": "news.told",
            "topic": "news", "key": "k", "bucket": 1, "headers": "{}", "payload": b"{}", "available_at": now,
            "created_at": now,
        }  # fmt: skip
        await cqrs.database.write(lambda c: c.execute(insert(outbox), later))
        row = {"owner": "relay", "key": "news/k", "reason": "refused", "blocked_at": now}
        await cqrs.database.write(lambda c: c.execute(insert(blocked), row))
        for position, message_id in ((8, ids[1]), (7, ids[0])):
            letter = parked_by_relay(position, message_id)
            await cqrs.database.write(lambda c, one=letter: park(c, tables, one))
        [one, *_] = await letters(cqrs)
        await cqrs.dead_letters.replay(one.id)

        query = select(outbox.c.id, outbox.c.headers).order_by(outbox.c.position)
        rows = await cqrs.database.read(lambda c: c.execute(query).all())
        assert [row[0] for row in rows] == ids
        assert "outbox-position" not in rows[0][1]
        assert (await letters(cqrs), await closed(cqrs)) == ([], 0)


async def test_a_letter_that_kills_whoever_retries_it_ends_as_a_dead_one(database_url: str, script: Script) -> None:
    """Each of them has counted its dispatch, and none has lived to say how it went."""
    await prepare(database_url)
    cqrs = build(database_url, script)
    letters_table = cqrs.database.tables.dead_letters
    script.fail("a1", lambda: RetryLater(timedelta(0)))
    async with cqrs.running(workers=()):
        await settle(cqrs, message("a1"))
        [letter] = await letters(cqrs)
        long_ago = datetime.now(UTC) - timedelta(hours=1)
        died = {"attempts": 3, "dispatched_at": long_ago, "retry_at": long_ago}
        await cqrs.database.write(lambda c: c.execute(letters_table.update().values(died)))
        script.seen.clear()
        with pytest.raises(ReplayFailedError, match="died 3 times"):
            await cqrs.engine.replaying().replay(letter.id, by_itself=True)
        [dead] = await letters(cqrs)
        assert (dead.code, dead.retry_at, script.seen) == ("handler_crashed", None, [])
        await cqrs.dead_letters.replay(letter.id)  # by hand it is somebody's decision
        assert await done(cqrs) == ["a1"]


async def test_a_letter_that_somebody_replays_is_left_alone_by_others_for_a_while(
    database_url: str, script: Script
) -> None:
    script.fail("a1", times=3)
    async with opened(database_url, script) as cqrs:
        await settle(cqrs, message("a1"))
        [letter] = await letters(cqrs)
        tables, patience = cqrs.database.tables, timedelta(minutes=1)
        await cqrs.database.write(lambda c: take_up(c, tables, letter.id, patience=patience))
        with pytest.raises(LetterTakenError, match="being replayed by somebody else"):
            await cqrs.dead_letters.replay(letter.id)
        assert (await done(cqrs), await inbox(cqrs)) == ([], {"parked": 1})
