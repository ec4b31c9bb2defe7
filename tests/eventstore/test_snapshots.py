"""Snapshots in a running application: when they are written and when trusted, and that nothing depends on them."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
import structlog
from hypothesis import HealthCheck, settings
from hypothesis import given as for_all
from hypothesis import strategies as st
from prometheus_client import REGISTRY
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from cqrs_fastapi import (
    CQRS,
    Aggregate,
    Command,
    ConcurrencyError,
    Decider,
    DomainError,
    Event,
    EventStore,
    NotFoundError,
    Query,
    Repository,
    Settings,
    UnknownOutcomeError,
    applies,
    every,
    state,
    when_loading_takes,
)
from cqrs_fastapi.domain.repository import FEW
from cqrs_fastapi.errors import StreamDeletedError
from cqrs_fastapi.eventstore import maintenance
from cqrs_fastapi.eventstore.appender import Appender
from cqrs_fastapi.eventstore.snapshots import Snapshot, write_snapshot
from cqrs_fastapi.migrations import upgrade
from cqrs_fastapi.runtime import snapshot_writer
from cqrs_fastapi.storage.database import Database
from cqrs_fastapi.storage.prepared import Prepared

pytestmark = pytest.mark.anyio

AN_ACCOUNT = UUID(int=1)
STREAM = f"account-{AN_ACCOUNT}"


class Deposited(Event):
    cents: int


class Noted(Event):
    text: str


class Summed(Event):
    cents: int
    notes: list[str]


class Account(Aggregate, category="account", snapshots=every(5)):
    cents: int = 0
    notes: list[str] = state(list)

    @applies
    def on_deposited(self, event: Deposited) -> None:
        self.cents += event.cents

    @applies
    def on_noted(self, event: Noted) -> None:
        self.notes.append(event.text)

    @applies
    def on_summed(self, event: Summed) -> None:
        self.cents, self.notes = event.cents, list(event.notes)


class Slow(Account, category="account", snapshots=when_loading_takes(timedelta(microseconds=1))):
    """Its loads always take longer."""


class Rounding(Aggregate, category="account", snapshots=every(5)):
    """Newer code for the same streams, which folds otherwise."""

    cents: int = 0
    notes: list[str] = state(list)

    @applies
    def on_deposited(self, event: Deposited) -> None:
        self.cents += event.cents // 10 * 10

    @applies
    def on_noted(self, event: Noted) -> None:
        self.notes.append(event.text.upper())


class Do(Command[int]):
    """Deposits, and notes."""

    account_id: UUID = AN_ACCOUNT
    what: list[int | str]
    as_of: str = "Account"


class Look(Query[tuple[int, list[str], int]]):
    account_id: UUID = AN_ACCOUNT


class Meddle(Command[None]):
    """Appends to the stream of the aggregate besides what the aggregate records."""


class RefusedError(DomainError):
    code = "refused"


def recorded(what: int | str) -> Event:
    return Deposited(cents=what) if isinstance(what, int) else Noted(text=what)


async def do(command: Do, accounts: Repository[Account], slow: Repository[Slow], rounding: Repository[Rounding]) -> int:
    repository: Repository[Any] = {"Account": accounts, "Slow": slow, "Rounding": rounding}[command.as_of]
    account = await repository.get_or_new(command.account_id)
    for what in command.what:
        if what == "refuse":
            raise RefusedError("refused")
        account.record(recorded(what))
    return int(account.cents)


async def do_in_session(command: Do, session: AsyncSession, accounts: Repository[Account]) -> int:
    await session.connection()
    return await do(command, accounts, accounts, accounts)  # type: ignore[arg-type]  # the first one is used


async def look(query: Look, accounts: Repository[Account]) -> tuple[int, list[str], int]:
    account = await accounts.get(query.account_id)
    return account.cents, account.notes, account.version


async def meddle(command: Meddle, accounts: Repository[Account], store: EventStore) -> None:
    account = await accounts.get_or_new(AN_ACCOUNT)
    for cents in range(9):
        account.record(Deposited(cents=cents))
    await store.append(STREAM, [Deposited(cents=1_000)], account.version or 0)


@dataclass
class Bank:
    """An application; `restarted` gives another on the same database, after what was under way has ended."""

    url: str
    cqrs: CQRS = field(init=False)

    @asynccontextmanager
    async def running(self, handler: Callable[..., Any] = do) -> AsyncIterator[Bank]:
        self.cqrs = CQRS(settings=Settings(database_url=self.url))
        self.cqrs.handles(Do)(handler)
        self.cqrs.handles(Look)(look)
        self.cqrs.handles(Meddle)(meddle)
        self.cqrs.register(Slow, Rounding)
        async with self.cqrs.running(workers=()):
            yield self

    async def do(self, *what: int | str, as_of: str = "Account", account_id: UUID = AN_ACCOUNT) -> int:
        return await self.cqrs.mediator.send(Do(what=list(what), as_of=as_of, account_id=account_id))

    async def look(self) -> tuple[int, list[str], int]:
        return await self.cqrs.mediator.send(Look())

    async def rows(self) -> list[tuple[str, int, Any]]:
        """Stream, version and state of all snapshots, once none is being written."""
        await self.cqrs.engine._snapshots.close()
        statement = text("SELECT stream, version, state FROM cqrs_snapshots ORDER BY stream")
        found = await self.cqrs.database.read(lambda connection: connection.execute(statement).all())
        return [(stream, version, json.loads(bytes(kept))) for stream, version, kept in found]

    async def versions(self) -> list[int]:
        return [version for _, version, _ in await self.rows()]

    async def change(self, statement: str, **values: Any) -> None:
        await self.cqrs.database.write(lambda connection: connection.execute(text(statement), values) and None)


@pytest.fixture
async def database(database_url: str) -> str:
    if database_url.startswith("postgresql"):
        engine = create_async_engine(database_url)
        async with engine.begin() as connection:
            await connection.run_sync(upgrade)
        await engine.dispose()
    return database_url


@pytest.fixture
async def bank(database: str) -> AsyncIterator[Bank]:
    async with Bank(database).running() as bank:
        yield bank


@pytest.fixture
def statements(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Each reading statement that is run, by its first words."""
    run: list[str] = []
    rows = Prepared.rows

    def counted(self: Prepared, connection: Any, parameters: Any) -> Any:
        run.append(self.text.split(" ", 1)[0])
        return rows(self, connection, parameters)

    monkeypatch.setattr(Prepared, "rows", counted)
    return run


