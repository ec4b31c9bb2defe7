"""The command: every row on every system, one after the other, on a Kafka and a PostgreSQL of its own."""

from __future__ import annotations

import argparse
import asyncio
import datetime as dt
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from sqlalchemy.ext.asyncio import create_async_engine

from cqrs_fastapi.migrations import upgrade
from tools.messaging_torture.report import publish
from tools.peers.place import OUR_PYTHON, Broker, Place, System, broker_at
from tools.peers.rows import ROWS, Row
from tools.servers import Servers

PAGE = Path(__file__).parents[2] / "docs" / "peers.md"
NO_OUTBOX = "it has no outbox"


def main() -> int:
    options = _options()
    systems = _systems(options.peers)
    with tempfile.TemporaryDirectory(prefix="peers-") as name:
        folder = Path(name)
        servers = Servers(folder / "servers", {})
        servers.start("postgres")
        try:
            with broker_at(folder) as broker:
                rows = list(_measured(options.only, systems, broker, servers, folder))
                where = _where(options.peers, servers, broker)
        finally:
            servers.stop("postgres")
    lines = [where, "", *_table(systems, rows)]
    print("\n".join(lines))
    if options.publish:
        publish("table", lines, PAGE)
    return 0


def _systems(peers: str) -> tuple[System, ...]:
    python = str(Path(peers).absolute())  # not resolved: the link is what makes it a virtual environment's
    return (
        System("this library", "ours", OUR_PYTHON),
        System("python-cqrs", "python_cqrs", python),
        System("FastStream", "faststream", python),
        System("FastStream, `NACK_ON_ERROR`", "faststream", python, {"PEERS_POLICY": "NACK_ON_ERROR"}),
    )


def _measured(
    only: str, systems: tuple[System, ...], broker: Broker, servers: Servers, folder: Path
) -> Iterator[tuple[Row, list[str]]]:
    for row in ROWS:
        if only not in row.name:
            continue
        cells = []
        for system in systems:
            cells.append(_cell(row, system, broker, servers, folder))
            print(f"{row.name}, {system.name}: {cells[-1]}", flush=True)
        yield row, cells


def _cell(row: Row, system: System, broker: Broker, servers: Servers, folder: Path) -> str:
    if row.relays and system.program == "faststream":
        return NO_OUTBOX
    place = Place.new(broker, servers, system, folder)
    if system.program == "ours":
        asyncio.run(_upgrade(place.database))
    return row.work(place)


async def _upgrade(url: str) -> None:
    engine = create_async_engine(url)
    async with engine.begin() as connection:
        await connection.run_sync(upgrade)
    await engine.dispose()


def _where(peers: str, servers: Servers, broker: Broker) -> str:
    names = ("python-cqrs", "faststream", "aiokafka")
    program = f"from importlib.metadata import version; print(*map(version, {names!r}))"
    versions = subprocess.run([peers, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    told = ", ".join(f"{name} {version}" for name, version in zip(names, versions, strict=True))
    postgres = servers.running("postgres")
    assert postgres is not None
    today = dt.datetime.now(tz=dt.UTC).date()
    return f"Of {today}: {told}; {broker.started.server.how}, PostgreSQL {postgres.version}."


def _table(systems: tuple[System, ...], rows: list[tuple[Row, list[str]]]) -> Iterator[str]:
    yield f"| | {' | '.join(system.name for system in systems)} |"
    yield f"|---|{'---|' * len(systems)}"
    for row, cells in rows:
        yield f"| {row.name} | {' | '.join(cells)} |"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tools.peers", description=__doc__)
    parser.add_argument("--peers", required=True, help="a Python that has the others installed; `make peers` makes it")
    parser.add_argument("--only", default="", help="the rows with this in their names")
    parser.add_argument("--publish", action="store_true", help="write the table into docs/peers.md")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
