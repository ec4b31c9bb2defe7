from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from warehouse import Names, Script, prepare, settings_of, warehouse_of

from cqrs_fastapi import CQRS
from cqrs_fastapi.brokers.connect import connect

PLACES = ["sqlite and memory", "postgresql and memory", "postgresql and kafka"]


@dataclass
class Place:
    database_url: str
    broker_url: str


@pytest.fixture(params=PLACES[:2])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """Where the services run. Kafka takes seconds to let somebody into a group, so the tests that need it ask for it:
    `@pytest.mark.parametrize("place", PLACES, indirect=True)`.
    """
    database, _, broker = str(request.param).split()
    database_url = request.getfixturevalue("sqlite_url" if database == "sqlite" else "postgres_url")
    if broker == "memory":
        return Place(database_url, "memory://")
    return Place(database_url, f"kafka://{request.getfixturevalue('real_kafka')}")


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
def names() -> Names:
    return Names()


@pytest.fixture
async def warehouse(place: Place, script: Script, names: Names) -> AsyncIterator[CQRS]:
    settings = settings_of(f"warehouse-{names.run}", place.database_url, place.broker_url)
    cqrs = warehouse_of(settings, script, names)
    await prepare(cqrs)
    async with cqrs.running(workers=("relay", "consumer")):
        yield cqrs


@pytest.fixture
async def shop(warehouse: CQRS, tmp_path: Path, names: Names) -> AsyncIterator[CQRS]:
    """Another service, with a database of its own and, but for memory, a connection of its own."""
    own = f"sqlite+aiosqlite:///{tmp_path / 'shop.db'}"
    settings = settings_of(f"shop-{names.run}", own, warehouse.settings.broker_url)
    broker = warehouse.broker if warehouse.broker.in_process else connect(settings.broker_url, settings)
    cqrs = CQRS(settings=settings, broker=broker)
    await prepare(cqrs)
    async with cqrs.running(workers=("relay",)):
        yield cqrs