def counted(outcome: str) -> float:
    labels = {"service": Settings().service, "outcome": outcome}
    return REGISTRY.get_sample_value("cqrs_snapshots_total", labels) or 0.0


async def test_a_snapshot_is_written_with_the_commit_that_makes_it_due(bank: Bank) -> None:
    for number in range(1, 5):
        await bank.do(number)
    assert await bank.rows() == []
    await bank.do("x", 10)
    assert await bank.rows() == [(STREAM, 6, {"cents": 20, "notes": ["x"]})]
    for _ in range(4):
        await bank.do(1)
    assert await bank.versions() == [6]
    await bank.do(1)
    assert await bank.versions() == [11]
    assert await bank.look() == (25, ["x"], 11)


async def test_an_aggregate_without_a_policy_has_none(database: str) -> None:
    class Plain(Aggregate, category="account"):
        cents: int = 0

        @applies
        def on_deposited(self, event: Deposited) -> None:
            self.cents += event.cents

    cqrs = CQRS(settings=Settings(database_url=database))
    cqrs.register(Plain)
    async with cqrs.running(workers=()):
        async with cqrs.scope() as scope:
            plain = Plain(AN_ACCOUNT)
            for cents in range(200):
                plain.record(Deposited(cents=cents))
            scope.unit_of_work.track(plain)  # type: ignore[attr-defined]  # the unit of an application has it
        await cqrs.engine._snapshots.close()
        count = text("SELECT count(*) FROM cqrs_snapshots")
        assert await cqrs.database.read(lambda connection: connection.execute(count).scalar()) == 0


