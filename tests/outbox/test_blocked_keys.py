"""Keys that are held or parked: nothing overtakes them, and they stand in nobody's way."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import uuid4

import pytest
from relay_support import ACKNOWLEDGED, Running, ScriptedBroker, append, application, migrated, waiting
from sqlalchemy import Connection, func, insert, select, text

from cqrs_fastapi import CQRS
from cqrs_fastapi.brokers.broker import Delivery, Outcome, OutgoingMessage
from cqrs_fastapi.dead_letters.parking import count, newest
from cqrs_fastapi.outbox.buckets import SHARES, buckets_of
from cqrs_fastapi.outbox.claiming import Passed, claim
from cqrs_fastapi.outbox.letters import put_back_key
from cqrs_fastapi.outbox.routing import bucket_of
from cqrs_fastapi.outbox.sending import told_apart

pytestmark = pytest.mark.anyio

EVERYWHERE = buckets_of(range(SHARES))
MANY = 3_000


def only(name: str, outcome: Outcome) -> Callable[[OutgoingMessage], Outcome]:
    """Everything but this key passes."""
    return lambda message: outcome if message.key == name else ACKNOWLEDGED


def neighbour(key: str) -> str:
    """A key of the same bucket."""
    return next(name for number in range(10_000) if bucket_of(name := f"s-n{number}") == bucket_of(key))


def row(key: str | None, number: int, **more: Any) -> dict[str, Any]:
    now = datetime.now(UTC)
    return {
        "id": uuid4(),
        "aggregatetype": "s",
        "aggregateid": key or "",
        "type": "Happened",
        "topic": "things",
        "key": key,
        "bucket": bucket_of(key or str(number)),
        "headers": "{}",
        "payload": b'{"number":%d}' % number,
        "available_at": now,
        "created_at": now,
        **more,
    }


async def fill(cqrs: CQRS, *rows: dict[str, Any]) -> None:
    outbox = cqrs.database.tables.outbox
    await cqrs.database.write(lambda connection: connection.execute(insert(outbox), list(rows)) and None)


async def in_the_way(cqrs: CQRS) -> int:
    """Rows in the range that is claimed."""
    outbox = cqrs.database.tables.outbox
    query = select(func.count()).select_from(outbox).where(outbox.c.bucket >= 0)
    return await cqrs.database.read(lambda connection: connection.execute(query).scalar_one())


async def until(condition: Callable[[], Any], seconds: float = 30) -> None:
    async with asyncio.timeout(seconds):
        while not await condition():
            await asyncio.sleep(0.05)


async def visited_by_a_claim(cqrs: CQRS) -> int:
    """Blocks of tables and indexes that PostgreSQL touches for one claim."""

    def explain(connection: Connection) -> Any:
        call = f"cqrs_relay_claim(ARRAY{EVERYWHERE}, 500, '{{}}', '{{}}', NULL)"
        explained = text(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) SELECT * FROM {call}")  # noqa: S608  # constants
        return connection.execute(explained).scalar_one()

    await cqrs.database.write(explain)  # the first one cleans up behind those that have deleted
    found = await cqrs.database.write(explain)
    plan = (json.loads(found) if isinstance(found, str) else found)[0]["Plan"]
    return int(plan["Shared Hit Blocks"]) + int(plan["Shared Read Blocks"])


async def test_a_held_key_with_many_messages_is_put_aside_and_its_bucket_flows(
    cqrs: CQRS, broker: ScriptedBroker
) -> None:
    other = neighbour("s-a")
    broker.decide = only("s-a", Outcome(Delivery.HELD, "no leader"))
    await fill(cqrs, *(row("s-a", number) for number in range(MANY)), *(row(other, number) for number in range(5)))
    async with Running(cqrs):
        await until(lambda: _is(in_the_way(cqrs), 0))
        assert broker.numbers() == {other: list(range(5))}
        await append(cqrs, "s-a", MANY)
        await append(cqrs, other, 5)
        await until(lambda: _is(waiting(cqrs), MANY + 1))
        if cqrs.database.dialect == "postgresql":
            assert await visited_by_a_claim(cqrs) < 400

    broker.decide = lambda _: ACKNOWLEDGED
    async with Running(cqrs) as successor:  # another relay finds what the first has put aside
        await successor.until_waiting(0, seconds=60)
        await append(cqrs, "s-a", MANY + 1)
        await successor.until_waiting(0)
    assert broker.numbers() == {"s-a": list(range(MANY + 2)), other: list(range(6))}
    assert await count_blocked(cqrs) == 0


async def test_a_parked_key_with_many_followers_leaves_its_bucket_free(cqrs: CQRS, broker: ScriptedBroker) -> None:
    other = neighbour("s-a")
    broker.decide = only("s-a", Outcome(Delivery.REFUSED, "too large"))
    await fill(cqrs, *(row("s-a", number) for number in range(MANY)), *(row(other, number) for number in range(5)))
    async with Running(cqrs) as relay:
        await relay.until_waiting(0, seconds=60)
        if cqrs.database.dialect == "postgresql":
            assert await visited_by_a_claim(cqrs) < 400
    assert broker.numbers() == {other: list(range(5))}
    assert await cqrs.database.read(lambda c: count(c, cqrs.database.tables)) == MANY


async def test_a_parked_key_that_is_put_back_is_sent_in_its_old_order_before_what_came_later(
    cqrs: CQRS, broker: ScriptedBroker
) -> None:
    broker.decide = only("s-a", Outcome(Delivery.REFUSED, "too large"))
    async with Running(cqrs) as relay:
        await append(cqrs, "s-a", 1, 2, 3)
        await relay.until_waiting(0)
        broker.decide = lambda _: ACKNOWLEDGED
        ids = {letter.message_id for letter in await cqrs.database.read(lambda c: newest(c, cqrs.database.tables, 9))}
        await append(cqrs, "s-a", 4)
        now = datetime.now(UTC)
        put_back = partial(put_back_key, tables=cqrs.database.tables, topic="things", key=b"s-a", now=now)
        assert await cqrs.database.write(put_back) >= 3
        await append(cqrs, "s-a", 5)
        await relay.until_waiting(0)
    assert broker.numbers() == {"s-a": [1, 2, 3, 4, 5]}
    assert ids <= {message.message_id for message in broker.sent}
    assert broker.sent[0].headers["type"] == "Happened"
    assert await count_blocked(cqrs) == 0


async def test_a_topic_that_is_created_within_its_grace_receives_everything(cqrs: CQRS, broker: ScriptedBroker) -> None:
    broker.decide = lambda _: Outcome(Delivery.UNKNOWN_TOPIC, "no such topic")
    async with Running(cqrs) as relay:
        await append(cqrs, "s-a", 1, 2)
        while broker.calls < 3:
            await asyncio.sleep(0.02)
        broker.decide = lambda _: ACKNOWLEDGED
        await relay.until_waiting(0)
    assert broker.numbers() == {"s-a": [1, 2]}


async def test_a_topic_that_stays_unknown_is_red_in_readiness_and_then_parks_its_keys(
    database_url: str, broker: ScriptedBroker
) -> None:
    broker.decide = lambda _: Outcome(Delivery.UNKNOWN_TOPIC, "no such topic")
    cqrs = application(database_url, broker, topic_grace=timedelta(seconds=1.5))
    await migrated(cqrs)
    async with cqrs.running(workers=("relay",)):
        await append(cqrs, "s-a", 1, 2)
        await append(cqrs, "s-b", 1)

        async def is_told() -> bool:
            checks = {check.name: check for check in (await cqrs.readiness()).checks}
            return not checks["outbox"].ok and "things" in checks["outbox"].detail

        await until(is_told)
        await until(lambda: _is(waiting(cqrs), 0))
        letters = await cqrs.database.read(lambda c: newest(c, cqrs.database.tables, 9))
    assert len(letters) == 3
    assert "no such topic" in {letter.error for letter in letters}
    assert broker.sent == []


async def test_attempts_are_counted_before_a_message_is_sent_again(cqrs: CQRS, broker: ScriptedBroker) -> None:
    broker.decide = only("s-a", Outcome(Delivery.HELD, "not now"))
    outbox = cqrs.database.tables.outbox
    query = select(outbox.c.attempts).order_by(outbox.c.position)
    async with Running(cqrs):
        await append(cqrs, "s-a", 1, 2)
        while broker.calls < 3:
            await asyncio.sleep(0.02)
    attempts = await cqrs.database.read(lambda connection: connection.execute(query).scalars().all())
    assert attempts[0] >= 2
    assert attempts[1] == 0


async def test_what_was_sent_past_a_refused_message_is_told_on_its_dead_letter(cqrs: CQRS) -> None:
    await fill(cqrs, row("s-a", 1), row("s-a", 2))
    tables = cqrs.database.tables
    batch = await cqrs.database.read(lambda c: claim(c, tables, EVERYWHERE, 10, Passed()))
    sent = told_apart(batch, [Outcome(Delivery.REFUSED, "too large"), ACKNOWLEDGED], frozenset())
    assert [one.told() for one in sent.refused] == [
        f"too large; overtaken by what was sent of its key: outbox positions {batch[1].position}"
    ]


async def test_a_delayed_message_is_sent_when_it_is_due_and_hurried_clocks_delay_nothing(
    cqrs: CQRS, broker: ScriptedBroker
) -> None:
    now = datetime.now(UTC)
    tomorrow = now + timedelta(days=1)
    await fill(
        cqrs,
        row("s-late", 1, available_at=now + timedelta(seconds=1.2)),
        row("s-a", 1, available_at=tomorrow, created_at=tomorrow),
        row("s-a", 2),
        *(row("s-later", number, available_at=tomorrow) for number in range(300)),
    )
    async with Running(cqrs) as relay:
        await relay.until_waiting(301)
        assert broker.numbers() == {"s-a": [1, 2]}
        await relay.until_waiting(300)
        await until(lambda: _is(in_the_way(cqrs), 0))  # what is due tomorrow is not looked at each time
    assert broker.numbers() == {"s-a": [1, 2], "s-late": [1]}


async def test_messages_without_a_key_are_not_lost_behind_one_that_is_held(cqrs: CQRS, broker: ScriptedBroker) -> None:
    broker.decide = lambda message: Outcome(Delivery.HELD, "not now") if message.key is None else ACKNOWLEDGED
    await fill(cqrs, *(row(None, 1) for _ in range(300)), row("s-a", 1))
    async with Running(cqrs) as relay:
        await relay.until_waiting(300)
        broker.decide = lambda _: ACKNOWLEDGED
        await relay.until_waiting(0, seconds=40)
    assert len(broker.sent) == 301


async def count_blocked(cqrs: CQRS) -> int:
    blocked = cqrs.database.tables.blocked_keys
    query = select(func.count()).select_from(blocked)
    return await cqrs.database.read(lambda connection: connection.execute(query).scalar_one())


async def _is(found: Any, wanted: int) -> bool:
    return bool(await found == wanted)
