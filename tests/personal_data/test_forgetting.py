"""Forgetting a person: what goes, what stays, and what happens to those who were working with its data."""

import asyncio
from typing import Any
from uuid import UUID, uuid4

import pytest
from customers import (
    Copy,
    Customer,
    History,
    Look,
    Register,
    Registered,
    RegisterInSession,
    Rename,
    build,
    everything,
    opened,
    overview,
    prepare,
    rows_of,
)
from sqlalchemy import BigInteger, Column, MetaData, String, Table, Text, Uuid, insert, update
from sqlalchemy.ext.asyncio import AsyncSession

from cqrs_fastapi import CQRS, Repository, Settings, UnitOfWork
from cqrs_fastapi.errors import ConfigurationError
from cqrs_fastapi.personal_data import forgetting, subject_keys
from cqrs_fastapi.personal_data.forgetting import Forgotten, ReadModels
from cqrs_fastapi.personal_data.key_cache import KEPT
from cqrs_fastapi.personal_data.key_ring import SubjectForgottenError
from cqrs_fastapi.personal_data.subject_keys import ForgottenMeanwhileError, hold

pytestmark = pytest.mark.anyio

EMAIL = "ada.lovelace@example.org"

metadata = MetaData()
by_uuid = Table("by_uuid", metadata, Column("id", Uuid, primary_key=True), Column("name", Text))
by_number = Table("by_number", metadata, Column("id", BigInteger, primary_key=True))
of_tenants = Table("of_tenants", metadata, Column("who", String), Column("tenant", String), Column("name", Text))


async def register(cqrs: CQRS, email: str = EMAIL) -> UUID:
    customer = uuid4()
    await cqrs.mediator.send(Register(id=customer, email=email))
    return customer


async def key_of(cqrs: CQRS, subject: UUID) -> Any:
    (row,) = [one for one in await rows_of(cqrs, cqrs.database.tables.subject_keys) if one["subject"] == str(subject)]
    return row


async def run(cqrs: CQRS, statement: Any) -> None:
    await cqrs.database.write(lambda connection: connection.execute(statement).rowcount)


async def put_snapshot(cqrs: CQRS, stream: str, *key_ids: UUID) -> None:
    listed = ", ".join(f'"{key_id}"' for key_id in key_ids)
    row = {
        "stream": stream,
        "version": 1,
        "message_id": uuid4(),
        "fingerprint": "f",
        "state": b"sealed",
        "subjects": f"[{listed}]",
    }
    await run(cqrs, insert(cqrs.database.tables.snapshots).values(**row, taken_at=cqrs.engine.clock.now()))


async def test_the_report_says_what_went(database_url: str) -> None:
    async with opened(database_url) as cqrs:
        ada, byron = await register(cqrs), await register(cqrs)
        keys = [(await key_of(cqrs, one))["key_id"] for one in (ada, byron)]
        await put_snapshot(cqrs, "One", keys[0])
        await put_snapshot(cqrs, "Both", *keys)
        await put_snapshot(cqrs, "Other", keys[1])
        for who in (ada, ada, byron):
            await run(cqrs, insert(overview).values(customer=str(who), email="x"))
        before = cqrs.engine.clock.now()
        report = await cqrs.personal_data.forget(ada)
        assert (report.tenant, report.subject) == ("", str(ada))
        assert (report.snapshots, report.rows) == (2, {"overview": 2})
        assert before <= report.forgotten_at <= report.elsewhere_until - KEPT <= cqrs.engine.clock.now()
        assert [row["stream"] for row in await rows_of(cqrs, cqrs.database.tables.snapshots)] == ["Other"]
        assert [row["customer"] for row in await rows_of(cqrs, overview)] == [str(byron)]
        row = await key_of(cqrs, ada)
        assert (row["wrapped_key"], row["wrapped_by"]) == (None, None)
        assert (await key_of(cqrs, byron))["wrapped_key"] is not None


