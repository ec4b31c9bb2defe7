"""Snapshots of aggregates whose events are about people."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID, uuid4

import pytest
from customers import rows_of
from members import Count, Read, Write, build, everything, opened
from sqlalchemy import update

from cqrs_fastapi import CQRS

pytestmark = pytest.mark.anyio

CLUB, ADA, BYRON = uuid4(), uuid4(), uuid4()


async def write(cqrs: CQRS, member: UUID, words: str) -> None:
    await cqrs.mediator.send(Write(club=CLUB, member=member, words=words))
    await settled(cqrs)


async def settled(cqrs: CQRS) -> None:
    while cqrs.engine._snapshots._writes:
        await asyncio.wait(set(cqrs.engine._snapshots._writes))


async def read(cqrs: CQRS) -> Any:
    return await cqrs.mediator.send(Read(club=CLUB))


async def snapshot(cqrs: CQRS) -> Any:
    """The one that there is, or None."""
    found = await rows_of(cqrs, cqrs.database.tables.snapshots)
    return found[0] if found else None


async def keys_of(cqrs: CQRS, *members: UUID) -> str:
    rows = await rows_of(cqrs, cqrs.database.tables.subject_keys)
    ids = sorted(row["key_id"] for row in rows if row["subject"] in {str(one) for one in members})
    return "[" + ",".join(f'"{one}"' for one in ids) + "]"


async def forget_stored_events(cqrs: CQRS) -> None:
    """What is behind a snapshot can no longer be read, so that only the snapshot can tell of it."""
    events = cqrs.database.tables.events
    broken = update(events).where(events.c.version <= 2).values(data="{}")
    await cqrs.database.write(lambda connection: connection.execute(broken).rowcount)


async def test_a_snapshot_is_sealed_with_the_keys_of_all_whose_events_it_holds(database_url: str) -> None:
    async with opened(database_url) as cqrs:
        await write(cqrs, ADA, "by Ada")
        await write(cqrs, BYRON, "by Byron")
        kept = await snapshot(cqrs)
        assert (kept["version"], kept["subjects"]) == (2, await keys_of(cqrs, ADA, BYRON))
        assert kept["state"].startswith(b"cqrs:sealed:1:")
        assert "by Ada" not in await everything(cqrs)
        await forget_stored_events(cqrs)
        assert await read(cqrs) == (["by Ada", "by Byron"], 0)


async def test_a_snapshot_behind_a_snapshot_is_sealed_with_the_keys_of_the_first_too(database_url: str) -> None:
    async with opened(database_url) as cqrs:
        await write(cqrs, ADA, "by Ada")
        await write(cqrs, BYRON, "by Byron")
        for _ in range(2):
            await cqrs.mediator.send(Count(club=CLUB))
            await settled(cqrs)
        kept = await snapshot(cqrs)
        assert (kept["version"], kept["subjects"]) == (4, await keys_of(cqrs, ADA, BYRON))
        assert "by Ada" not in await everything(cqrs)
        assert await read(cqrs) == (["by Ada", "by Byron"], 2)


async def test_a_snapshot_of_what_is_about_nobody_is_json(database_url: str) -> None:
    async with opened(database_url) as cqrs:
        for _ in range(2):
            await cqrs.mediator.send(Count(club=CLUB))
            await settled(cqrs)
        kept = await snapshot(cqrs)
        assert (kept["state"], kept["subjects"]) == (b'{"total":2,"words":[]}', "[]")
        assert await read(cqrs) == ([], 2)


async def test_after_one_is_forgotten_snapshots_are_sealed_with_the_keys_of_the_living(database_url: str) -> None:
    async with opened(database_url) as cqrs:
        await write(cqrs, ADA, "by Ada")
        await write(cqrs, BYRON, "by Byron")
        assert (await cqrs.personal_data.forget(ADA)).snapshots == 1
        assert await snapshot(cqrs) is None
        assert await read(cqrs) == (["(forgotten)", "by Byron"], 0)
        await cqrs.mediator.send(Count(club=CLUB))
        await settled(cqrs)
        kept = await snapshot(cqrs)
        assert (kept["version"], kept["subjects"]) == (3, await keys_of(cqrs, BYRON))
        assert await read(cqrs) == (["(forgotten)", "by Byron"], 1)
        await cqrs.personal_data.forget(BYRON)
        await cqrs.mediator.send(Count(club=CLUB))
        await settled(cqrs)
        kept = await snapshot(cqrs)
        assert (kept["version"], kept["subjects"]) == (4, "[]")
        assert kept["state"] == b'{"total":2,"words":["(forgotten)","(forgotten)"]}'


@pytest.mark.parametrize("where", ["here", "in another process"])
async def test_what_was_loaded_before_a_forgetting_is_in_no_snapshot_after_it(database_url: str, where: str) -> None:
    async with opened(database_url) as cqrs:
        await write(cqrs, ADA, "by Ada")
        async with build(database_url).running(workers=()) as other:
            forgets = cqrs if where == "here" else other

            async def forget() -> None:
                await forgets.personal_data.forget(ADA)

            await cqrs.mediator.send(Count(club=CLUB, meanwhile=forget))
            await settled(cqrs)
        assert await snapshot(cqrs) is None
        assert await read(cqrs) == (["(forgotten)"], 1)
        await cqrs.mediator.send(Count(club=CLUB))
        await settled(cqrs)
        assert (await snapshot(cqrs))["subjects"] == "[]"


async def test_a_snapshot_that_cannot_be_opened_is_ignored_and_replaced(database_url: str) -> None:
    async with opened(database_url) as cqrs:
        snapshots = cqrs.database.tables.snapshots
        await write(cqrs, ADA, "by Ada")
        await write(cqrs, BYRON, "by Byron")
        good = await snapshot(cqrs)
        for broken in (
            {"subjects": await keys_of(cqrs, ADA)},
            {"subjects": f'["{uuid4()}"]'},
            {"subjects": "[1]"},
            {"subjects": "[]"},
            {"state": b'{"words":["planted"]}'},
            {"state": good["state"][:-1] + b"x"},
        ):
            values = {"state": good["state"], "subjects": good["subjects"], **broken}
            statement = update(snapshots).values(**values)
            await cqrs.database.write(lambda connection, one=statement: connection.execute(one).rowcount)
            assert await read(cqrs) == (["by Ada", "by Byron"], 0)
        await cqrs.mediator.send(Count(club=CLUB))
        await settled(cqrs)
        assert (await snapshot(cqrs))["version"] == 3


async def test_a_snapshot_of_another_stream_cannot_be_opened(database_url: str) -> None:
    async with opened(database_url) as cqrs:
        other = uuid4()
        await write(cqrs, ADA, "one")
        await write(cqrs, ADA, "two")
        good = await snapshot(cqrs)
        for words in ("three", "four"):
            await cqrs.mediator.send(Write(club=other, member=ADA, words=words))
            await settled(cqrs)
        snapshots = cqrs.database.tables.snapshots
        moved = update(snapshots).where(snapshots.c.stream == f"Club-{other}").values(state=good["state"])
        await cqrs.database.write(lambda connection: connection.execute(moved).rowcount)
        assert await cqrs.mediator.send(Read(club=other)) == (["three", "four"], 0)
