from collections.abc import AsyncIterator

import pytest

from cqrs_fastapi.brokers.broker import Broker
from cqrs_fastapi.brokers.connect import connect
from cqrs_fastapi.brokers.memory.broker import MemoryBroker
from cqrs_fastapi.errors import UnavailableError
from cqrs_fastapi.settings import Settings
from cqrs_fastapi.testing.contracts.listening import ListeningContract


class TestMemoryListening(ListeningContract):
    @pytest.fixture
    async def broker(self) -> AsyncIterator[Broker]:
        broker = MemoryBroker()
        await broker.open()
        yield broker
        await broker.close()


class TestKafkaListening(ListeningContract):
    @pytest.fixture
    async def broker(self, real_kafka: str) -> AsyncIterator[Broker]:
        broker = connect(f"kafka://{real_kafka}", Settings())
        await broker.open()
        yield broker
        await broker.close()

    async def test_a_topic_that_does_not_exist_is_told(self, real_kafka: str) -> None:
        broker = connect(f"kafka://{real_kafka}", Settings(create_topics=False))
        with pytest.raises(UnavailableError, match="does not know"):
            await broker.listen(["nobody-made-this"])
        await broker.close()
