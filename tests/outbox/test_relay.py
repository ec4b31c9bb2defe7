"""The relay against a broker that does as it is told, on both databases."""

from __future__ import annotations

import asyncio
from uuid import uuid4

import pytest
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from relay_support import ACKNOWLEDGED, Running, ScriptedBroker, append, application, migrated, waiting

from cqrs_fastapi import CQRS
from cqrs_fastapi.brokers.broker import Delivery, Outcome, OutgoingMessage
from cqrs_fastapi.brokers.kafka.headers import to_wire
from cqrs_fastapi.dead_letters.parking import newest
from cqrs_fastapi.errors import MessageTooLargeError
from cqrs_fastapi.messages.envelopes.chosen import Envelopes
from cqrs_fastapi.messages.envelopes.envelope import Outbound
from cqrs_fastapi.messages.json_codec import render_json
from cqrs_fastapi.outbox.relay import Relay

pytestmark = pytest.mark.anyio


async def test_everything_is_sent_in_order_per_key_and_then_gone(cqrs: CQRS, broker: ScriptedBroker) -> None:
    for round_ in range(5):
        for key in "abc":
            await append(cqrs, f"s-{key}", *range(round_ * 4, round_ * 4 + 4))
    async with Running(cqrs) as relay:
        await relay.until_waiting(0)

    assert broker.numbers() == {f"s-{key}": list(range(20)) for key in "abc"}
    assert len(broker.sent) == 60


async def test_what_is_held_is_sent_later_and_never_overtaken(cqrs: CQRS, broker: ScriptedBroker) -> None:
    refusals = {"s-a": 3}

    def decide(message: OutgoingMessage) -> Outcome:
        if refusals.get(str(message.key), 0):
            refusals[str(message.key)] -= 1
            return Outcome(Delivery.HELD, "not now")
        return ACKNOWLEDGED

    broker.decide = decide
    await append(cqrs, "s-a", 1, 2, 3)
    await append(cqrs, "s-b", 1, 2, 3)
    async with Running(cqrs) as relay:
        await relay.until_waiting(0)

    assert broker.numbers() == {"s-a": [1, 2, 3], "s-b": [1, 2, 3]}


async def test_a_broker_that_is_away_is_waited_for_without_a_limit_of_attempts(
    cqrs: CQRS, broker: ScriptedBroker
) -> None:
    broker.away = True
    await append(cqrs, "s-a", 1, 2)
    async with Running(cqrs) as relay:
        while broker.calls < 6:
            await asyncio.sleep(0.02)
        assert await waiting(cqrs) == 2
        broker.away = False
        await relay.until_waiting(0)

    assert broker.numbers() == {"s-a": [1, 2]}


async def test_a_refused_message_is_parked_with_what_follows_it_and_other_keys_go_on(
    cqrs: CQRS, broker: ScriptedBroker
) -> None:
    def decide(message: OutgoingMessage) -> Outcome:
        refused = message.key == "s-a" and message.payload == b'{"number":2}'
        return Outcome(Delivery.REFUSED, "too large") if refused else ACKNOWLEDGED

    broker.decide = decide
    await append(cqrs, "s-a", 1, 2, 3)
    await append(cqrs, "s-b", 1, 2, 3)
    async with Running(cqrs) as relay:
        await relay.until_waiting(0)
        await append(cqrs, "s-a", 4)
        await relay.until_waiting(0)

    assert broker.numbers() == {"s-a": [1], "s-b": [1, 2, 3]}
    letters = await cqrs.database.read(lambda c: newest(c, cqrs.database.tables, 10))
    parked = sorted((letter.payload, letter.error) for letter in letters)
    behind = "an earlier message of this key is parked"
    assert parked == [(b'{"number":2}', "too large"), (b'{"number":3}', behind), (b'{"number":4}', behind)]
    assert {(letter.consumer, letter.code, letter.topic) for letter in letters} == {("relay", "refused", "things")}