async def test_a_snapshot_is_written_when_loading_took_long(bank: Bank) -> None:
    await bank.do(1, as_of="Slow")
    assert await bank.rows() == []  # a new one was not loaded
    await bank.do(2, as_of="Slow")
    assert await bank.rows() == [(STREAM, 2, {"cents": 3, "notes": []})]
    await bank.do(3, as_of="Slow")
    assert await bank.versions() == [2]  # nothing had to be folded
    await bank.do(4, as_of="Slow")
    assert await bank.versions() == [4]


async def test_loading_by_a_snapshot_reads_it_and_the_events_behind_it_by_one_statement(
    bank: Bank, statements: list[str]
) -> None:
    await bank.do(*range(1, 8))
    await bank.rows()
    await bank.change("UPDATE cqrs_events SET data = '{\"cents\": 1000}' WHERE version <= 7")
    await bank.do(1)
    statements.clear()
    assert await bank.look() == (29, [], 8)
    assert len(statements) == 1


async def test_loading_without_a_policy_reads_a_short_stream_by_one_statement(
    database: str, statements: list[str]
) -> None:
    class Total(Decider[int], category="account"):
        initial = 0

        @staticmethod
        def decide(state: int, command: Command[Any]) -> Iterable[Event]:
            return [Deposited(cents=1)]

        @staticmethod
        def evolve(state: int, event: Deposited) -> int:
            return state + event.cents

    async with Bank(database).running() as bank:
        await bank.do(1, 2, 3)
        async with bank.cqrs.scope() as scope:
            totals = Repository(Total, scope.unit_of_work, bank.cqrs.database.tables, bank.cqrs.engine.registry)  # type: ignore[arg-type]  # the unit of an application
            statements.clear()
            assert (await totals.get(AN_ACCOUNT)).state == 6
    assert len(statements) == 1


async def test_a_long_tail_is_read_to_its_end(bank: Bank) -> None:
    await bank.do(*[1] * 5)
    await bank.rows()
    await bank.change("DELETE FROM cqrs_snapshots WHERE version > 5")
    many = [1] * (FEW + 100)
    async with bank.cqrs.scope() as scope:
        events = [Deposited(cents=cents) for cents in many]
        await EventStore(scope.unit_of_work, bank.cqrs.database.tables, bank.cqrs.engine.registry).append(  # type: ignore[arg-type]  # the unit of an application
            STREAM, events
        )
    assert await bank.versions() == [5]
    assert await bank.look() == (FEW + 105, [], FEW + 105)


async def test_loading_in_a_transaction_sees_what_it_has_done(database: str) -> None:
    """Through the session's connection, also while that holds the only write lock of SQLite."""
    async with Bank(database).running(do_in_session) as bank:
        for number in range(1, 8):
            assert await bank.do(number) == number * (number + 1) // 2
        assert await bank.versions() == [5]


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@for_all(
    commits=st.lists(
        st.tuples(
            st.sampled_from(["Account", "Slow", "Rounding"]),
            st.lists(st.one_of(st.integers(0, 99), st.text("abc", max_size=3)), min_size=1, max_size=7),
        ),
        max_size=9,
    )
)
async def test_any_mixture_of_code_makes_of_a_history_what_folding_all_of_it_makes(
    bank: Bank, commits: list[tuple[str, list[int | str]]]
) -> None:
    """Old and new code take turns on a stream: each finds the snapshots of the other, and trusts only its own."""
    account_id, history = uuid4(), list[Event]()
    for as_of, what in commits:
        history += map(recorded, what)
        whole = {"Account": Account, "Slow": Slow, "Rounding": Rounding}[as_of](account_id)
        whole.replay(history, len(history))
        assert await bank.do(*what, as_of=as_of, account_id=account_id) == whole.cents
        await bank.rows()


async def test_old_and_new_code_take_turns_and_neither_is_wrong(bank: Bank) -> None:
    old = new = 0
    for number in range(1, 30):
        old, new = old + number, new + number // 10 * 10
        expected, as_of = (old, "Account") if number % 2 else (new, "Rounding")
        assert await bank.do(number, as_of=as_of) == expected
        assert len(await bank.rows()) == (number >= 5)


