"""Envelopes, connection settings and bad input, on a real Kafka."""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from cloudevents.core.bindings import kafka as cloud_kafka
from cloudevents.core.v1.event import CloudEvent

from cqrs_fastapi import CQRS, CloudEvents, Event, Foreign, Metadata, Settings
from cqrs_fastapi.dead_letters.parking import Letter, newest
from cqrs_fastapi.errors import MessageTooLargeError
from tools.servers.kafka_secured import PASSWORD, USER, Secured

sys.path.insert(0, str(Path(__file__).parents[1] / "inbox"))

import bad_input

pytestmark = pytest.mark.anyio

RUN = uuid4().hex[:12]


class Placed(Event, name="placed", topic=f"placed-{RUN}"):
    number: int
    text: str = ""


class Sent(Event, name="sent", topic=f"sent-{RUN}"):
    number: int


class Packed(Event, name="packed", topic=f"packed-{RUN}"):
    number: int


class Large(Event, name="large", topic=f"large-{RUN}"):
    lines: list[int]


class Counted(Event, topic=f"counted-{RUN}"):
    number: int


EVENTS = [Placed, Sent, Packed, Large]
ENVELOPES: dict[str, Any] = {
    f"placed-{RUN}": CloudEvents(source="/shop", mode="structured"),
    f"sent-{RUN}": CloudEvents(source="/shop"),
    f"counted-{RUN}": Foreign(Counted, id_field="number"),
}


def service(folder: Path, broker_url: str, name: str, seen: list[tuple[Any, UUID]] | None = None) -> CQRS:
    url = f"sqlite+aiosqlite:///{folder / name}.db"
    settings = Settings(database_url=url, broker_url=broker_url, service=f"{name}-{RUN}", relay_poll="PT0.1S")
    cqrs = CQRS(settings=settings, envelopes=ENVELOPES, codecs={Packed: bad_input.MessagePack()})
    cqrs.register(*EVENTS, Counted)
    if seen is not None:
        for event_type in (*EVENTS, Counted):

            @cqrs.on(event_type, name=f"on_{event_type.__name__.lower()}")
            async def handle(event: Any, metadata: Metadata) -> None:
                seen.append((event, metadata.message_id))

    return cqrs


async def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.05)


def numbers(seen: list[tuple[Any, UUID]]) -> Counter[int]:
    """Of the messages that others have sent. A list is no database: it may see a message twice, by the same id."""
    found = {(event.number, message_id) for event, message_id in seen if isinstance(event, Placed | Counted)}
    return Counter(number for number, _ in found if number > 5)


async def letters(cqrs: CQRS) -> list[Letter]:
    return await cqrs.database.read(lambda connection: newest(connection, cqrs.database.tables, 10_000))


async def records(bootstrap: str, topic: str, count: int) -> list[Any]:
    consumer = AIOKafkaConsumer(topic, bootstrap_servers=bootstrap, auto_offset_reset="earliest")
    await consumer.start()
    try:
        async with asyncio.timeout(30):
            return [await consumer.getone() for _ in range(count)]
    finally:
        await consumer.stop()


async def produce(
    bootstrap: str, messages: Sequence[tuple[str, Any, bytes, list[tuple[str, bytes]]]], **more: Any
) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, max_request_size=2_000_000, **more)
    await producer.start()
    try:
        for topic, key, value, headers in messages:
            await producer.send(topic, value, key=key, headers=headers, partition=0)
    finally:
        await producer.stop()


async def test_envelope_is_chosen_per_topic_and_read_by_another_service(real_kafka: str, tmp_path: Path) -> None:
    seen: list[tuple[Any, UUID]] = []
    url = f"kafka://{real_kafka}"
    sender, receiver = service(tmp_path, url, "sender"), service(tmp_path, url, "receiver", seen)
    sent = [Placed(number=1, text="ü"), Sent(number=2), Packed(number=3), Large(lines=list(range(30_000)))]
    async with receiver.running(workers=("consumer",)), sender.running(workers=("relay",)):
        for event in sent:
            await sender.event_mediator.publish(event)
        await until(lambda: len(seen) >= len(sent))
        assert sorted((event for event, _ in seen), key=lambda event: type(event).__name__) == sorted(
            sent, key=lambda event: type(event).__name__
        )
        assert await letters(receiver) == []

    ids = {type(event): message_id for event, message_id in seen}
    for event_type, data in ((Placed, {"number": 1, "text": "ü"}), (Sent, {"number": 2})):
        [record] = await records(real_kafka, event_type.__event__.topic or "", 1)
        read = cloud_kafka.from_kafka_event(cloud_kafka.KafkaMessage(dict(record.headers), record.key, record.value))
        assert (read.get_id(), read.get_source(), read.get_data()) == (str(ids[event_type]), "/shop", data)
    [large] = await records(real_kafka, f"large-{RUN}", 1)
    assert dict(large.headers)["content-encoding"] == b"gzip"
    [packed] = await records(real_kafka, f"packed-{RUN}", 1)
    assert dict(packed.headers)["content-type"] == b"application/msgpack"


