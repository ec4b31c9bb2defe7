"""Aggregates: replaying their events from PostgreSQL, loading them by a snapshot, and recording in memory.

Events are about a hundred bytes of JSON, in the three forms that events may have. The rows alone are the columns that a
replay reads, fetched by asyncpg. The peer is `eventsourcing` with its own recorder on the same server.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from uuid import UUID, uuid4

import asyncpg
import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from benchmarks.append import NOTE, database_for_bench
from benchmarks.peer import Histories
from benchmarks.timing import Ratio, Work, compare
from cqrs_fastapi import CQRS, Aggregate, AnyEvent, Command, Event, Query, Repository, Settings, applies, event, every
from cqrs_fastapi.migrations import upgrade

EVENTS = 1_000
LONG = 100_000
SHORT = 10
TAIL = 5
"""Events behind a snapshot."""
ROUNDS = 40
RECORDED = 1_000


@event(name="by_struct")
class ByStruct(msgspec.Struct, frozen=True):
    amount: int
    note: str


@event(name="by_dataclass")
@dataclass(frozen=True, slots=True)
class ByDataclass:
    amount: int
    note: str


class ByModel(Event, name="by_model"):
    amount: int
    note: str


class OfStructs(Aggregate):
    balance: int = 0

    @applies
    def on_event(self, event: ByStruct) -> None:
        self.balance += event.amount


class OfDataclasses(Aggregate):
    balance: int = 0

    @applies
    def on_event(self, event: ByDataclass) -> None:
        self.balance += event.amount


class OfModels(Aggregate):
    balance: int = 0

    @applies
    def on_event(self, event: ByModel) -> None:
        self.balance += event.amount


class Kept(OfModels, snapshots=every(SHORT)):
    """With snapshots."""


@dataclass(frozen=True)
class Form:
    """Events of one form, and what was promised of them."""

    name: str
    aggregate: type[OfStructs | OfDataclasses | OfModels]
    event: Callable[[int, str], AnyEvent]
    over_rows: float
    over_peer: float


FORMS = (
    Form("msgspec", OfStructs, ByStruct, 2.5, 15.0),
    Form("dataclass", OfDataclasses, ByDataclass, 2.5, 15.0),
    Form("pydantic", OfModels, lambda amount, note: ByModel(amount=amount, note=note), 5.0, 8.0),
)

_EVENTS = text("""
INSERT INTO cqrs_events (message_id, stream, version, category, type, schema_version, data, metadata, recorded_at)
SELECT gen_random_uuid(), :stream, n, :category, :type, 1, :data,
    '{"version":"1","correlation-id":"c","time":"2026-01-01T00:00:00+00:00"}', now()
