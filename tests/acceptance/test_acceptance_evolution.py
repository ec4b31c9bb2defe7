"""What is promised of events that change, of programs that store by one code and read by the next, by the public API
alone: embedded, and on PostgreSQL.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine
from typer.testing import CliRunner

from cqrs_fastapi import CQRS, Query
from cqrs_fastapi.cli.main import app as cli
from cqrs_fastapi.migrations import upgrade

ROOT = Path(__file__).parents[2]

COMMON = """
import asyncio
import os
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from cqrs_fastapi import (
    CQRS, Aggregate, Command, Event, Metadata, Projection, Query, Repository, Settings, Upcast, applies, on, upcasts,
)

settings = Settings(service="parcels", subscription_poll="PT0.05S", retry_backoff="PT0.02S", drain_timeout="PT2S")
cqrs = CQRS(settings=settings)
PARCEL = UUID(int=7)
"""

FIRST = (
    COMMON
    + """
class ParcelPacked(Event):
    kilos: int
    note: str = ""

class ParcelWeighed(Event, name="parcel.weighed"):
    pass

class Parcel(Aggregate, category="parcel"):
    @applies
    def on_packed(self, event: ParcelPacked) -> None: ...
    @applies
    def on_weighed(self, event: ParcelWeighed) -> None: ...

class Pack(Command[int]):
    kilos: list[int]
    note: str = ""

@cqrs.handles(Pack)
async def pack(command: Pack, parcels: Repository[Parcel]) -> int:
    parcel = await parcels.get_or_new(PARCEL)
    for kilos in command.kilos:
        parcel.record(ParcelPacked(kilos=kilos, note=command.note))
        parcel.record(ParcelWeighed())
    return parcel.version
"""
)

SECOND = (
    COMMON  # noqa: S608  # a program with a statement of its own
    + """
class Packed(Event, name="parcel.packed", version=3, topic="parcels", aliases=("ParcelPacked",)):
    grams: int
    unit: str

class Noted(Event, name="parcel.noted"):
    text: str

@upcasts("parcel.packed", version=1, into=[("parcel.packed", 2), ("parcel.noted", 1)])
def notes_apart(data):
    packed = [Upcast("parcel.packed", 2, {"grams": data["kilos"] * 1000})]
    return packed + [Upcast("parcel.noted", 1, {"text": data["note"]})] if data["note"] else packed

@upcasts("parcel.packed", version=2)
def with_unit(data):
    return {**data, "unit": "g"}

@upcasts("parcel.weighed", version=1, into=[])
def no_longer_told(data):
    return []

cqrs.upcasters.include(notes_apart, with_unit, no_longer_told)

class Parcel(Aggregate, category="parcel"):
    grams: int = 0
    notes: tuple[str, ...] = ()
    @applies
    def on_packed(self, event: Packed) -> None:
        self.grams += event.grams
    @applies
    def on_noted(self, event: Noted) -> None:
        self.notes = (*self.notes, event.text)

class Look(Query[list[object]]):
    pass

class Seen(Query[list[str]]):
    pass

@cqrs.handles(Seen)
async def list_seen(query: Seen, session: AsyncSession) -> list[str]:
    return list((await session.execute(text("SELECT what FROM seen ORDER BY n"))).scalars())

class Add(Command[None]):
    grams: int

@cqrs.handles(Look)
async def look(query: Look, parcels: Repository[Parcel]) -> list[object]:
    parcel = await parcels.get(PARCEL)
    return [parcel.grams, list(parcel.notes), parcel.version]

@cqrs.handles(Add)
async def add(command: Add, parcels: Repository[Parcel]) -> None:
    (await parcels.get(PARCEL)).record(Packed(grams=command.grams, unit="g"))

class Overview(Projection):
    @on(Packed)
    async def packed(self, event: Packed, session: AsyncSession, metadata: Metadata) -> None:
        await seen(session, f"packed {event.grams}{event.unit}", metadata)
    @on(Noted)
    async def noted(self, event: Noted, session: AsyncSession, metadata: Metadata) -> None:
        await seen(session, f"noted {event.text}", metadata)

async def seen(session, what, metadata):
    count = (await session.execute(text("SELECT count(*) FROM seen"))).scalar_one()
    await session.execute(text("INSERT INTO seen VALUES (:n, :what)"), {"n": count, "what": what})
    if what == os.environ.get("DIE_AT"):
        await session.flush()
        os._exit(9)