async def test_envelope_of_others_cloud_events_and_bare_json_are_handled_once(real_kafka: str, tmp_path: Path) -> None:
    seen: list[tuple[Any, UUID]] = []
    receiver = service(tmp_path, f"kafka://{real_kafka}", "others", seen)
    given = CloudEvent({"id": "A-1", "source": "https://other.test", "type": "placed"}, {"number": 7})
    forms = [cloud_kafka.to_binary_event(given), cloud_kafka.to_structured_event(given)]
    async with receiver.running(workers=("consumer",)):
        placed = [(f"placed-{RUN}", b"k", form.value, list(form.headers.items())) for form in forms]
        bare = [(f"counted-{RUN}", b"k", json.dumps({"number": n, "more": 1}).encode(), []) for n in (8, 8, 9)]
        await produce(real_kafka, [*placed, *bare])
        await until(lambda: numbers(seen) >= Counter([7, 8, 9]))
        await produce(real_kafka, [(f"placed-{RUN}", b"k", b"", []), (f"counted-{RUN}", b"k", b'{"number":10}', [])])
        await until(lambda: numbers(seen) >= Counter([7, 8, 9, 10]))
        assert numbers(seen) == Counter([7, 8, 9, 10])
        [letter] = await letters(receiver)
        assert (letter.code, letter.topic) == ("malformed_message", f"placed-{RUN}")


async def test_envelope_too_large_to_be_sent_is_refused_before_the_commit(tmp_path: Path) -> None:
    """As JSON it is under its limit. Its codec's form is no text, and base64 in the structured mode makes it longer."""
    settings = Settings(database_url=f"sqlite+aiosqlite:///{tmp_path / 'large.db'}", max_event_bytes=1_000_000)
    envelopes: dict[str, Any] = {f"placed-{RUN}": CloudEvents(source="/shop", mode="structured")}
    cqrs = CQRS(settings=settings, envelopes=envelopes, codecs={Placed: bad_input.MessagePack()})
    cqrs.register(Placed)
    async with cqrs.running(workers=()):
        with pytest.raises(MessageTooLargeError, match="placed, as it is sent"):
            await cqrs.event_mediator.publish(Placed(number=1, text="x" * 900_000))
        table = cqrs.database.tables.outbox
        assert await cqrs.database.read(lambda connection: connection.execute(table.select()).all()) == []


async def test_connection_settings_of_a_secured_cluster_work_and_wrong_ones_turn_readiness_red(
    secured_kafka: Secured, tmp_path: Path
) -> None:
    seen: list[tuple[Any, UUID]] = []
    ca, address = secured_kafka.authority.file, secured_kafka.addresses["sasl"]
    rest = f"@{address}?security_protocol=SASL_SSL&sasl_mechanism=SCRAM-SHA-512&ca_file={ca}&client_id=shop"
    right = f"kafka://{USER}:{PASSWORD}{rest}"
    sender, receiver = service(tmp_path, right, "sender"), service(tmp_path, right, "receiver", seen)
    async with receiver.running(workers=("consumer",)), sender.running(workers=("relay",)):
        await sender.event_mediator.publish(Placed(number=1))
        await until(lambda: len(seen) == 1)
        assert (await sender.readiness()).ready

    wrong = service(tmp_path, f"kafka://{USER}:wrong{rest}", "wrong")
    async with asyncio.timeout(60), wrong.running(workers=("relay", "consumer")):
        await wrong.event_mediator.publish(Placed(number=2))
        async with asyncio.timeout(5):
            readiness = await wrong.readiness()
        assert not readiness.ready
        assert [check.name for check in readiness.checks if not check.ok] == ["broker"]
    assert len(seen) == 1


async def test_bad_input_on_a_real_kafka_ends_in_the_dead_letters_and_stops_no_consumer(
    secured_kafka: Secured, tmp_path: Path
) -> None:
    address, done = secured_kafka.addresses["plain"], []
    settings = Settings(
        database_url=f"sqlite+aiosqlite:///{tmp_path / 'bad.db'}",
        broker_url=f"kafka://{USER}:{PASSWORD}@{address}?security_protocol=SASL_PLAINTEXT",
        service="bad",
        max_message_bytes=bad_input.LIMIT,
    )
    cqrs = bad_input.application(settings)
    for event_type in bad_input.TYPES:

        @cqrs.on(event_type, name=f"on_{event_type.__name__.lower()}")
        async def handle(event: Any) -> None:
            done.append(event.what)

    cases = bad_input.corpus()
    last = [bad_input.native(f"last {topic}", "", b'{"what":"last"}') for topic in ("native",)]
    async with cqrs.running(workers=("consumer",)):
        await cqrs.broker.ensure_topics(sorted({case.topic for case in cases}))
        secret = {"sasl_mechanism": "PLAIN", "sasl_plain_username": USER, "sasl_plain_password": PASSWORD}
        messages = [(case.topic, case.key, case.payload, list(case.headers.items())) for case in (*cases, *last)]
        await produce(address, messages, security_protocol="SASL_PLAINTEXT", **secret)
        handled = sum(case.end == bad_input.HANDLED for case in cases) + 1
        await until(lambda: len(done) >= handled, 100)
        await until(lambda: done.count("last") == 1)
        wanted = Counter((case.topic, case.end) for case in cases if case.end != bad_input.HANDLED)
        async with asyncio.timeout(100):
            while len(found := await letters(cqrs)) < wanted.total():
                await asyncio.sleep(0.2)
    assert Counter((letter.topic, letter.code) for letter in found) == wanted
    assert Counter(letter.payload for letter in found) == Counter(
        case.payload for case in cases if case.end != bad_input.HANDLED
    )
    assert len(done) == handled
