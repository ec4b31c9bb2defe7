"""A service that is killed again and again keeps every promise that it had made."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from checker import faults, read_sqlite
from processes import Clients, Fork, is_running, request, until

KILLS = 14


def settled(file: Path) -> bool:
    return read_sqlite(str(file)).settled


def test_kills_at_random_times_under_load_break_no_promise(fork: Fork, ledger_file: Path, tmp_path: Path) -> None:
    chance = random.Random(20240229)  # noqa: S311  # repeatable, not secret
    clients = Clients(tmp_path, fork.port, seed=1)
    try:
        for number in range(KILLS):
            fork.start()
            fork.until_serving()
            # The relay's lease outlives a killed process by three seconds; every fourth life is long enough to relay.
            time.sleep(chance.uniform(3.2, 4.2) if number % 4 == 3 else chance.uniform(0.05, 0.7))
            fork.end(signal.SIGKILL)
        fork.start()
        fork.until_serving()
    finally:
        clients.stop()
    until(lambda: settled(ledger_file), "everything is settled")
    fork.end(signal.SIGTERM)

    remains = read_sqlite(str(ledger_file))
    assert faults(remains, clients.acknowledged()) == []
    # A job's lease that a killed process held runs out by itself; the last process must have given back its own.
    assert [name for name in remains.leases_held if not name.startswith("job:")] == []
    assert len(clients.acknowledged()) > KILLS


@pytest.mark.parametrize("point", ["decided", "committed", "received", "written"])
def test_a_kill_at_a_named_point_loses_and_repeats_nothing(
    fork: Fork, ledger_file: Path, tmp_path: Path, point: str
) -> None:
    body = {"ledger": str(UUID(int=1)), "command": str(uuid4())}
    fork.start(DIE_AT=f"{point}@{tmp_path / 'died'}")
    fork.until_serving()
    acknowledged = []
    try:
        if request(fork.port, "POST", "/entries", body)[0] == 200:
            acknowledged.append(body["command"])
    except OSError:
        assert point in {"decided", "committed"}
    until(lambda: not is_running(fork.pid), f"the server has died at {point}")

    fork.start()
    fork.until_serving()
    other = {**body, "command": str(uuid4())}
    assert request(fork.port, "POST", "/entries", other)[0] == 200
    until(lambda: settled(ledger_file), "everything is settled")
    fork.end(signal.SIGTERM)

    remains = read_sqlite(str(ledger_file))
    assert faults(remains, [*acknowledged, other["command"]]) == []
    stored = [command for _, _, command in remains.events]
    assert stored == ([] if point == "decided" else [body["command"]]) + [other["command"]]
