"""The relay of python-cqrs 5.3 as its documentation has it. Run by a Python of its own, since it needs other versions:

    python -m venv peer && peer/bin/pip install "python-cqrs[sqlalchemy,pydantic]==5.3.0" aiokafka asyncpg retry-async

It reads numbers from its input, sends so many events, and prints the seconds that this took.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time

import cqrs
import pydantic
from cqrs.adapters.kafka import kafka_producer_factory
from cqrs.message_brokers.kafka import KafkaMessageBroker
from cqrs.outbox.sqlalchemy import Base, SqlAlchemyOutboxedEventRepository
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine


class Booked(pydantic.BaseModel):
    amount: int
    note: str


Event = cqrs.NotificationEvent[Booked]


async def main(url: str, bootstrap: str, topic: str, batch: int) -> None:
    logging.disable(logging.CRITICAL)
    cqrs.OutboxedEventMap.register("Booked", Event)
    engine = create_async_engine(url)
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    sessions = async_sessionmaker(engine, expire_on_commit=False)
    broker = KafkaMessageBroker(kafka_producer_factory(bootstrap))
    for line in sys.stdin:
        count = int(line)
        async with sessions() as session:
            repository = SqlAlchemyOutboxedEventRepository(session)
            for _ in range(count):
                note = "a note that is as long as notes are, and no longer than that"
                repository.add(Event(event_name="Booked", topic=topic, payload=Booked(amount=5, note=note)))
            await repository.commit()
        began = time.perf_counter()
        async with sessions() as session:
            repository = SqlAlchemyOutboxedEventRepository(session)
            producer = cqrs.EventProducer(broker, repository)
            sent = 0
            async for events in producer.event_batch_generator(batch):
                for event in events:
                    await producer.send_message(event)
                await repository.commit()
                sent += len(events)
                if sent >= count:
                    break
        print(time.perf_counter() - began, flush=True)


asyncio.run(main(*sys.argv[1:4], int(sys.argv[4])))
