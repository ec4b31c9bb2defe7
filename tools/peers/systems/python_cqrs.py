"""python-cqrs 5.3: its outbox, its documented loop of the producer, its inbox and the loop of its processor.

The loops are those of its README and docstrings but for one pause: 0.1 s between polls and not 10, and a send that
cannot connect is not tried three times with a second between, so that an outage need not last for hours.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from typing import Any

import aiokafka
import cqrs
from aiokafka.errors import KafkaTimeoutError
from cqrs.adapters import kafka as kafka_adapters
from cqrs.inbox.map import InboxMessageMap
from cqrs.inbox.processor import InboxProcessor
from cqrs.inbox.sqlalchemy import InboxModel, SqlAlchemyInboxRepository
from cqrs.message_brokers import kafka
from cqrs.outbox.sqlalchemy import OutboxModel, SqlAlchemyOutboxedEventRepository
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine

from tools.peers.systems.numbers import Handler, die, fault, texts

NAME, POLL_SECONDS = "Numbered", 0.1
logging.disable(logging.CRITICAL)  # it sets its own logger to DEBUG, and writes each message

cqrs.OutboxedEventMap.register(NAME, cqrs.NotificationEvent[str])
inbox_map = InboxMessageMap()
inbox_map.register(NAME, cqrs.NotificationEvent[str])
engine = create_async_engine(os.environ["PEERS_DATABASE"])
sessions = async_sessionmaker(engine)


def event(text: str) -> Any:
    return cqrs.NotificationEvent[str](event_name=NAME, topic=os.environ["PEERS_TOPIC"], payload=text)


async def fill(events: int, streams: int) -> None:
    async with engine.begin() as connection:
        await connection.run_sync(OutboxModel.metadata.create_all)
    async with sessions() as session:
        repository = SqlAlchemyOutboxedEventRepository(session)
        for _, text in texts(events, streams):
            repository.add(event(text))
            await repository.commit()


async def relay() -> None:
    """As in its README, "Producing Events from Outbox to Kafka"."""
    made = kafka_adapters.kafka_producer_factory(dsn=os.environ["PEERS_KAFKA"], retry_count=1)
    broker = kafka.KafkaMessageBroker(producer=made)
    async with sessions() as session:
        repository = SqlAlchemyOutboxedEventRepository(session)
        producer = cqrs.EventProducer(broker, repository)
        async for messages in producer.event_batch_generator():
            for message in messages:
                await producer.send_message(message)
            if messages and fault() == "kill-after-ack":
                die()
            await producer.repository.commit()
            await asyncio.sleep(POLL_SECONDS)


def stream_error() -> None:
    """What aiokafka raises for a record that it could not send in time, once for each stream."""
    send, failed = aiokafka.AIOKafkaProducer.send_and_wait, set()

    async def failing(self: Any, topic: str, value: bytes, **named: Any) -> Any:
        stream = value.partition(b"of")[2].partition(b'"')[0]
        if stream not in failed:
            failed.add(stream)
            raise KafkaTimeoutError
        return await send(self, topic, value=value, **named)

    aiokafka.AIOKafkaProducer.send_and_wait = failing


class Mediator:
    """In the place of its EventMediator, which finds the handler by a container."""

    def __init__(self) -> None:
        self._handler = Handler()

    async def send(self, message: Any) -> None:
        self._handler(message.payload)


async def consume(messages: int) -> None:
    """Messages that are in its inbox already, as a subscriber puts them there; then the loop of the worker."""
    async with engine.begin() as connection:
        await connection.run_sync(InboxModel.metadata.create_all)
    async with sessions() as session:
        repository = SqlAlchemyInboxRepository(session, message_map=inbox_map)
        await repository.add([(text, event(text)) for _, text in texts(messages, 1)])
        await repository.commit()
    async with sessions() as session:
        repository = SqlAlchemyInboxRepository(session, message_map=inbox_map)
        processor = InboxProcessor(repository, inbox_map, event_mediator=Mediator())
        async for rows in processor.batch_generator():
            for row in rows:
                await processor.process(row)
            await repository.commit()
            await asyncio.sleep(POLL_SECONDS)


def main(command: str, *arguments: str) -> None:
    if fault() == "stream-error":
        stream_error()
    work = {"fill": fill, "relay": relay, "consume": consume}[command]
    asyncio.run(work(*map(int, arguments)))


if __name__ == "__main__":
    main(*sys.argv[1:])
