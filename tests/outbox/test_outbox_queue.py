"""What waits in the outbox, looked at and put right; and whose it is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
from outbox_support import Add, make, payloads, rows, running
from sqlalchemy import insert, update

from cqrs_fastapi import CQRS, ConfigurationError
from cqrs_fastapi.dead_letters.parking import RELAY, newest
from cqrs_fastapi.errors import MalformedMessageError, MessageTooLargeError
from cqrs_fastapi.outbox.owner import OutboxInUseError, OutboxTakenError, Owner
from cqrs_fastapi.outbox.queue import NotWaitingError
from cqrs_fastapi.storage import leases

pytestmark = pytest.mark.anyio


@pytest.fixture
async def cqrs(database_url: str) -> AsyncIterator[CQRS]:
    async with running(make(database_url)) as cqrs:
        yield cqrs


@pytest.fixture
async def on_postgres(postgres_url: str) -> AsyncIterator[CQRS]:
    async with running(make(postgres_url)) as cqrs:
        yield cqrs


async def add(cqrs: CQRS, payload: bytes, **more: object) -> UUID:
    return await cqrs.mediator.send(Add(payload=payload, **more))  # type: ignore[arg-type]  # fields of the command


async def test_what_waits_is_found_by_topic_key_and_age(cqrs: CQRS) -> None:
    first = await add(cqrs, b"1", key="a")
    second = await add(cqrs, b"2", key="b", topic="other")
    queue = cqrs.outbox_queue
    found = await queue.find()
    assert [(one.id, one.topic, one.key, one.attempts) for one in found] == [
        (first, "raw", "a", 0),
        (second, "other", "b", 0),
    ]
    assert found[0].due_at is None
    assert timedelta(-1) < found[0].age < timedelta(minutes=5)
    assert [one.id for one in await queue.find(topic="other")] == [second]
    assert [one.id for one in await queue.find(key="a")] == [first]
    assert await queue.find(older_than=timedelta(hours=1)) == []
    assert len(await queue.find(limit=1)) == 1
    assert (await queue.count(), await queue.count(topic="raw")) == (2, 1)
    assert (await queue.get(second)).payload == b"2"


async def test_what_is_not_there_is_told(cqrs: CQRS) -> None:
    queue = cqrs.outbox_queue
    for work in (queue.get(uuid4()), queue.retry(uuid4()), queue.skip(uuid4(), "no"), queue.edit(uuid4(), topic="t")):
        with pytest.raises(NotWaitingError, match="may have been sent meanwhile"):
            await work


async def test_a_delayed_message_that_is_retried_is_due_at_once(cqrs: CQRS) -> None:
    message_id = await add(cqrs, b"later", key="k", delay=timedelta(days=30))
    assert (await cqrs.outbox_queue.get(message_id)).due_at is not None
    await cqrs.outbox_queue.retry(message_id)
    [row] = await rows(cqrs)
    assert row.bucket >= 0
    assert (await cqrs.outbox_queue.get(message_id)).due_at is None


async def test_a_message_behind_a_closed_key_is_not_sent_past_it(cqrs: CQRS) -> None:
    message_id = await add(cqrs, b"1", key="k")
    blocked = cqrs.database.tables.blocked_keys
    row = {"owner": RELAY, "key": "raw/k", "reason": "too large", "blocked_at": (await rows(cqrs))[0].created_at}
    await cqrs.database.write(lambda connection: connection.execute(insert(blocked), row) and None)
    assert (await cqrs.outbox_queue.get(message_id)).blocked == "too large"
    with pytest.raises(ConfigurationError, match="dead letter before it first"):
        await cqrs.outbox_queue.retry(message_id)


async def test_a_message_that_is_skipped_becomes_a_dead_letter_with_the_reason(cqrs: CQRS) -> None:
    first, second = await add(cqrs, b"1", key="k"), await add(cqrs, b"2", key="k")
    await cqrs.outbox_queue.skip(first, "the customer is gone")
    assert [row.id for row in await rows(cqrs)] == [second]
    [letter] = await cqrs.database.read(lambda connection: newest(connection, cqrs.database.tables, 10))
    assert (letter.consumer, letter.code, letter.error) == (RELAY, "skipped", "the customer is gone")
    assert (letter.message_id, letter.topic, letter.key, letter.payload) == (first, "raw", b"k", b"1")


async def test_an_edited_message_keeps_its_id_and_its_place(cqrs: CQRS) -> None:
    first, second = await add(cqrs, b"1", key="k"), await add(cqrs, b"2", key="k")
    headers = {"own": "x", "content-type": None}
    await cqrs.outbox_queue.edit(first, payload=b"new", topic="elsewhere", headers=headers)
    found = await cqrs.outbox_queue.find()
    assert [(one.id, one.topic, one.payload) for one in found] == [(first, "elsewhere", b"new"), (second, "raw", b"2")]
    assert found[0].headers["own"] == "x"
    assert "content-type" not in found[0].headers


async def test_an_edit_that_could_not_be_sent_is_refused_and_changes_nothing(cqrs: CQRS) -> None:
    message_id, queue = await add(cqrs, b"1"), cqrs.outbox_queue
    with pytest.raises(MalformedMessageError):
        await queue.edit(message_id, payload=b"new", topic="no topic!")
    with pytest.raises(MalformedMessageError):
        await queue.edit(message_id, payload=b"new", headers={"message-id": "x"})
    with pytest.raises(MessageTooLargeError):
        await queue.edit(message_id, payload=bytes(cqrs.settings.max_event_bytes + 1))
    assert await payloads(cqrs) == [b"1"]


async def test_a_relay_refuses_to_start_while_the_outbox_is_debeziums(on_postgres: CQRS) -> None:
    queue = on_postgres.outbox_queue
    assert await queue.owner() is Owner.RELAY
    await queue.give_to_debezium()
    assert await queue.owner() is Owner.DEBEZIUM
    with pytest.raises(OutboxTakenError, match="let no relay run"):
        await on_postgres.worker("relay").run(asyncio.Event())

    message_id = await add(on_postgres, b"1")
    for work in (queue.retry(message_id), queue.edit(message_id, topic="t"), queue.skip(message_id, "no")):
        with pytest.raises(ConfigurationError, match="Debezium"):
            await work
    assert await queue.give_to_relays() == 1
    stop = asyncio.Event()
    stop.set()
    await on_postgres.worker("relay").run(stop)


async def test_debezium_gets_no_outbox_while_a_relay_is_at_work_or_a_message_waits_for_its_time(
    on_postgres: CQRS,
) -> None:
    database, queue = on_postgres.database, on_postgres.outbox_queue
    duration = timedelta(seconds=30)
    lease = await database.write(lambda c: leases.acquire(c, database.tables, "relay:tests", uuid4(), duration))
    assert lease is not None
    with pytest.raises(OutboxInUseError, match="a relay is at work"):
        await queue.give_to_debezium()
    await database.write(lambda c: leases.release(c, database.tables, lease))
    message_id = await add(on_postgres, b"later", delay=timedelta(days=1))
    with pytest.raises(OutboxInUseError, match="1 messages wait for their time"):
        await queue.give_to_debezium()
    assert await queue.owner() is Owner.RELAY
    await queue.skip(message_id, "no longer")
    await queue.give_to_debezium()


async def test_a_relay_that_was_stopped_while_the_outbox_changed_hands_has_lost_its_lease(on_postgres: CQRS) -> None:
    database, tables = on_postgres.database, on_postgres.database.tables
    zombie = await database.write(lambda c: leases.acquire(c, tables, "relay:tests", uuid4(), timedelta(seconds=30)))
    assert zombie is not None
    mine, earlier = tables.leases.c.name == zombie.name, datetime.now(UTC) - timedelta(hours=1)
    expired = update(tables.leases).where(mine).values(expires_at=earlier)
    await database.write(lambda connection: connection.execute(expired) and None)
    await on_postgres.outbox_queue.give_to_debezium()
    with pytest.raises(leases.LeaseLostError):
        await database.write(lambda c: leases.renew(c, tables, zombie))
    assert await database.write(lambda c: leases.acquire(c, tables, zombie.name, uuid4(), timedelta(1))) is None


async def test_an_outbox_of_debeziums_is_cleaned_and_one_of_relays_is_not(on_postgres: CQRS) -> None:
    queue = on_postgres.outbox_queue
    await add(on_postgres, b"old")
    outbox = on_postgres.database.tables.outbox
    aged = update(outbox).values(created_at=datetime.now(UTC) - timedelta(days=2))
    await on_postgres.database.write(lambda connection: connection.execute(aged) and None)
    await add(on_postgres, b"new")
    with pytest.raises(ConfigurationError, match="relays delete what they have sent"):
        await queue.clean(timedelta(days=1))
    await queue.give_to_debezium()
    assert await queue.clean(timedelta(days=1), batch=1) == 1
    assert await payloads(on_postgres) == [b"new"]


async def test_sqlite_is_never_debeziums(sqlite_url: str) -> None:
    async with running(make(sqlite_url)) as cqrs:
        with pytest.raises(ConfigurationError, match="reads no SQLite"):
            await cqrs.outbox_queue.give_to_debezium()