cqrs.projections.include(Overview)
"""
)

DYING = """
import asyncio
from parcels import cqrs

async def main():
    async with cqrs.running(workers=("consumer",)):
        await asyncio.sleep(60)

asyncio.run(main())
"""


class Programs:
    """One module after the other on one database. A process of its own runs only what is to die."""

    def __init__(self, folder: Path, url: str) -> None:
        self._folder, self._url = folder, url

    def become(self, source: str) -> None:
        (self._folder / "parcels.py").write_text(source)
        sys.modules.pop("parcels", None)

    def cqrs(self, *words: str) -> tuple[int, str]:
        done = CliRunner().invoke(cli, words)
        return done.exit_code, done.output

    def send(self, name: str, **fields: object) -> str:
        status, output = self.cqrs("send", "parcels:cqrs", name, json.dumps(fields))
        assert status == 0, output
        return output.splitlines()[-1]

    def seen(self, wanted: int) -> list[str]:
        """What the read model has been given, once it is so much."""
        parcels = importlib.import_module("parcels")
        return asyncio.run(self._seen(parcels.cqrs, parcels.Seen, wanted))

    async def _seen(self, cqrs: CQRS, seen: type[Query[list[str]]], wanted: int) -> list[str]:
        async with cqrs.running(workers=("consumer",)), asyncio.timeout(30):
            while len(found := await cqrs.mediator.send(seen())) < wanted:
                await asyncio.sleep(0.05)
            return found

    def held(self) -> tuple[str, list[str]]:
        """What readiness says while somebody waits for other code, and what the read model has then."""
        parcels = importlib.import_module("parcels")
        return asyncio.run(self._held(parcels.cqrs, parcels.Seen))

    async def _held(self, cqrs: CQRS, seen: type[Query[list[str]]]) -> tuple[str, list[str]]:
        async with cqrs.running(workers=("consumer",)), asyncio.timeout(30):
            while "waits" not in (told := " ".join(check.detail for check in (await cqrs.readiness()).checks)):
                await asyncio.sleep(0.05)
            return told, await cqrs.mediator.send(seen())

    def die(self, at: str) -> None:
        done = subprocess.run(
            [sys.executable, "-B", "-c", DYING],
            cwd=self._folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), "CQRS_DATABASE_URL": self._url, "DIE_AT": at},
            timeout=90,
            check=False,
        )
        assert done.returncode == 9


async def prepare(url: str) -> None:
    engine = create_async_engine(url)
    async with engine.begin() as connection:
        await connection.run_sync(upgrade)
        await connection.execute(text("CREATE TABLE seen (n INTEGER, what VARCHAR(100))"))
    await engine.dispose()


@pytest.fixture
def programs(tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Programs]:
    asyncio.run(prepare(database_url))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CQRS_DATABASE_URL", database_url)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield Programs(tmp_path, database_url)
    sys.modules.pop("parcels", None)


@pytest.fixture
def evolved(programs: Programs) -> Programs:
    """The first code has stored four events, and the second one is there."""
    programs.become(FIRST)
    assert programs.send("Pack", kilos=[1, 2], note="fragile") == "0"
    programs.become(SECOND)
    return programs


def test_schema_evolution_reads_versions_by_chains_of_upcasters_also_into_several_and_into_none(
    evolved: Programs,
) -> None:
    assert json.loads(evolved.send("Look")) == [3000, ["fragile", "fragile"], 4]
    evolved.send("Add", grams=5)
    assert json.loads(evolved.send("Look")) == [3005, ["fragile", "fragile"], 5]


def test_schema_evolution_feeds_durable_handlers_once_although_it_dies_between_two_parts_of_one_event(
    evolved: Programs,
) -> None:
    evolved.die(at="noted fragile")
    assert evolved.seen(4) == SEEN


def test_schema_evolution_follows_renames_by_alias(evolved: Programs) -> None:
    """The class of the first code was stored as ParcelPacked, and without the alias nobody reads it."""
    evolved.become(SECOND.replace(', aliases=("ParcelPacked",)', ""))
    status, output = evolved.cqrs("send", "parcels:cqrs", "Look", "{}")
    assert status == 2
    assert "no message 'ParcelPacked' version 1 is registered" in output
    evolved.become(SECOND)
    assert json.loads(evolved.send("Look"))[0] == 3000


SEEN = ["packed 1000g", "noted fragile", "packed 2000g", "noted fragile"]
LATER = (
    SECOND.replace("class Parcel(", "class Measured(Event, name='parcel.noted', version=9):\n    pass\n\nclass Parcel(")
    .replace("    def on_noted", "    def on_measured(self, event: Measured): ...\n    @applies\n    def on_noted")
    .replace(".record(Packed(", ".record(Measured())\n    (await parcels.get(PARCEL)).record(Packed(")
)
"""Its `Add` records an event before, of a version that the second code does not know."""


def test_schema_evolution_holds_unknown_types_by_choice_of_the_consumer(evolved: Programs) -> None:
    evolved.become(LATER)
    evolved.send("Add", grams=7)
    evolved.become(SECOND)
    told, seen = evolved.held()
    assert "Overview.v1 waits at position 5 for code that reads 'parcel.noted' version 9" in told
    assert seen == SEEN
    evolved.become(LATER)
    assert evolved.seen(5) == [*SEEN, "packed 7g"]


def test_schema_evolution_skips_unknown_types_by_choice_of_the_consumer(evolved: Programs) -> None:
    evolved.become(LATER)
    evolved.send("Add", grams=7)
    evolved.become(SECOND.replace("class Overview(Projection)", "class Overview(Projection, unknown='skip')"))
    assert evolved.seen(5) == [*SEEN, "packed 7g"]


def test_schema_evolution_has_a_lockfile_and_a_check_that_fails_when_a_version_could_no_longer_be_read(
    evolved: Programs, tmp_path: Path
) -> None:
    evolved.become(FIRST)
    assert evolved.cqrs("schema", "lock", "parcels:cqrs")[0] == 0
    first = (tmp_path / "schema.lock.json").read_text()
    evolved.become(SECOND)
    status, output = evolved.cqrs("schema", "check", "parcels:cqrs")
    assert (status, "is not locked as the code stores it now" in output) == (1, True)
    assert evolved.cqrs("schema", "lock", "parcels:cqrs")[0] == 0
    assert (tmp_path / "schema.lock.json").read_text() != first
    assert evolved.cqrs("schema", "check", "parcels:cqrs")[0] == 0
    named = SECOND.replace('category="parcel"):', 'category="parcel", stored=(Noted,)):')
    evolved.become(named.replace("notes_apart, with_unit, ", ""))
    status, output = evolved.cqrs("schema", "check", "parcels:cqrs")
    assert (status, "1. 'ParcelPacked' version 1 may be stored, and nothing reads it" in output) == (1, True)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda source: source.replace("    unit: str\n", ""), "(unit: is missing)"),
        (
            lambda source: source.replace("grams: int\n    unit", "grams: float\n    unit"),
            "(grams: number where integer",
        ),
        (lambda source: source.replace(', topic="parcels"', ""), "(it is sent nowhere now)"),
    ],
)
def test_schema_evolution_has_a_check_that_fails_when_a_topic_s_consumers_would_break(
    programs: Programs, change: Callable[[str], str], told: str
) -> None:
    programs.become(SECOND)
    assert programs.cqrs("schema", "lock", "parcels:cqrs")[0] == 0
    programs.become(change(SECOND))
    status, output = programs.cqrs("schema", "check", "parcels:cqrs")
    assert status == 1
    assert f"consumers of the topic 'parcels' would break on 'parcel.packed' version 3 {told}" in output


def test_schema_evolution_has_a_command_that_upcasts_the_whole_stored_corpus(evolved: Programs) -> None:
    status, output = evolved.cqrs("schema", "verify", "parcels:cqrs")
    assert status == 0, output
    assert "'ParcelPacked' version 1: 2" in output
    assert "4 events can be read" in output
    evolved.become(SECOND.replace('data["kilos"]', 'data["pounds"]'))
    status, output = evolved.cqrs("schema", "verify", "parcels:cqrs")
    assert status == 1
    assert "position 1, version 1 of stream 'parcel-00000000-0000-0000-0000-000000000007'" in output
    assert "2 of 4 events cannot be read" in output