async def test_code_that_finds_the_snapshot_of_other_code_replaces_it_with_its_next_commit(bank: Bank) -> None:
    await bank.do(*range(6))
    assert await bank.rows() == [(STREAM, 6, {"cents": 15, "notes": []})]
    await bank.do(11, as_of="Rounding")
    assert await bank.rows() == [(STREAM, 7, {"cents": 10, "notes": []})]


async def test_an_older_snapshot_never_takes_the_place_of_a_newer_one(bank: Bank) -> None:
    await bank.do(*range(5))
    late = await _kept(bank)
    await bank.do(*range(5))
    assert await bank.versions() == [10]
    assert not await bank.cqrs.database.write(partial(write_snapshot, tables=bank.cqrs.database.tables, snapshot=late))
    assert await bank.versions() == [10]


async def _kept(bank: Bank) -> Snapshot:
    """The one snapshot, as it was to be written."""
    await bank.rows()
    tables = bank.cqrs.database.tables
    row = await bank.cqrs.database.read(lambda connection: connection.execute(tables.snapshots.select()).one())
    return Snapshot(row.tenant, row.stream, row.version, row.message_id, row.fingerprint, row.state, row.taken_at)


async def test_a_snapshot_that_cannot_be_read_is_ignored(bank: Bank) -> None:
    await bank.do(*range(6))
    await bank.rows()
    for broken in (b"\xff", b"{", b'{"cents": "many"}', b"[]"):
        await bank.change("UPDATE cqrs_snapshots SET state = :broken", broken=broken)
        assert await bank.look() == (15, [], 6)
    await bank.do(1)
    assert await bank.rows() == [(STREAM, 7, {"cents": 16, "notes": []})]


async def test_a_deleted_stream_takes_its_snapshot_along(bank: Bank) -> None:
    await bank.do(*range(6))
    late = await _kept(bank)
    await bank.cqrs.streams.delete(STREAM)
    assert await bank.rows() == []

    # One that was still to be written comes too late.
    assert not await bank.cqrs.database.write(partial(write_snapshot, tables=bank.cqrs.database.tables, snapshot=late))
    assert await bank.rows() == []


async def test_a_deleted_stream_is_not_loaded_though_there_is_a_snapshot(bank: Bank) -> None:
    await bank.do(*range(6))
    await bank.rows()
    tables = bank.cqrs.database.tables
    tombstone = tables.streams.update().values(deleted_at=datetime.now(UTC), truncated_before=7)
    await bank.cqrs.database.write(lambda connection: connection.execute(tombstone) and None)
    assert await bank.versions() == [6]
    with pytest.raises(StreamDeletedError):
        await bank.look()


async def test_a_snapshot_that_is_written_while_its_stream_is_deleted_does_not_stay(postgres_url: str) -> None:
    engine = create_async_engine(postgres_url)
    async with engine.begin() as connection:
        await connection.run_sync(upgrade)
    async with Bank(postgres_url).running() as bank:
        await bank.do(*range(6))
        late, database = await _kept(bank), bank.cqrs.database
        await bank.change("DELETE FROM cqrs_snapshots")
        delete = partial(maintenance.delete_stream, tables=database.tables, stream=STREAM, tenant="", now=late.taken_at)
        async with engine.begin() as deleting:
            await deleting.run_sync(delete)
            writing = asyncio.create_task(
                database.write(partial(write_snapshot, tables=database.tables, snapshot=late))
            )
            while not await _somebody_waits(bank):
                await asyncio.sleep(0.01)
        assert not await writing
        assert await bank.rows() == []
    await engine.dispose()


async def test_a_stream_that_is_deleted_while_its_snapshot_is_written_leaves_none(postgres_url: str) -> None:
    engine = create_async_engine(postgres_url)
    async with engine.begin() as connection:
        await connection.run_sync(upgrade)
    async with Bank(postgres_url).running() as bank:
        await bank.do(*range(6))
        late, database = await _kept(bank), bank.cqrs.database
        await bank.change("DELETE FROM cqrs_snapshots")
        async with engine.begin() as writing:
            await writing.run_sync(partial(write_snapshot, tables=database.tables, snapshot=late))
            await bank.do(1)  # appends do not wait for it
            deleting = asyncio.create_task(bank.cqrs.streams.delete(STREAM))
            while not await _somebody_waits(bank):
                await asyncio.sleep(0.01)
        await deleting
        assert await bank.rows() == []
    await engine.dispose()