async def test_forgetting_again_tells_of_the_same_key_and_finds_what_was_left(database_url: str) -> None:
    async with opened(database_url) as cqrs:
        ada = await register(cqrs)
        first = await cqrs.personal_data.forget(ada)
        row = await key_of(cqrs, ada)
        await run(cqrs, insert(overview).values(customer=str(ada), email="written by somebody else"))
        again = await cqrs.personal_data.forget(ada)
        assert again.forgotten_at == first.forgotten_at
        assert (first.rows, again.rows) == ({"overview": 0}, {"overview": 1})
        assert await key_of(cqrs, ada) == row


async def test_rows_are_found_by_whatever_the_column_holds_and_by_their_tenant(database_url: str) -> None:
    cqrs = build(database_url)
    cqrs.personal_data.purge(by_uuid, subject=by_uuid.c.id)
    cqrs.personal_data.purge(by_number, subject=by_number.c.id)
    cqrs.personal_data.purge(of_tenants, subject=of_tenants.c.who, tenant=of_tenants.c.tenant)
    await prepare(cqrs)
    async with cqrs.database.engine.begin() as connection:
        await connection.run_sync(metadata.create_all)
    async with cqrs.running(workers=()):
        ada = uuid4()
        await run(cqrs, insert(by_uuid).values(id=ada))
        await run(cqrs, insert(by_number).values(id=7))
        for tenant in ("", "north"):
            await run(cqrs, insert(of_tenants).values(who="7", tenant=tenant))
        assert (await cqrs.personal_data.forget(ada)).rows == {
            "overview": 0,
            "by_uuid": 1,
            "by_number": 0,
            "of_tenants": 0,
        }
        assert (await cqrs.personal_data.forget(7, tenant="north")).rows["of_tenants"] == 1
        assert [row["tenant"] for row in await rows_of(cqrs, of_tenants)] == [""]
        assert await rows_of(cqrs, by_number) == []


def test_a_column_of_another_table_is_refused() -> None:
    models = ReadModels()
    with pytest.raises(TypeError, match="no column of by_uuid"):
        models.purge(by_uuid, subject=by_number.c.id)
    models.purge(by_uuid, subject=by_uuid.c.id)
    with pytest.raises(ValueError, match="already"):
        models.purge(by_uuid, subject=by_uuid.c.id)


async def test_where_nothing_is_encrypted_nobody_is_forgotten(sqlite_url: str) -> None:
    cqrs = CQRS(settings=Settings(database_url=sqlite_url))
    async with cqrs.running(workers=()):
        with pytest.raises(ConfigurationError, match="nothing is encrypted"):
            await cqrs.personal_data.forget("ada")


