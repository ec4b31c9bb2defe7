"""The command that tortures a store: it finds nothing wrong with this library's reader, and all that is wrong."""

from __future__ import annotations

import re
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Connection, create_engine, inspect
from typer.testing import CliRunner

from cqrs_fastapi.cli.main import app
from cqrs_fastapi.errors import HistoryChangedError, UnavailableError
from cqrs_fastapi.eventstore.decisions import read_matching
from cqrs_fastapi.eventstore.horizon import Horizon, read_horizon
from cqrs_fastapi.storage.tables import Tables
from cqrs_fastapi.testing.torture import load
from cqrs_fastapi.testing.torture.field import Hand
from cqrs_fastapi.testing.torture.ledger import Ledger
from cqrs_fastapi.testing.torture.verdict import Faults, Judge, Stored, Verdict
from tools.servers.sql import ask

SHORT = ("--seconds", "6", "--writers", "12", "--seed", "7")
NOTHING = Faults(0, 0, 0, 0, 0, 0, 0, 0)


def torture(url: str, *options: str) -> tuple[int, dict[str, str], str]:
    """The status, the rows by their names, and the last line."""
    result = CliRunner().invoke(app, ["torture-store", "--database-url", url, *options])
    assert result.stdout, result.output
    return result.exit_code, rows_of(result.stdout), result.stdout.splitlines()[-1]


def rows_of(output: str) -> dict[str, str]:
    return {line[:16].strip(): line[17:] for line in output.splitlines()}


def number(text: str) -> int:
    """The first number of a cell."""
    found = re.match(r"[\d,]+", text)
    assert found, text
    return int(found[0].replace(",", ""))


def tables_of(url: str) -> set[str]:
    """What is left of a run: tables, views and sequences on PostgreSQL, tables in a file of SQLite."""
    if url.startswith("sqlite"):
        engine = create_engine(url.replace("+aiosqlite", ""))
        try:
            return {name for name in inspect(engine).get_table_names() if name.startswith("torture_")}
        finally:
            engine.dispose()
    left = ask(url, "SELECT coalesce(string_agg(relname, ' '), '') FROM pg_class WHERE relname LIKE 'torture_%'")
    return set(left.split())


def test_a_short_run_loses_and_inverts_nothing_and_leaves_no_tables(database_url: str) -> None:
    status, rows, last = torture(database_url, *SHORT)
    assert (status, last) == (0, "OK"), rows
    assert number(rows["committed"]) == number(rows["delivered"]) > 200
    assert (number(rows["lost"]), number(rows["inverted"])) == (0, 0)
    assert rows["longest wait"].endswith(" ms")
    assert tables_of(database_url) == set()


def test_on_postgres_back_ends_die_and_a_foreign_transaction_is_not_waited_for(postgres_url: str) -> None:
    status, rows, _ = torture(postgres_url, *SHORT)
    assert status == 0, rows
    assert number(rows["killed"]) > 0
    assert rows["foreign"].endswith("nobody waited for it")


def test_without_kills_no_back_end_dies(postgres_url: str) -> None:
    _, rows, last = torture(postgres_url, "--seconds", "2", "--writers", "4", "--no-kills", "--no-decisions")
    assert (number(rows["killed"]), last) == (0, "OK")


