"""Commands and queries between processes over a real Kafka, with receivers that are killed by SIGKILL."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import pytest
from aiokafka.admin import AIOKafkaAdminClient
from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import create_async_engine

from cqrs_fastapi import CQRS, Metadata, RemoteRefusedError, RemoteUnknownOutcomeError, Settings
from cqrs_fastapi.brokers.broker import IncomingMessage
from cqrs_fastapi.messages.metadata import Received, enter, leave
from cqrs_fastapi.migrations import upgrade
from tests.acceptance.apps.depot import Order, Ordered, orders, tables
from tests.acceptance.programs import BIN, Program, Stage

pytestmark = pytest.mark.anyio

PATIENCE = 60.0


@dataclass
class Depot:
    """The receiving service, from outside: its consumer and its relay are processes of their own."""

    stage: Stage
    url: str
    broker_url: str
    run: str = field(default_factory=lambda: uuid4().hex[:8])

    @property
    def orders(self) -> str:
        return f"Order{self.run}"

    @property
    def asked(self) -> str:
        return f"Ordered{self.run}"

    def running(self, command: str, **more: str) -> AbstractContextManager[Program]:
        environment = {
            "CQRS_DATABASE_URL": self.url,
            "CQRS_BROKER_URL": self.broker_url,
            "CQRS_SERVICE": f"depot-{self.run}",
            "CQRS_RELAY_POLL": "PT0.1S",
            "CQRS_TOPIC_PARTITIONS": "2",
            "DEPOT_RUN": self.run,
            **more,
        }
        return self.stage.running(str(BIN / "cqrs"), command, "tests.acceptance.apps.depot:cqrs", **environment)

    async def done(self) -> list[tuple[str, str | None]]:
        """What was ordered, and by whom."""
        engine = create_async_engine(self.url)
        async with engine.connect() as connection:
            rows = (await connection.execute(select(orders.c.item, orders.c.user).order_by(orders.c.n))).all()
        await engine.dispose()
        return [(row.item, row.user) for row in rows]

    async def replies_waiting(self) -> int:
        engine = create_async_engine(self.url)
        async with engine.connect() as connection:
            found = await connection.execute(text("SELECT count(*) FROM cqrs_outbox WHERE type = 'reply'"))
            waiting: int = found.scalar_one()
        await engine.dispose()
        return waiting

    async def prepare(self) -> None:
        engine = create_async_engine(self.url)
        async with engine.begin() as connection:
            await connection.run_sync(upgrade)
            await connection.run_sync(tables.create_all)
        await engine.dispose()


@pytest.fixture
async def depot(real_kafka: str, postgres_url: str, tmp_path: Path) -> Depot:
    depot = Depot(Stage(tmp_path), postgres_url, f"kafka://{real_kafka}")
    await depot.prepare()
    return depot


@pytest.fixture
async def shop(depot: Depot, tmp_path: Path) -> AsyncIterator[CQRS]:
    """The asking service, in the process of the test, with a database of its own."""
    settings = Settings(
        service=f"shop-{depot.run}",
        database_url=f"sqlite+aiosqlite:///{tmp_path / 'shop.db'}",
        broker_url=depot.broker_url,
        topic_partitions=2,
    )
    cqrs = CQRS(settings=settings)
    async with cqrs.running(workers=()):
        await cqrs.broker.ensure_topics([depot.orders, depot.asked])
        yield cqrs


@asynccontextmanager
async def hearing_replies(shop: CQRS) -> AsyncIterator[list[IncomingMessage]]:
    """Everything on the reply topic, as somebody else than the client hears it."""
    heard: list[IncomingMessage] = []
    topic = f"{shop.settings.service}.replies"
    await shop.broker.ensure_topics([topic])
    listener = await shop.broker.listen([topic])

    async def hear() -> None:
        while True:
            heard.extend(await listener.receive())

    task = asyncio.create_task(hear())
    try:
        yield heard
    finally:
        task.cancel()
        await asyncio.wait({task})
        await listener.close()


@contextmanager
def on_behalf_of(user: str) -> Iterator[Metadata]:
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    metadata = Metadata(
        message_id=uuid4(), correlation_id=f"c-{user}", time=datetime.now(UTC), user=user, traceparent=trace
    )
    token = enter(Received(metadata))
    try:
        yield metadata
    finally:
        leave(token)


async def has_died(program: Program) -> None:
    status = await asyncio.to_thread(program.process.wait, PATIENCE)
    assert status == -signal.SIGKILL, program.printed()


@pytest.mark.parametrize(("where", "before"), [("inside", []), ("committed", [("chair", "anna")])])
async def test_remote_a_receiver_that_is_killed_gives_one_effect_and_one_reply(
    depot: Depot, shop: CQRS, where: str, before: list[tuple[str, str]]
) -> None:
    async with hearing_replies(shop) as heard:
        with on_behalf_of("anna"):
            asking = shop.broker_client.ask(Order(item="chair"), topic=depot.orders, timeout=2 * PATIENCE)
            answer = asyncio.create_task(asking)
        with depot.running("consume", DIE_AT=where) as victim:
            await has_died(victim)
        assert await depot.done() == before
        assert heard == []
        assert await depot.replies_waiting() == len(before)
        with depot.running("consume") as consumer:
            # The message is received again, its row is found and its reply waits in the outbox already; only then is
            # there anybody to send it.
            await until_passed(depot, consumer)
            with depot.running("relay"):
                assert (await answer).value == 1
            assert await depot.done() == [("chair", "anna")]

    mine = [reply for reply in heard if reply.headers["correlation-id"] == b"c-anna"]
    assert [reply.payload for reply in mine] == [b"1"]
    assert mine[0].headers["traceparent"].startswith(b"00-4bf92f3577b34da6a3ce929d0e0e4736")


async def until_passed(depot: Depot, consumer: Program) -> None:
    """Until the group's offset has passed the one order, which was received again."""
    admin = AIOKafkaAdminClient(bootstrap_servers=depot.broker_url.removeprefix("kafka://"))
    await admin.start()
    async with asyncio.timeout(PATIENCE):
        passed = 0
        while not passed:
            assert consumer.process.poll() is None, consumer.printed()
            await asyncio.sleep(0.1)
            offsets = await admin.list_consumer_group_offsets(f"depot-{depot.run}.requests")
            passed = sum(offset.offset for place, offset in offsets.items() if place.topic == depot.orders)
    await admin.close()