FROM generate_series(1, CAST(:count AS bigint)) AS n
""")
_STREAM = text("INSERT INTO cqrs_streams (stream, category, version) VALUES (:stream, :category, :count)")
_ROWS = """
SELECT version, type, schema_version, data::text FROM cqrs_events WHERE tenant = '' AND stream = $1 ORDER BY version
"""


class Load(Query[int]):
    """Gives the version that was loaded."""

    id: UUID
    of: str


class Record(Command[None]):
    id: UUID


async def run() -> list[Ratio]:
    """All rows."""
    async with database_for_bench() as url:
        ids = {form.aggregate: uuid4() for form in FORMS}
        short, long = uuid4(), uuid4()
        await _fill(url, [(one, key, EVENTS) for one, key in ids.items()] + [(Kept, short, SHORT), (Kept, long, LONG)])
        async with _application(url) as cqrs, asyncpg.create_pool(url.replace("+asyncpg", ""), min_size=1) as pool:
            with Histories(url, NOTE) as peer:
                rows = [*await _replays(cqrs, pool, peer, ids), *await _snapshots(cqrs, peer, short, long)]
                return [*rows, *[await _in_memory(form, peer) for form in FORMS]]


async def _replays(
    cqrs: CQRS, pool: asyncpg.Pool, peer: Histories, ids: dict[type[OfStructs | OfDataclasses | OfModels], UUID]
) -> list[Ratio]:
    rows: list[Ratio] = []
    history = peer.history(EVENTS)
    for form in FORMS:
        key = ids[form.aggregate]
        ours, alone = _load(cqrs, form.aggregate, key, EVENTS), _fetch(pool, form.aggregate, key)
        name = f"load {EVENTS:,} events, {form.name}"
        rows.append(
            await compare(f"{name} / the rows alone", ours, alone, limit=form.over_rows, count=1, rounds=ROUNDS)
        )
        theirs = _blocking(lambda: peer.load(history))
        rows.append(await _faster(f"{name} / eventsourcing's repository.get", ours, theirs, form.over_peer, 1))
    return rows


async def _snapshots(cqrs: CQRS, peer: Histories, short: UUID, long: UUID) -> list[Ratio]:
    for key in (short, long):
        for _ in range(TAIL + 1):  # the first is followed by the snapshot
            await cqrs.mediator.send(Record(id=key))
            await cqrs.engine._snapshots.close()  # noqa: SLF001  # until it is written
    few, many = _load(cqrs, Kept, short, SHORT + TAIL + 1), _load(cqrs, Kept, long, LONG + TAIL + 1)
    history = peer.history(SHORT, snapshot=True, tail=TAIL)
    name = f"load by a snapshot with {TAIL} events behind it"
    flat = await compare(f"{name}, {LONG:,} events / {SHORT}", many, few, limit=1.2, count=20, rounds=ROUNDS)
    theirs = _blocking(lambda: peer.load(history))
    return [flat, await _faster(f"{name} / eventsourcing's with one", many, theirs, 1.5, 20)]


async def _in_memory(form: Form, peer: Histories) -> Ratio:
    def ours() -> None:
        aggregate, make = form.aggregate(uuid4()), form.event
        for number in range(RECORDED):
            aggregate.record(make(number, NOTE))

    name = f"record and apply in memory, {form.name} / eventsourcing's triggers"
    return await _faster(name, _blocking(ours), _blocking(lambda: peer.record(RECORDED)), 5.0, 1)


async def _faster(name: str, ours: Work, theirs: Work, limit: float, count: int) -> Ratio:
    """How many times as fast."""
    return await compare(name, theirs, ours, limit=limit, count=count, rounds=ROUNDS // 2, at_least=True)


def _load(cqrs: CQRS, aggregate: type[Aggregate], key: UUID, version: int) -> Work:
    send, query = cqrs.mediator.send, Load(id=key, of=aggregate.__name__)

    async def work(count: int) -> None:
        for _ in range(count):
            assert await send(query) == version

    return work


def _fetch(pool: asyncpg.Pool, aggregate: type[Aggregate], key: UUID) -> Work:
    stream = aggregate(key).stream

    async def work(count: int) -> None:
        for _ in range(count):
            async with pool.acquire() as connection:
                assert len(await connection.fetch(_ROWS, stream)) == EVENTS

    return work


def _blocking(once: Callable[[], None]) -> Work:
    async def work(count: int) -> None:
        for _ in range(count):
            once()

    return work


async def _fill(url: str, histories: Sequence[tuple[type[Aggregate], UUID, int]]) -> None:
    engine = create_async_engine(url)
    async with engine.begin() as connection:
        await connection.run_sync(upgrade)
        for aggregate, key, count in histories:
            (event_type,) = aggregate.__folds__
            values = {"stream": aggregate(key).stream, "category": aggregate.__category__, "count": count}
            data = f'{{"amount":5,"note":"{NOTE}"}}'
            await connection.execute(_EVENTS, {**values, "type": event_type.__event__.name, "data": data})  # type: ignore[union-attr]  # the mark of every event
            await connection.execute(_STREAM, values)
    async with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        await connection.execute(text("VACUUM ANALYZE cqrs_events"))
    await engine.dispose()


@asynccontextmanager
async def _application(url: str) -> AsyncIterator[CQRS]:
    cqrs = CQRS(settings=Settings(database_url=url))

    @cqrs.handles(Load)
    async def load(
        query: Load,
        of_structs: Repository[OfStructs],
        of_dataclasses: Repository[OfDataclasses],
        of_models: Repository[OfModels],
        kept: Repository[Kept],
    ) -> int:
        repositories = {
            "OfStructs": of_structs,
            "OfDataclasses": of_dataclasses,
            "OfModels": of_models,
            "Kept": kept,
        }
        return (await repositories[query.of].get(query.id)).version

    @cqrs.handles(Record)
    async def record(command: Record, kept: Repository[Kept]) -> None:
        (await kept.get(command.id)).record(ByModel(amount=5, note=NOTE))

    async with cqrs.running(workers=()):
        yield cqrs
