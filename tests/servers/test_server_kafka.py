"""Apache's own broker, where this machine can have it."""

from __future__ import annotations

import asyncio
import base64
import uuid
from collections.abc import Iterator

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from tools.servers import Servers, ServerUnavailableError

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """A broker that only these tests know, on a cluster whose id begins with a hyphen, as one in 64 does."""
    servers = Servers(tmp_path_factory.mktemp("kafka"), {"CQRS_SERVERS_KAFKA": "apache"})
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(uuid, "uuid4", lambda: uuid.UUID(bytes=base64.urlsafe_b64decode("-" * 22 + "==")))
        try:
            servers.start("kafka")
        except ServerUnavailableError as missing:
            pytest.skip(str(missing))
    yield servers
    servers.stop("kafka")


@pytest.mark.parametrize("crash", [False, True], ids=["asked to stop", "killed"])
async def test_a_restart_keeps_records_and_address(broker: Servers, *, crash: bool) -> None:
    server = broker.start("kafka")
    topic = f"kept-{uuid.uuid4().hex}"
    await _declare(server.url, topic)
    await _produce(server.url, topic, [b"one", b"two"])
    assert await asyncio.to_thread(broker.restart, "kafka", crash=crash) == server
    await _produce(server.url, topic, [b"three"])
    assert await _consume(server.url, topic, 3) == [b"one", b"two", b"three"]


async def test_an_undeclared_topic_does_not_come_into_being(broker: Servers) -> None:
    url = broker.start("kafka").url
    admin = AIOKafkaAdminClient(bootstrap_servers=url)
    await admin.start()
    await admin.describe_topics(
        ["undeclared"]
    )  # to ask is enough, where a broker makes topics by itself, if not at once
    await _declare(url, "declared")
    await _produce(url, "declared", [b"some time has passed"])
    assert "undeclared" not in await admin.list_topics()
    await admin.close()


async def _declare(url: str, topic: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=url)
    await admin.start()
    await admin.create_topics([NewTopic(topic, num_partitions=1, replication_factor=1)])
    await admin.close()


async def _produce(url: str, topic: str, values: list[bytes]) -> None:
    async with AIOKafkaProducer(bootstrap_servers=url, enable_idempotence=True) as producer:
        for value in values:
            await producer.send_and_wait(topic, value)


async def _consume(url: str, topic: str, count: int) -> list[bytes | None]:
    async with AIOKafkaConsumer(topic, bootstrap_servers=url, auto_offset_reset="earliest") as consumer:
        return [(await consumer.getone()).value for _ in range(count)]
