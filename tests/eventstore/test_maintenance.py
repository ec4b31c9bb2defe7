"""The life of a stream after its events: archived, truncated, deleted; on both databases."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import anyio
import pytest
from event_stores import NOW, Access, all_of
from sent_statements import sent_statements
from sqlalchemy import func, insert, select, update

from cqrs_fastapi import (
    CQRS,
    Aggregate,
    Command,
    ConcurrencyError,
    Event,
    EventStore,
    Metadata,
    NotFoundError,
    Query,
    Repository,
    Settings,
    applies,
)
from cqrs_fastapi.domain import repository
from cqrs_fastapi.errors import (
    HistoryChangedError,
    NotRunningError,
    StreamClosedError,
    StreamDeletedError,
    StreamTruncatedError,
    UnknownMessageError,
)
from cqrs_fastapi.eventstore import checkpoints, maintenance
from cqrs_fastapi.eventstore.horizon import read_horizon
from cqrs_fastapi.eventstore.maintenance import ReadersBehindError
from cqrs_fastapi.eventstore.read import PAGE
from cqrs_fastapi.eventstore.records import RecordedEvent
from cqrs_fastapi.messages.metadata import Origin, enter, leave
from cqrs_fastapi.migrations import upgrade

pytestmark = pytest.mark.anyio


class Deposited(Event):
    amount: int


class Summarised(Event, topic="summaries"):
    balance: int


class Forgotten(Event):
    """Nobody registers it."""


class Account(Aggregate, category="account"):
    balance: int = 0

    @applies
    def on_deposited(self, event: Deposited) -> None:
        self.balance += event.amount

    @applies
    def on_summarised(self, event: Summarised) -> None:
        self.balance = event.balance


class Deposit(Command[int]):
    account: UUID
    amounts: tuple[int, ...]


class OpenAnew(Command[None]):
    account: UUID


class GetBalance(Query[tuple[int, int]]):
    account: UUID


def build(url: str) -> CQRS:
    cqrs = CQRS(settings=Settings(database_url=url))

    @cqrs.handles(Deposit)
    async def deposit(command: Deposit, accounts: Repository[Account]) -> int:
        account = await accounts.get_or_new(command.account)
        for amount in command.amounts:
            account.record(Deposited(amount=amount))
        return account.balance

    @cqrs.handles(OpenAnew)
    async def open_anew(command: OpenAnew, accounts: Repository[Account]) -> None:
        account = Account(command.account)
        account.record(Deposited(amount=1))
        accounts.add(account)

    @cqrs.handles(GetBalance)
    async def get_balance(query: GetBalance, accounts: Repository[Account]) -> tuple[int, int]:
        account = await accounts.get(query.account)
        return account.balance, account.version

    return cqrs


@pytest.fixture
async def cqrs(database_url: str) -> AsyncIterator[CQRS]:
    cqrs = build(database_url)
    if database_url.startswith("postgresql"):
        async with cqrs.database.engine.begin() as connection:
            await connection.run_sync(upgrade)
    async with cqrs.running(workers=()):
        yield cqrs


@pytest.fixture
async def account(cqrs: CQRS) -> UUID:
    """With three events, and a balance of 6."""
    account = uuid4()
    await cqrs.mediator.send(Deposit(account=account, amounts=(1, 2, 3)))
    return account


def stream_of(account: UUID) -> str:
    return f"account-{account}"


def store(cqrs: CQRS, tenant: str = "") -> EventStore:
    return EventStore(Access(cqrs.database, tenant), cqrs.database.tables, cqrs.engine.registry)


async def events_of(reading: AsyncIterator[RecordedEvent]) -> list[tuple[int, Event]]:
    return [(one.version, one.event) async for one in reading]


async def count(cqrs: CQRS, name: str) -> int:
    table = getattr(cqrs.database.tables, name)
    return await cqrs.database.read(lambda c: c.execute(select(func.count()).select_from(table)).scalar_one())


@contextmanager
def on_behalf_of(cqrs: CQRS, tenant: str) -> Iterator[None]:
    metadata = Metadata(message_id=uuid4(), correlation_id="c", time=cqrs.engine.clock.now(), tenant=tenant)
    token = enter(Origin(metadata))
    try:
        yield
    finally:
        leave(token)


async def add_reader(cqrs: CQRS, name: str, *, position: int | None = None) -> checkpoints.Checkpoint:
    """A reader of the store that has had everything, or stands at `position`."""
    tables, now = cqrs.database.tables, cqrs.engine.clock.now()

    def start(connection: Any) -> checkpoints.Checkpoint:
        horizon = read_horizon(connection, tables)
        checkpoints.start(connection, tables, name, horizon, from_start=False, now=now)
        if position is not None:
            known_by = checkpoints.last_event(connection, tables, position)
            connection.execute(update(tables.checkpoints).values(position=position, message_id=known_by))
        found = checkpoints.read_checkpoint(connection, tables, name)
        assert found is not None
        return found

    return await cqrs.database.write(start)


async def verify_reader(cqrs: CQRS, name: str) -> checkpoints.Checkpoint:
    """As a reader does when it begins anew."""
    tables = cqrs.database.tables

    def verify(connection: Any) -> checkpoints.Checkpoint:
        found = checkpoints.read_checkpoint(connection, tables, name)
        assert found is not None
        checkpoints.verify(connection, tables, found, read_horizon(connection, tables))
        return found

    return await cqrs.database.read(verify)


async def test_an_archived_stream_is_left_out_of_all_and_still_readable(cqrs: CQRS, account: UUID) -> None:
    other = uuid4()
    await cqrs.mediator.send(Deposit(account=other, amounts=(9,)))

    await cqrs.streams.archive(stream_of(account))

    assert [one.stream for one in await all_of(store(cqrs).read_all())] == [stream_of(other)]
    assert len(await all_of(store(cqrs).read_all(archived=True))) == 4
    assert len(await events_of(store(cqrs).read(stream_of(account)))) == 3
    assert await cqrs.mediator.send(GetBalance(account=account)) == (6, 3)


async def test_an_archived_stream_takes_events_again_when_it_is_restored(cqrs: CQRS, account: UUID) -> None:
    for _ in range(2):  # the second time changes nothing
        await cqrs.streams.archive(stream_of(account))
    with pytest.raises(StreamClosedError):
        await cqrs.mediator.send(Deposit(account=account, amounts=(4,)))

    for _ in range(2):
        await cqrs.streams.restore(stream_of(account))

    assert await cqrs.mediator.send(Deposit(account=account, amounts=(4,))) == 10
    assert len(await all_of(store(cqrs).read_all())) == 4


async def test_a_deleted_stream_is_an_error_for_everybody_who_names_it(cqrs: CQRS, account: UUID) -> None:
    await cqrs.streams.delete(stream_of(account))

    for reading in (
        store(cqrs).read(stream_of(account)),
        store(cqrs).read(stream_of(account), backwards=True, limit=1),
        store(cqrs).read(stream_of(account), after=2),
    ):
        with pytest.raises(StreamDeletedError, match=f"'{stream_of(account)}' was deleted at 20"):
            await all_of(reading)
    for message in (GetBalance(account=account), Deposit(account=account, amounts=(1,))):
        with pytest.raises(StreamDeletedError):
            await cqrs.mediator.send(message)
    with pytest.raises(StreamClosedError):
        await cqrs.mediator.send(OpenAnew(account=account))
    for maintain in (cqrs.streams.delete, cqrs.streams.archive, cqrs.streams.restore):
        with pytest.raises(StreamDeletedError):
            await maintain(stream_of(account))


async def test_nothing_but_the_tombstone_is_left_of_a_deleted_stream(cqrs: CQRS, account: UUID) -> None:
    tables = cqrs.database.tables
    [first, *_] = await all_of(store(cqrs).read_all())
    row = {"tenant": "", "tag": "red", "position": first.position}
    await cqrs.database.write(lambda c: c.execute(insert(tables.event_tags), row).rowcount)

    await cqrs.streams.delete(stream_of(account))

    assert await all_of(store(cqrs).read_all(archived=True)) == []
    assert (await count(cqrs, "events"), await count(cqrs, "event_tags"), await count(cqrs, "streams")) == (0, 0, 1)


async def test_a_truncated_stream_begins_with_its_summary_and_its_versions_go_on(cqrs: CQRS, account: UUID) -> None:
    await cqrs.streams.truncate(stream_of(account), Summarised(balance=6), expected_version=3)

    assert await cqrs.mediator.send(GetBalance(account=account)) == (6, 4)
    assert await cqrs.mediator.send(Deposit(account=account, amounts=(4,))) == 10
    left = [(4, Summarised(balance=6)), (5, Deposited(amount=4))]
    assert await events_of(store(cqrs).read(stream_of(account))) == left
    assert await events_of(store(cqrs).read(stream_of(account), backwards=True)) == left[::-1]
    assert await events_of(store(cqrs).read(stream_of(account), after=3)) == left
    assert await events_of(store(cqrs).read(stream_of(account), after=4, backwards=True)) == left[1:]
    assert await events_of(store(cqrs).read_all()) == left


async def test_a_stream_is_truncated_again_and_again(cqrs: CQRS, account: UUID) -> None:
    await cqrs.streams.truncate(stream_of(account), Summarised(balance=6), expected_version=3)
    await cqrs.streams.truncate(stream_of(account), Summarised(balance=6), expected_version=4)
    await cqrs.mediator.send(Deposit(account=account, amounts=(1,)))
    await cqrs.streams.truncate(stream_of(account), Summarised(balance=7), expected_version=6)

    assert await cqrs.mediator.send(GetBalance(account=account)) == (7, 7)
    assert await count(cqrs, "events") == 1


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize(
    ("wanted", "names"),
    [
        ({"after": 1}, "version 2 of stream"),
        ({"after": 2}, "version 3 of stream"),
        ({"until": 3}, "version 3 of stream"),
        ({"until": 1}, "version 1 of stream"),
        ({"after": 1, "until": 9}, "version 2 of stream"),
    ],
)
async def test_who_asks_for_versions_that_are_gone_is_told(
    cqrs: CQRS, account: UUID, wanted: dict[str, int], names: str, backwards: bool
) -> None:
    await cqrs.streams.truncate(stream_of(account), Summarised(balance=6), expected_version=3)

    with pytest.raises(StreamTruncatedError, match=names) as gone:
        await all_of(store(cqrs).read(stream_of(account), backwards=backwards, **wanted))
    assert gone.value.first_version == 4


async def test_who_asks_for_a_time_that_is_gone_is_told(cqrs: CQRS, account: UUID) -> None:
    await cqrs.streams.truncate(stream_of(account), Summarised(balance=6), expected_version=3)
    [summary] = await all_of(store(cqrs).read(stream_of(account)))
    just_after = summary.recorded_at + timedelta(microseconds=1)
    stream = stream_of(account)

    with pytest.raises(StreamTruncatedError, match="recorded before"):
        await all_of(store(cqrs).read(stream, before=summary.recorded_at))
    assert await all_of(store(cqrs).read(stream, before=just_after)) == [summary]
    assert await all_of(store(cqrs).read(stream, since=just_after, before=just_after + timedelta(hours=1))) == []
    assert await all_of(store(cqrs).read(stream, since=summary.recorded_at - timedelta(hours=1))) == [summary]


async def test_a_summary_of_less_than_the_stream_is_refused(cqrs: CQRS, account: UUID) -> None:
    for version in (2, 4):
        with pytest.raises(ConcurrencyError) as conflict:
            await cqrs.streams.truncate(stream_of(account), Summarised(balance=3), expected_version=version)
        assert (conflict.value.actual, conflict.value.retryable) == (3, False)
    with pytest.raises(ValueError, match="expected_version"):
        await cqrs.streams.truncate(stream_of(account), Summarised(balance=0), expected_version=0)

    assert await cqrs.mediator.send(GetBalance(account=account)) == (6, 3)
    assert await count(cqrs, "events") == 3


async def test_a_summary_that_cannot_be_stored_takes_nothing_away(cqrs: CQRS, account: UUID) -> None:
    with pytest.raises(UnknownMessageError):
        await cqrs.streams.truncate(stream_of(account), Forgotten(), expected_version=3)

    def fail(*arguments: object) -> None:
        raise LookupError("the append fails, after the events were deleted")

    unit_of_work = "cqrs_fastapi.unit_of_work.writing.append"
    with pytest.MonkeyPatch.context() as patch, pytest.raises(LookupError):
        patch.setattr(unit_of_work, fail)
        await cqrs.streams.truncate(stream_of(account), Summarised(balance=6), expected_version=3)

    assert await cqrs.mediator.send(GetBalance(account=account)) == (6, 3)
    assert await count(cqrs, "events") == 3


async def test_of_a_summary_and_a_racing_append_one_wins(cqrs: CQRS) -> None:
    for _ in range(5):
        account, won = uuid4(), []
        await cqrs.mediator.send(Deposit(account=account, amounts=(1, 2, 3)))

        async def truncate(account: UUID, won: list[str]) -> None:
            try:
                await cqrs.streams.truncate(stream_of(account), Summarised(balance=6), expected_version=3)
                won.append("summary")
            except ConcurrencyError:
                return

        async with anyio.create_task_group() as group:
            group.start_soon(truncate, account, won)
            group.start_soon(cqrs.mediator.send, Deposit(account=account, amounts=(4,)))

        # A command decides again, on the summary; a summary that came too late stands for too little.
        assert await cqrs.mediator.send(GetBalance(account=account)) == (10, 5 if won else 4)


async def test_a_summary_is_an_event_like_any_other(cqrs: CQRS, account: UUID) -> None:
    with on_behalf_of(cqrs, "red"):
        await cqrs.mediator.send(Deposit(account=account, amounts=(1,)))

    with pytest.raises(NotFoundError):
        await cqrs.streams.truncate(f"account-{uuid4()}", Summarised(balance=1), expected_version=1)
    await cqrs.streams.truncate(stream_of(account), Summarised(balance=1), expected_version=1, tenant="red")

    outbox = cqrs.database.tables.outbox
    query = select(outbox.c.topic, outbox.c.key, outbox.c.tenant)
    [row] = await cqrs.database.read(lambda c: c.execute(query).all())
    assert (row.topic, row.key, row.tenant) == ("summaries", stream_of(account), "red")


@pytest.mark.parametrize("name", ["archive", "delete", "truncate"])
async def test_what_a_reader_has_not_had_is_not_taken_from_it(cqrs: CQRS, account: UUID, name: str) -> None:
    last = (await all_of(store(cqrs).read_all()))[-1].position
    await add_reader(cqrs, "Overview.v1", position=last - 1)

    def change() -> Any:
        if name == "truncate":
            return cqrs.streams.truncate(stream_of(account), Summarised(balance=6), expected_version=3)
        return getattr(cqrs.streams, name)(stream_of(account))

    with pytest.raises(ReadersBehindError, match=f"Overview.v1 at {last - 1}") as behind:
        await change()
    assert (behind.value.position, behind.value.readers) == (last, (f"Overview.v1 at {last - 1}",))
    assert len(await all_of(store(cqrs).read_all())) == 3

    positions = update(cqrs.database.tables.checkpoints).values(position=last)
    await cqrs.database.write(lambda c: c.execute(positions).rowcount)
    await change()
    assert len(await all_of(store(cqrs).read_all())) == (1 if name == "truncate" else 0)


async def test_positions_of_another_table_hold_nothing_up(cqrs: CQRS, account: UUID) -> None:
    now = cqrs.engine.clock.now()
    row = {"projection": "Overview.v1", "partition": "a-topic/0", "position": 1, "updated_at": now}
    await cqrs.database.write(lambda c: c.execute(insert(cqrs.database.tables.checkpoints), row).rowcount)

    await cqrs.streams.delete(stream_of(account))


@pytest.mark.parametrize("name", ["delete", "truncate"])
async def test_a_reader_that_stood_on_an_event_that_is_gone_goes_on(cqrs: CQRS, account: UUID, name: str) -> None:
    first = await add_reader(cqrs, "started-before")
    other = uuid4()
    await cqrs.mediator.send(Deposit(account=other, amounts=(1,)))
    await cqrs.mediator.send(Deposit(account=account, amounts=(1,)))
    stood = await add_reader(cqrs, "Overview.v1")
    await cqrs.database.write(
        lambda c: checkpoints.advance(c, cqrs.database.tables, first, replace(stood, name=first.name), now=NOW)
    )

    if name == "delete":
        await cqrs.streams.delete(stream_of(account))
    else:
        await cqrs.streams.truncate(stream_of(account), Summarised(balance=7), expected_version=4)

    for reader in ("Overview.v1", "started-before"):
        found = await verify_reader(cqrs, reader)
        assert found.position == stood.position
        assert found.message_id == (await all_of(store(cqrs).read(stream_of(other))))[0].message_id


async def test_a_history_that_was_changed_otherwise_is_still_noticed(cqrs: CQRS, account: UUID) -> None:
    await add_reader(cqrs, "Overview.v1")
    events = cqrs.database.tables.events
    await cqrs.database.write(lambda c: c.execute(events.delete().where(events.c.version == 3)).rowcount)

    with pytest.raises(HistoryChangedError):
        await verify_reader(cqrs, "Overview.v1")


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("name", ["delete", "truncate"])
async def test_a_reading_that_is_overtaken_by_the_end_of_the_stream_is_told(
    cqrs: CQRS, name: str, backwards: bool
) -> None:
    account, seen = uuid4(), 0
    await cqrs.mediator.send(Deposit(account=account, amounts=(1,) * (2 * PAGE + 5)))

    async def read() -> None:
        nonlocal seen
        async for _ in store(cqrs).read(stream_of(account), backwards=backwards):
            seen += 1
            if seen == 1 and name == "delete":
                await cqrs.streams.delete(stream_of(account))
            elif seen == 1:
                summary = Summarised(balance=2 * PAGE + 5)
                await cqrs.streams.truncate(stream_of(account), summary, expected_version=2 * PAGE + 5)

    with pytest.raises(StreamDeletedError if name == "delete" else StreamTruncatedError):
        await read()
    assert seen == PAGE


async def test_reading_a_truncated_stream_backwards_ends_at_its_summary_wherever_pages_end(cqrs: CQRS) -> None:
    account = uuid4()
    await cqrs.mediator.send(Deposit(account=account, amounts=(1, 1, 1)))
    await cqrs.streams.truncate(stream_of(account), Summarised(balance=3), expected_version=3)
    for number in (PAGE - 1, 1, PAGE - 1):  # with the summary: a page, one more than that, two pages
        await cqrs.mediator.send(Deposit(account=account, amounts=(1,) * number))
        found = await events_of(store(cqrs).read(stream_of(account), backwards=True))
        assert found[-1] == (4, Summarised(balance=3))
        assert len(found) == found[0][0] - 3


async def test_an_aggregate_whose_stream_is_truncated_while_it_is_loaded_is_whole(
    cqrs: CQRS, monkeypatch: pytest.MonkeyPatch
) -> None:
    account, reads = uuid4(), 0
    await cqrs.mediator.send(Deposit(account=account, amounts=(1,) * 10))
    real = repository.read_history

    def between_two_reads(*arguments: Any, **named: Any) -> Any:
        nonlocal reads
        reads += 1
        return real(*arguments, **named)

    class Unit(Access):
        async def read_few(self, work: Callable[[Any], Any], /) -> Any:
            found = await self.read(work)
            if reads == 1:
                await cqrs.streams.truncate(stream_of(account), Summarised(balance=10), expected_version=10)
            return found

        def tracked(self, stream: str, /) -> None:
            return None

        def track(self, aggregate: Aggregate, /) -> None:
            return None

    monkeypatch.setattr(repository, "read_history", between_two_reads)
    monkeypatch.setattr(repository, "FEW", 4)
    accounts = repository.Repository(Account, Unit(cqrs.database), cqrs.database.tables, cqrs.engine.registry)
    loaded = await accounts.get(account)

    assert (loaded.balance, loaded.version) == (10, 11)


async def test_maintenance_of_one_tenant_leaves_the_others_alone(cqrs: CQRS) -> None:
    archived, deleted, truncated = uuid4(), uuid4(), uuid4()
    for tenant in ("red", "blue", ""):
        with on_behalf_of(cqrs, tenant):
            for account in (archived, deleted, truncated):
                await cqrs.mediator.send(Deposit(account=account, amounts=(1, 2)))

    with on_behalf_of(cqrs, "red"):
        await cqrs.streams.archive(stream_of(archived))
        await cqrs.streams.delete(stream_of(deleted))
    await cqrs.streams.truncate(stream_of(truncated), Summarised(balance=3), expected_version=2, tenant="red")

    assert [one.version for one in await all_of(store(cqrs, "red").read_all())] == [3]
    for tenant in ("blue", ""):
        assert len(await all_of(store(cqrs, tenant).read_all())) == 6
        with on_behalf_of(cqrs, tenant):
            assert await cqrs.mediator.send(Deposit(account=archived, amounts=(1,))) == 4
            assert await cqrs.mediator.send(GetBalance(account=deleted)) == (3, 2)
            assert await cqrs.mediator.send(GetBalance(account=truncated)) == (3, 2)


async def test_a_tenant_that_is_given_is_meant_wherever_the_call_stands(cqrs: CQRS, account: UUID) -> None:
    with on_behalf_of(cqrs, "red"):
        with pytest.raises(NotFoundError):
            await cqrs.streams.delete(stream_of(account))
        await cqrs.streams.delete(stream_of(account), tenant="")

    assert await count(cqrs, "events") == 0


async def test_a_stream_that_never_was_cannot_be_changed(cqrs: CQRS) -> None:
    for change in (cqrs.streams.archive, cqrs.streams.restore, cqrs.streams.delete):
        with pytest.raises(NotFoundError, match="stream nothing-1 does not exist"):
            await change("nothing-1")
        with pytest.raises(ValueError, match="no stream name"):
            await change("nothing 1")
    assert await count(cqrs, "streams") == 0


async def test_an_archived_stream_is_not_truncated(cqrs: CQRS, account: UUID) -> None:
    await cqrs.streams.archive(stream_of(account))

    with pytest.raises(StreamClosedError):
        await cqrs.streams.truncate(stream_of(account), Summarised(balance=6), expected_version=3)
    assert await cqrs.mediator.send(GetBalance(account=account)) == (6, 3)


async def test_an_aggregate_is_loaded_by_one_statement_whatever_became_of_its_stream(postgres_url: str) -> None:
    cqrs = build(postgres_url)
    async with cqrs.database.engine.begin() as connection:
        await connection.run_sync(upgrade)
    async with cqrs.running(workers=()):
        ordinary, cut, gone = uuid4(), uuid4(), uuid4()
        for account in (ordinary, cut, gone):
            await cqrs.mediator.send(Deposit(account=account, amounts=(1,)))
        await cqrs.streams.truncate(stream_of(cut), Summarised(balance=1), expected_version=1)
        await cqrs.streams.delete(stream_of(gone))
        for account in (ordinary, cut, gone, uuid4()):
            async with sent_statements(cqrs.database.engine) as statements:
                with suppress(NotFoundError):
                    await cqrs.mediator.send(GetBalance(account=account))
            assert len(statements) == 1


async def test_streams_are_changed_while_the_application_runs(sqlite_url: str) -> None:
    with pytest.raises(NotRunningError):
        _ = build(sqlite_url).streams


async def test_the_functions_may_be_part_of_a_larger_transaction(cqrs: CQRS, account: UUID) -> None:
    tables, other = cqrs.database.tables, uuid4()
    await cqrs.mediator.send(Deposit(account=other, amounts=(1,)))

    def both(connection: Any) -> None:
        maintenance.archive(connection, tables, stream_of(other), tenant="")
        maintenance.archive(connection, tables, "nothing-1", tenant="")

    with pytest.raises(NotFoundError):
        await cqrs.database.write(both)
    assert len(await all_of(store(cqrs).read_all())) == 4
