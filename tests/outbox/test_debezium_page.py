"""The connector of the how-to reads columns that the outbox has, and headers that a consumer reads."""

from __future__ import annotations

import json
import re
from pathlib import Path

from sqlalchemy import MetaData, Table

from cqrs_fastapi.messages.headers import OURS, PACKED
from cqrs_fastapi.storage.tables import build_tables

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "debezium.md"
ROUTER = "transforms.outbox."


def config() -> dict[str, str]:
    found = re.search(r"```json\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert found is not None
    values: dict[str, str] = json.loads(found[1])["config"]
    return values


def outbox() -> Table:
    return build_tables(MetaData()).outbox


def test_every_column_that_the_connector_names_is_there() -> None:
    columns = {column.name for column in outbox().columns}
    named = [
        config()[f"{ROUTER}{name}"] for name in ("route.by.field", "table.field.event.id", "table.field.event.key")
    ]
    placed = config()[f"{ROUTER}table.fields.additional.placement"].split(",")
    assert columns.issuperset([*named, *(one.split(":")[0] for one in placed)])
    assert config()["table.include.list"] == f"public.{outbox().name}"


def test_every_header_that_the_connector_makes_is_one_that_consumers_read() -> None:
    placed = config()[f"{ROUTER}table.fields.additional.placement"].split(",")
    assert {one.split(":")[2] for one in placed} <= OURS | {PACKED}


def test_the_columns_that_the_router_reads_by_default_are_there() -> None:
    assert {"id", "aggregatetype", "aggregateid", "type", "payload"} <= {column.name for column in outbox().columns}