async def test_remote_commands_and_queries_between_processes(depot: Depot, shop: CQRS) -> None:
    message_id = uuid4()
    with depot.running("consume"), depot.running("consume"), depot.running("relay"):
        with on_behalf_of("anna"):
            orders_of_anna = [
                shop.broker_client.send(Order(item=f"chair{number}"), topic=depot.orders, timeout=PATIENCE)
                for number in range(20)
            ]
            numbers = await asyncio.gather(*orders_of_anna)
        for _ in range(3):
            again = shop.broker_client.send(
                Order(item="table"), topic=depot.orders, timeout=PATIENCE, message_id=message_id
            )
            assert await again == 21
        with pytest.raises(RemoteRefusedError) as refused:
            await shop.broker_client.send(Order(item="nothing"), topic=depot.orders, timeout=PATIENCE)
        asked = await shop.broker_client.send(Ordered(), topic=depot.asked, timeout=PATIENCE)

    assert len(numbers) == 20
    assert refused.value.refusal == "unknown_item"
    assert sorted(asked) == sorted([f"chair{number}" for number in range(20)] + ["table"])
    assert sorted(await depot.done()) == sorted([(f"chair{n}", "anna") for n in range(20)] + [("table", None)])


async def test_remote_an_outcome_that_is_unknown_is_found_out_by_the_message_id(depot: Depot, shop: CQRS) -> None:
    with pytest.raises(RemoteUnknownOutcomeError) as unknown:
        await shop.broker_client.send(Order(item="chair"), topic=depot.orders, timeout=3)
    with depot.running("consume"), depot.running("relay"):
        answer = await shop.broker_client.send(
            Order(item="chair"), topic=depot.orders, timeout=PATIENCE, message_id=unknown.value.message_id
        )

    assert answer == 1
    assert await depot.done() == [("chair", None)]