async def _somebody_waits(bank: Bank) -> bool:
    statement = text(
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    )
    return bool(await bank.cqrs.database.read(lambda connection: connection.execute(statement).scalar()))


async def test_a_truncated_stream_begins_with_its_summary_whatever_snapshot_there_was(bank: Bank) -> None:
    await bank.do(*range(6))
    late = await _kept(bank)
    await bank.cqrs.streams.truncate(STREAM, Summed(cents=500, notes=["sum"]), expected_version=6)
    assert await bank.rows() == []
    assert not await bank.cqrs.database.write(partial(write_snapshot, tables=bank.cqrs.database.tables, snapshot=late))
    assert await bank.look() == (500, ["sum"], 7)
    await bank.do(1)
    assert await bank.rows() == [(STREAM, 8, {"cents": 501, "notes": ["sum"]})]


async def test_a_snapshot_ahead_of_its_stream_is_ignored_and_replaced(bank: Bank) -> None:
    """A backup was restored, and the snapshots were not."""
    await bank.do(*range(9))
    await bank.rows()
    await bank.change("DELETE FROM cqrs_events WHERE version > 6")
    await bank.change("UPDATE cqrs_streams SET version = 6")
    assert await bank.look() == (15, [], 6)
    await bank.do(100)
    assert await bank.rows() == [(STREAM, 7, {"cents": 115, "notes": []})]


async def test_a_snapshot_of_another_history_is_ignored_when_the_stream_has_grown_past_it(bank: Bank) -> None:
    await bank.do(*range(9))
    await bank.rows()
    await bank.change("DELETE FROM cqrs_events WHERE version > 4")
    await bank.change("UPDATE cqrs_streams SET version = 4")
    async with bank.cqrs.scope() as scope:
        events = [Deposited(cents=1_000)] * 8
        await EventStore(scope.unit_of_work, bank.cqrs.database.tables, bank.cqrs.engine.registry).append(  # type: ignore[arg-type]  # the unit of an application
            STREAM, events
        )
    assert await bank.versions() == [9]
    assert await bank.look() == (8_006, [], 12)
    await bank.do(1)
    assert await bank.rows() == [(STREAM, 13, {"cents": 8_007, "notes": []})]


async def test_what_is_not_committed_leaves_no_snapshot(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RefusedError):
        await bank.do(1, 2, 3, 4, 5, 6, "refuse")
    assert await bank.rows() == []

    async def lost(self: Appender, unit: Any) -> None:
        raise UnknownOutcomeError("the answer was lost")

    with monkeypatch.context() as patched:
        patched.setattr(Appender, "append", lost)
        with pytest.raises(UnknownOutcomeError):
            await bank.do(1, 2, 3, 4, 5, 6)
    assert await bank.rows() == []

    async def conflicting(self: Appender, unit: Any) -> None:
        raise ConcurrencyError(stream=STREAM, expected="version 1", actual=2, retryable=False)

    with monkeypatch.context() as patched:
        patched.setattr(Appender, "append", conflicting)
        with pytest.raises(ConcurrencyError):
            await bank.do(1, 2, 3, 4, 5, 6)
    assert await bank.rows() == []
    with pytest.raises(NotFoundError):
        await bank.look()


async def test_no_snapshot_says_less_than_its_version(bank: Bank) -> None:
    """The stream has an event at that version which the aggregate did not fold."""
    await bank.cqrs.mediator.send(Meddle())
    assert await bank.rows() == []
    assert await bank.look() == (1_036, [], 10)