@pytest.mark.parametrize("step", ["destroy", "purge", "commit"])
async def test_a_forgetting_that_fails_changes_nothing_and_can_be_repeated(
    database_url: str, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(database_url) as cqrs:
        ada = await register(cqrs)
        await put_snapshot(cqrs, "One", (await key_of(cqrs, ada))["key_id"])
        await run(cqrs, insert(overview).values(customer=str(ada), email=EMAIL))
        before = await everything(cqrs)
        with monkeypatch.context() as patched:
            if step == "destroy":
                patched.setattr(forgetting, "destroy", fail_after(subject_keys.destroy))
            elif step == "purge":
                patched.setattr(forgetting.ReadModel, "purge", fail_after(forgetting.ReadModel.purge))
            else:
                patched.setattr("cqrs_fastapi.runtime.personal_data.forget", fail_after(forgetting.forget))
            with pytest.raises(RuntimeError, match="the process died"):
                await cqrs.personal_data.forget(ada)
        assert await everything(cqrs) == before
        assert await cqrs.mediator.send(Look(id=ada)) == (EMAIL, "", 44)
        report = await cqrs.personal_data.forget(ada)
        assert (report.snapshots, report.rows) == (1, {"overview": 1})
        assert await cqrs.mediator.send(Look(id=ada)) == ("(forgotten)", "", -1)


def fail_after(function: Any) -> Any:
    def failing(*arguments: Any, **named: Any) -> Any:
        function(*arguments, **named)
        raise RuntimeError("the process died")

    return failing


async def test_a_caller_who_leaves_does_not_stop_it(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(database_url) as cqrs:
        ada = await register(cqrs)
        begun, go_on = asyncio.Event(), asyncio.Event()
        write = cqrs.database.write

        async def slow(work: Any) -> Any:
            begun.set()
            await go_on.wait()
            return await write(work)

        monkeypatch.setattr(cqrs.database, "write", slow)
        forgetting_now = asyncio.ensure_future(cqrs.personal_data.forget(ada))
        await begun.wait()
        forgetting_now.cancel()
        await asyncio.wait({forgetting_now})
        go_on.set()
        await cqrs.engine.kernel.drain(10)
        assert await cqrs.mediator.send(Look(id=ada)) == ("(forgotten)", "", -1)


async def test_nothing_is_readable_here_once_it_is_reported_also_beside_readers(database_url: str) -> None:
    async with opened(database_url) as cqrs:
        ada = await register(cqrs)
        reported = False

        async def read() -> list[bool]:
            late: list[bool] = []
            for _ in range(40):
                began_after = reported
                email, _, _ = await cqrs.mediator.send(Look(id=ada))
                late.append(began_after and email == EMAIL)
            return late

        readers = [asyncio.ensure_future(read()) for _ in range(8)]
        await asyncio.sleep(0)
        await cqrs.personal_data.forget(ada)
        reported = True
        assert not any(any(found) for found in await asyncio.gather(*readers))


async def test_events_that_are_recorded_beside_a_forgetting_are_refused_or_unreadable(database_url: str) -> None:
    async with opened(database_url) as cqrs:
        ada = await register(cqrs)

        async def rename(number: int) -> None:
            await cqrs.mediator.send(Rename(id=ada, name=f"Planted {number}"))

        renames = [asyncio.ensure_future(rename(number)) for number in range(10)]
        await asyncio.wait(renames, return_when=asyncio.FIRST_COMPLETED)
        await cqrs.personal_data.forget(ada)
        answers = await asyncio.gather(*renames, return_exceptions=True)
        assert all(isinstance(answer, SubjectForgottenError) for answer in answers if answer is not None)
        assert "Planted" not in await everything(cqrs)
        events = await cqrs.mediator.send(History(stream=f"Customer-{ada}"))
        assert len(events) == 1 + answers.count(None)
        assert {getattr(one, "email", None) or one.name for one in events} == {"(forgotten)"}


class Door:
    """Stops who comes to it until it is opened."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self.open = asyncio.Event()
        self.passed: list[str] = []

    async def __call__(self, what: str) -> None:
        self.passed.append(what)
        self.reached.set()
        await self.open.wait()


class SlowCopy(Copy):
    """As Copy, with a door between what it reads and what it writes."""


def with_door(url: str, door: Door) -> CQRS:
    cqrs = build(url, projects=False)

    @cqrs.handles(SlowCopy)
    async def slow_copy(command: SlowCopy, customers: Repository[Customer], unit: UnitOfWork) -> None:
        customer = await customers.get(command.id)
        await door(customer.email)
        row = {"customer": str(command.id), "email": customer.email}
        unit.join(lambda connection: connection.execute(insert(overview).values(**row)))

    @cqrs.on(Registered, name="slow-projection")
    async def project(event: Registered, session: AsyncSession) -> None:
        await door(event.email)
        await session.execute(insert(overview).values(customer=str(event.customer_id), email=event.email))

    return cqrs


async def test_a_command_that_copies_what_it_read_before_a_forgetting_decides_again(database_url: str) -> None:
    door = Door()
    cqrs = with_door(database_url, door)
    await prepare(cqrs)
    async with cqrs.running(workers=()):
        ada = await register(cqrs)
        copying = asyncio.ensure_future(cqrs.mediator.send(SlowCopy(id=ada)))
        await door.reached.wait()
        await cqrs.personal_data.forget(ada)
        door.open.set()
        await copying
        assert door.passed == [EMAIL, "(forgotten)"]
        assert [row["email"] for row in await rows_of(cqrs, overview)] == ["(forgotten)"]


async def test_a_projection_that_got_an_event_before_a_forgetting_gets_it_again(database_url: str) -> None:
    door = Door()
    cqrs = with_door(database_url, door)
    await prepare(cqrs)
    async with cqrs.running(workers=("consumer",)):
        ada = await register(cqrs)
        await door.reached.wait()
        await cqrs.personal_data.forget(ada)
        door.open.set()
        while not await rows_of(cqrs, overview):
            await asyncio.sleep(0.02)
        assert door.passed == [EMAIL, "(forgotten)"]
        assert [row["email"] for row in await rows_of(cqrs, overview)] == ["(forgotten)"]


async def test_a_process_that_keeps_a_destroyed_key_writes_nothing_that_rests_on_it(database_url: str) -> None:
    elsewhere = build(database_url)
    async with opened(database_url) as cqrs, elsewhere.running(workers=()):
        ada = await register(cqrs)
        assert await elsewhere.mediator.send(Look(id=ada)) == (EMAIL, "", 44)
        await cqrs.personal_data.forget(ada)
        assert await elsewhere.mediator.send(Look(id=ada)) == (EMAIL, "", 44)  # as the report says
        await elsewhere.mediator.send(Copy(id=ada))
        assert [row["email"] for row in await rows_of(cqrs, overview)] == ["(forgotten)"]
        assert await elsewhere.mediator.send(Look(id=ada)) == ("(forgotten)", "", -1)
        with pytest.raises(SubjectForgottenError):
            await elsewhere.mediator.send(RegisterInSession(id=ada, email=EMAIL))
        assert EMAIL not in await everything(cqrs)


async def test_a_process_that_keeps_a_destroyed_key_records_what_nobody_can_read(database_url: str) -> None:
    elsewhere = build(database_url)
    async with opened(database_url) as cqrs, elsewhere.running(workers=()):
        ada = await register(cqrs)
        await elsewhere.mediator.send(Look(id=ada))
        await cqrs.personal_data.forget(ada)
        await elsewhere.mediator.send(Rename(id=ada, name="Planted"))
        assert await cqrs.mediator.send(Look(id=ada)) == ("(forgotten)", "(forgotten)", -1)
        assert "Planted" not in await everything(cqrs)


async def test_whoever_forgets_waits_for_those_who_hold_the_key_and_finds_their_rows(database_url: str) -> None:
    async with opened(database_url) as cqrs:
        ada = await register(cqrs)
        key_id, tables = (await key_of(cqrs, ada))["key_id"], cqrs.database.tables
        async with cqrs.database.session() as session:
            await cqrs.database.run(session, lambda connection: hold(connection, tables, [key_id]))
            forgetting_now = asyncio.ensure_future(cqrs.personal_data.forget(ada))
            await asyncio.wait({forgetting_now}, timeout=0.2)
            assert not forgetting_now.done()
            await session.execute(insert(overview).values(customer=str(ada), email=EMAIL))
            await session.commit()
        report: Forgotten = await forgetting_now
        assert report.rows == {"overview": 1}
        assert EMAIL not in await everything(cqrs)


async def test_a_subject_that_is_being_forgotten_counts_as_forgotten_instead_of_being_waited_for(
    postgres_url: str,
) -> None:
    async with opened(postgres_url) as cqrs:
        ada = await register(cqrs)
        key_id, keys = (await key_of(cqrs, ada))["key_id"], cqrs.database.tables.subject_keys
        async with cqrs.database.session() as forgets, cqrs.database.session() as writes:
            await forgets.execute(update(keys).where(keys.c.key_id == key_id).values(wrapped_key=None))
            with pytest.raises(ForgottenMeanwhileError) as raised:
                await cqrs.database.run(writes, lambda connection: hold(connection, cqrs.database.tables, [key_id]))
            assert raised.value.key_ids == {key_id}


async def test_several_hold_a_key_at_once(postgres_url: str) -> None:
    async with opened(postgres_url) as cqrs:
        ada = await register(cqrs)
        key_id, tables = (await key_of(cqrs, ada))["key_id"], cqrs.database.tables
        async with cqrs.database.session() as one, cqrs.database.session() as other:
            for session in (one, other):
                await cqrs.database.run(session, lambda connection: hold(connection, tables, [key_id]))
