"""Requests to another service and their replies, over each broker and each database."""

import pytest
from warehouse import Names, Reserve, Stock, done

from cqrs_fastapi import CQRS

pytestmark = pytest.mark.anyio


async def test_a_command_is_carried_out_and_answered(shop: CQRS, warehouse: CQRS, names: Names) -> None:
    answered = await shop.broker_client.send(Reserve(item="chair"), topic=names("Reserve"), timeout=20)

    assert answered == 1
    assert await done(warehouse) == ["chair"]


async def test_a_query_is_answered(shop: CQRS, warehouse: CQRS, names: Names) -> None:
    await shop.broker_client.send(Reserve(item="chair"), topic=names("Reserve"), timeout=20)

    assert await shop.broker_client.send(Stock(item="chair"), topic=names("Stock"), timeout=20) == ["chair"]
