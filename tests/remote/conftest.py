from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from warehouse import Names, Script, prepare, settings_of, warehouse_of

from cqrs_fastapi import CQRS
from cqrs_fastapi.brokers.connect import connect


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
def names() -> Names:
    return Names()


@pytest.fixture
async def warehouse(database_url: str, broker_url: str, script: Script, names: Names) -> AsyncIterator[CQRS]:
    settings = settings_of(f"warehouse-{names.run}", database_url, broker_url)
    cqrs = warehouse_of(settings, script, names)
    await prepare(cqrs)
    async with cqrs.running(workers=("relay", "consumer")):
        yield cqrs


@pytest.fixture
async def shop(warehouse: CQRS, tmp_path: Path, names: Names) -> AsyncIterator[CQRS]:
    """Another service, with a database of its own and, but for memory, a connection of its own."""
    settings = settings_of(
        f"shop-{names.run}", f"sqlite+aiosqlite:///{tmp_path / 'shop.db'}", warehouse.settings.broker_url
    )
    broker = warehouse.broker if warehouse.broker.in_process else connect(settings.broker_url, settings)
    cqrs = CQRS(settings=settings, broker=broker)
    await prepare(cqrs)
    async with cqrs.running(workers=("relay",)):
        yield cqrs