async def test_a_relay_that_dies_after_the_acknowledgement_sends_again_with_the_same_id(
    cqrs: CQRS, broker: ScriptedBroker
) -> None:
    await append(cqrs, "s-a", 1, 2)
    broker.hang = asyncio.Event()
    dying = asyncio.create_task(cqrs.worker("relay").run(asyncio.Event()))
    while not broker.sent:
        await asyncio.sleep(0.01)
    dying.cancel()
    with pytest.raises(asyncio.CancelledError):
        await dying
    assert await waiting(cqrs) == 2

    broker.hang = None
    async with Running(cqrs) as relay:
        await relay.until_waiting(0)

    assert broker.numbers() == {"s-a": [1, 2]}
    assert len(broker.sent) == 4
    assert len({message.message_id for message in broker.sent}) == 2


async def test_a_relay_that_stops_leaves_what_is_not_acknowledged(cqrs: CQRS, broker: ScriptedBroker) -> None:
    await append(cqrs, "s-a", 1)
    broker.hang = asyncio.Event()
    async with Running(cqrs):
        while not broker.sent:
            await asyncio.sleep(0.01)

    assert await waiting(cqrs) == 1


async def test_of_two_relays_each_sends_once_and_the_other_goes_on_when_one_stops(
    cqrs: CQRS, broker: ScriptedBroker
) -> None:
    async with Running(cqrs) as first:
        await append(cqrs, "s-a", 1)
        await first.until_waiting(0)
        async with Running(cqrs) as second:
            await append(cqrs, "s-a", 2)
            await second.until_waiting(0)
            first.stop.set()
            await first.task
            await append(cqrs, "s-a", 3)
            await second.until_waiting(0)

    assert [message.payload for message in broker.sent] == [b'{"number":1}', b'{"number":2}', b'{"number":3}']


async def test_a_relay_that_has_lost_its_lease_deletes_nothing(cqrs: CQRS, broker: ScriptedBroker) -> None:
    await append(cqrs, "s-a", 1)
    broker.hang = asyncio.Event()
    relay = cqrs.worker("relay")
    assert isinstance(relay, Relay)
    stop = asyncio.Event()
    running = asyncio.create_task(relay.run(stop))
    while not broker.sent:
        await asyncio.sleep(0.01)

    def steal(connection: object) -> None:
        tables = cqrs.database.tables
        connection.execute(tables.leases.update().values(owner=uuid4(), epoch=tables.leases.c.epoch + 1))  # type: ignore[attr-defined]  # a Connection

    await cqrs.database.write(steal)
    broker.hang.set()
    await asyncio.sleep(0.3)
    assert await waiting(cqrs) == 1
    stop.set()
    await running


async def test_headers_carry_what_a_receiver_needs(cqrs: CQRS, broker: ScriptedBroker) -> None:
    await append(cqrs, "s-a", 1)
    async with Running(cqrs) as relay:
        await relay.until_waiting(0)

    [message] = broker.sent
    assert (message.headers["type"], message.headers["version"]) == ("Happened", "1")
    assert message.headers["message-id"] == str(message.message_id)
    assert message.headers["outbox-position"] == "1"


async def test_what_the_broker_would_refuse_for_its_size_is_refused_before_the_commit(
    database_url: str, broker: ScriptedBroker
) -> None:
    broker.max_message_bytes = 800
    cqrs = application(database_url, broker)
    await migrated(cqrs)
    async with cqrs.running(workers=()):
        await append(cqrs, "s-a", 1)
        with pytest.raises(MessageTooLargeError, match="Happened, as it is sent"):
            await append(cqrs, f"s-{'a' * 190}", 1)  # the payload alone would fit
        assert await waiting(cqrs) == 1


async def test_no_message_is_larger_for_kafka_than_what_was_checked(cqrs: CQRS, broker: ScriptedBroker) -> None:
    await append(cqrs, "s-a", 1)
    async with Running(cqrs) as relay:
        await relay.until_waiting(0)
    (message,) = broker.sent
    key = str(message.key)
    pairs = to_wire(message)
    real = DefaultRecordBatchBuilder.estimate_size_in_bytes(key.encode(), message.payload, pairs)
    stored = {name: value for name, value in message.headers.items() if name in {"version", "time", "correlation-id"}}
    checked = Outbound(message.message_id, "Happened", message.topic, key, message.payload, {})
    Envelopes().require_sendable(checked, render_json(stored), max_bytes=real + 512)
    with pytest.raises(MessageTooLargeError):
        Envelopes().require_sendable(checked, render_json(stored), max_bytes=real)