async def test_an_aggregate_that_is_changed_during_the_commit_is_not_kept(
    bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    append, held = Appender.append, list[Account]()

    async def meanwhile(self: Appender, unit: Any) -> None:
        await append(self, unit)
        held[0].record(Deposited(cents=7))

    monkeypatch.setattr(Appender, "append", meanwhile)
    async with bank.cqrs.scope() as scope:
        account = Account(AN_ACCOUNT)
        held.append(account)
        for cents in range(6):
            account.record(Deposited(cents=cents))
        scope.unit_of_work.track(account)  # type: ignore[attr-defined]  # the unit of an application has it
    assert await bank.rows() == []


async def test_the_owner_of_a_session_has_yet_to_commit(bank: Bank) -> None:
    async with bank.cqrs.database.session() as session:
        async with bank.cqrs.scope(session=session) as scope:
            await scope.send(Do(what=[1, 2, 3, 4, 5, 6]))
        await session.rollback()
    assert await bank.rows() == []
    with pytest.raises(NotFoundError):
        await bank.look()


async def test_a_snapshot_that_cannot_be_written_is_logged_and_counted_and_nothing_else(
    bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object, **__: object) -> bool:
        raise OSError("no disk")

    before = counted("failed")
    with monkeypatch.context() as patched, structlog.testing.capture_logs() as logs:
        patched.setattr(snapshot_writer, "write_snapshot", failing)
        assert await bank.do(*range(6)) == 15
        assert await bank.rows() == []
    assert [(log["event"], log["stream"], log["version"]) for log in logs] == [("snapshot_not_written", STREAM, 6)]
    assert counted("failed") == before + 1
    await bank.do(1)  # it is still due
    assert await bank.versions() == [7]


async def test_a_state_that_would_not_come_back_is_logged_and_nothing_else(bank: Bank) -> None:
    with structlog.testing.capture_logs() as logs:
        async with bank.cqrs.scope() as scope:
            account = Account(AN_ACCOUNT)
            for cents in range(6):
                account.record(Deposited(cents=cents))
            account.cents = "secret"  # type: ignore[assignment]  # the fault under test
            scope.unit_of_work.track(account)  # type: ignore[attr-defined]  # the unit of an application has it
    assert [log["event"] for log in logs] == ["snapshot_not_taken"]
    assert "Account.cents" in logs[0]["error"]
    assert "secret" not in str(logs)
    assert await bank.rows() == []
    assert await bank.look() == (15, [], 6)


async def test_more_than_a_few_at_once_are_left_for_the_next_commit(bank: Bank) -> None:
    before = counted("skipped")
    ids = [UUID(int=number) for number in range(1, 10)]
    async with bank.cqrs.scope() as scope:
        for account_id in ids:
            account = Account(account_id)
            for cents in range(6):
                account.record(Deposited(cents=cents))
            scope.unit_of_work.track(account)  # type: ignore[attr-defined]  # the unit of an application has it
    assert await bank.versions() == [6] * snapshot_writer.AT_ONCE
    assert counted("skipped") == before + len(ids) - snapshot_writer.AT_ONCE
    for account_id in ids:
        await bank.do(1, account_id=account_id)
        await bank.rows()
    assert sorted(await bank.versions()) == [6] * snapshot_writer.AT_ONCE + [7] * (len(ids) - snapshot_writer.AT_ONCE)


async def test_closing_waits_for_the_snapshots_under_way(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write = Database.write_few

    async def slowly(self: Database, work: Callable[[Any], Any]) -> Any:
        await asyncio.sleep(0.3)
        return await write(self, work)

    monkeypatch.setattr(Database, "write_few", slowly)
    async with Bank(database).running() as bank:
        await bank.do(*range(6))
    async with Bank(database).running() as bank:
        assert await bank.versions() == [6]


KILLED = """
import asyncio, os, signal, sys
sys.path.insert(0, {folder!r})
import test_snapshots as tests
from cqrs_fastapi.runtime import snapshot_writer

def kill(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

async def main():
    async with tests.Bank({url!r}).running() as bank:
        await bank.do(1, 2, 3)
        snapshot_writer.write_snapshot = kill
        await bank.do(4, 5, 6)
        await asyncio.sleep(60)

asyncio.run(main())
"""


async def test_a_process_that_dies_between_the_commit_and_the_snapshot_loses_nothing(database: str) -> None:
    program = KILLED.format(folder=str(Path(__file__).parent), url=database)
    ended = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    async with Bank(database).running() as bank:
        assert await bank.rows() == []
        assert await bank.look() == (21, [], 6)
        await bank.do(7)
        assert await bank.rows() == [(STREAM, 7, {"cents": 28, "notes": []})]