def test_without_group_commit_every_append_is_a_transaction_of_its_own(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nothing(_: Hand) -> None:
        raise AssertionError("no writer appends in groups")

    monkeypatch.setattr(load, "GROUPED", (nothing,))
    options = ("--seconds", "2", "--writers", "8", "--no-decisions", "--no-group-commit")
    status, rows, last = torture(database_url, *options)
    assert (status, last) == (0, "OK"), rows
    assert rows["writers"].endswith("no group commit")


def test_a_decision_that_could_not_read_is_counted_and_made_again(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A back end may be killed in the moment in which it is connected to."""
    times = iter(range(10**9))

    def sometimes(*given: Any, **named: Any) -> Any:
        if next(times) % 2:
            raise UnavailableError("the connection was closed")
        return read_matching(*given, **named)

    monkeypatch.setattr(load, "read_matching", sometimes)
    status, rows, last = torture(postgres_url, "--seconds", "3", "--writers", "12", "--no-kills")
    assert (status, last) == (0, "OK"), rows
    assert "unread" in rows["attempts"]


def test_a_reader_by_position_is_caught_losing_events(postgres_url: str) -> None:
    status, rows, last = torture(postgres_url, "--seconds", "8", "--writers", "24", "--reader", "position")
    assert (status, last) == (1, "BROKEN")
    assert number(rows["lost"]) + number(rows["inverted"]) > 0


def test_a_reader_by_transaction_id_is_caught_out_of_order_and_waiting_for_strangers(postgres_url: str) -> None:
    """Where somebody else has a transaction open on the same server, it gets nothing at all."""
    status, rows, last = torture(postgres_url, "--seconds", "8", "--writers", "24", "--reader", "xid")
    assert (status, last) == (1, "BROKEN")
    assert number(rows["lost"]) + number(rows["inverted"]) > 0
    assert rows["foreign"].endswith("and was waited for")


def test_the_reader_of_this_library_is_caught_when_it_does_not_look_at_the_floors(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without_floors(connection: Connection, tables: Tables) -> Horizon:
        found = read_horizon(connection, tables)
        return replace(found, safe=found.highest)

    monkeypatch.setattr("cqrs_fastapi.eventstore.subscription.read_horizon", without_floors)
    status, rows, last = torture(postgres_url, "--seconds", "8", "--writers", "24", "--no-kills")
    assert (status, last) == (1, "BROKEN")
    assert number(rows["lost"]) > 0


def test_a_reader_that_finds_its_history_changed_stops_and_is_judged(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def changed(*_: object) -> None:
        raise HistoryChangedError(reader="torture", found="another event", table="torture_checkpoints")

    monkeypatch.setattr("cqrs_fastapi.testing.torture.readers._LIFE", 20)
    monkeypatch.setattr("cqrs_fastapi.testing.torture.readers.verify", changed)
    status, rows, last = torture(postgres_url, "--seconds", "2", "--writers", "4", "--no-kills", "--no-decisions")
    assert (status, last) == (1, "BROKEN")
    assert "1 HistoryChangedError of the reader" in rows["attempts"], rows
    assert number(rows["lost"]) > 0


def test_a_signal_ends_a_run_early_with_its_judgement_and_without_tables(
    postgres_url: str, start: Callable[..., subprocess.Popen[str]]
) -> None:
    process = start("torture-store", "--database-url", postgres_url, "--writers", "6", "--seconds", "600")
    while not tables_of(postgres_url):
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert output.splitlines()[-1] == "OK"
    assert tables_of(postgres_url) == set()


def test_what_cannot_be_done_is_refused_in_a_sentence(sqlite_url: str) -> None:
    runner = CliRunner()
    by_id = runner.invoke(app, ["torture-store", "--database-url", sqlite_url, "--reader", "xid"])
    assert (by_id.exit_code, "SQLite has no transaction ids" in by_id.stderr) == (2, True)
    unknown = runner.invoke(app, ["torture-store", "--database-url", sqlite_url, "--reader", "best"])
    assert (unknown.exit_code, "write one of: floor, position, xid" in unknown.stderr) == (2, True)


class Handmade:
    """A ledger with five acknowledged events of one stream, and their rows as the table has them."""

    def __init__(self) -> None:
        self.ledger = Ledger(run=12345)
        self.ids = self.ledger.new_ids(5)
        self.ledger.acknowledge(self.ids, 1.0)
        self.rows = [Stored(10 + n, one, "a", n, "by_me") for n, one in enumerate(self.ids, start=1)]
        self.streams = {"a": 5}

    def deliver(self, *versions: int, now: float = 1.5) -> None:
        for version in versions:
            self.ledger.deliver(self.ids[version - 1], "a", version, now)

    def verdict(self, *, overbooked: int = 0) -> Verdict:
        judge = Judge(self.ledger)
        for row in self.rows:
            judge.see(row)
        for stream, version in self.streams.items():
            judge.see_stream(stream, version)
        return judge.verdict(overbooked=overbooked)


@pytest.fixture
def handmade() -> Handmade:
    return Handmade()


def test_all_delivered_once_and_in_order_is_no_fault(handmade: Handmade) -> None:
    handmade.deliver(1, 2, 3, now=1.25)
    handmade.deliver(4, 5, now=3.0)
    verdict = handmade.verdict()
    assert verdict.faults == NOTHING
    assert not verdict.faults.any
    assert (verdict.committed, verdict.delivered, verdict.longest_wait) == (5, 5, 2.0)


def test_a_committed_event_that_was_never_delivered_is_lost(handmade: Handmade) -> None:
    handmade.deliver(1, 2, 4, 5)
    verdict = handmade.verdict()
    assert (verdict.faults.lost, verdict.lost_by, verdict.faults.inverted) == (1, {"by_me": 1}, 0)
    assert verdict.faults.any


def test_a_committed_event_that_nobody_announced_is_lost_too(handmade: Handmade) -> None:
    handmade.deliver(1, 2, 3, 4, 5)
    handmade.rows.append(Stored(99, UUID(int=1), "b", 1, "stranger"))
    handmade.streams["b"] = 1
    assert handmade.verdict().faults.lost == 1


def test_an_event_after_a_later_one_of_its_stream_is_inverted(handmade: Handmade) -> None:
    handmade.deliver(1, 3, 2, 4, 5)
    assert handmade.verdict().faults.inverted == 1


def test_an_event_that_comes_again_is_repeated_and_not_inverted(handmade: Handmade) -> None:
    handmade.deliver(1, 2, 3, 4, 5, 2)
    faults = handmade.verdict().faults
    assert (faults.repeated, faults.inverted, faults.lost) == (1, 0, 0)


def test_an_event_that_is_not_in_the_table_is_a_phantom(handmade: Handmade) -> None:
    handmade.deliver(1, 2, 3, 4, 5)
    (rolled_back,) = handmade.ledger.new_ids(1)
    handmade.ledger.refuse((rolled_back,))
    handmade.ledger.deliver(rolled_back, "a", 6, 2.0)
    handmade.ledger.deliver(UUID(int=1), "b", 1, 2.0)
    faults = handmade.verdict().faults
    assert (faults.phantom, faults.lost, faults.returned) == (2, 0, 0)


def test_an_acknowledged_event_that_is_not_in_the_table_is_missing(handmade: Handmade) -> None:
    handmade.deliver(1, 2, 3, 4)
    del handmade.rows[4]
    handmade.streams["a"] = 4
    faults = handmade.verdict().faults
    assert (faults.missing, faults.lost) == (1, 0)


def test_an_event_that_was_refused_and_is_in_the_table_has_returned(handmade: Handmade) -> None:
    handmade.deliver(1, 2, 3, 4, 5)
    (refused,) = handmade.ledger.new_ids(1)
    handmade.ledger.refuse((refused,))
    handmade.rows.append(Stored(20, refused, "a", 6, "by_me"))
    handmade.streams["a"] = 6
    handmade.ledger.deliver(refused, "a", 6, 2.0)
    assert handmade.verdict().faults.returned == 1


def test_an_unknown_outcome_is_settled_by_the_table(handmade: Handmade) -> None:
    handmade.deliver(1, 2, 3, 4, 5)
    written, _not_written = handmade.ledger.new_ids(2)
    handmade.rows.append(Stored(20, written, "a", 6, "by_me"))
    handmade.streams["a"] = 6
    assert handmade.verdict().faults.lost == 1
    handmade.ledger.deliver(written, "a", 6, 2.0)
    assert handmade.verdict().faults == NOTHING


@pytest.mark.parametrize("versions", [(1, 2, 3, 4, 6), (1, 2, 4, 3, 5), (1, 2, 3, 4, 4), (0, 1, 2, 3, 4)])
def test_versions_that_are_not_in_the_order_of_positions_are_misnumbered(
    handmade: Handmade, versions: tuple[int, ...]
) -> None:
    handmade.deliver(1, 2, 3, 4, 5)
    handmade.rows = [
        Stored(one.position, one.message_id, "a", version, "by_me")
        for one, version in zip(handmade.rows, versions, strict=True)
    ]
    assert handmade.verdict().faults.misnumbered > 0


@pytest.mark.parametrize("streams", [{"a": 4}, {}, {"a": 5, "empty": 2}])
def test_a_stream_whose_row_does_not_stand_at_its_last_event_is_misnumbered(
    handmade: Handmade, streams: dict[str, int]
) -> None:
    handmade.deliver(1, 2, 3, 4, 5)
    handmade.streams = streams
    assert handmade.verdict().faults.misnumbered == 1


def test_a_broken_invariant_of_decisions_is_a_fault(handmade: Handmade) -> None:
    handmade.deliver(1, 2, 3, 4, 5)
    assert handmade.verdict(overbooked=2).faults.any


def test_what_another_process_was_told_is_taken_over(handmade: Handmade) -> None:
    handmade.deliver(1, 2, 3, 4, 5)
    other = Ledger(handmade.ledger.run, this_lane=1)
    ids = other.new_ids(3)
    other.acknowledge(ids[:1], 1.0)
    other.refuse(ids[1:2])
    handmade.ledger.deliver(ids[0], "b", 1, 2.0)
    handmade.ledger.deliver(ids[2], "b", 2, 2.0)
    handmade.ledger.adopt(1, other.states(), {"acknowledged": 1})
    handmade.rows += [Stored(20, ids[0], "b", 1, "other"), Stored(21, ids[2], "b", 2, "other")]
    handmade.streams["b"] = 2
    assert handmade.verdict().faults == NOTHING
