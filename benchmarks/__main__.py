"""`make bench`: runs everything and prints one table; ARGS="append reading" runs these parts."""

from __future__ import annotations

import asyncio
import logging
import platform
import sys
from collections.abc import Awaitable, Callable, Sequence
from importlib.metadata import version

import structlog

from benchmarks import append, consume, dispatch, domain, http, reading, relay, wakeups
from benchmarks.timing import Figure, Ratio

PACKAGES = ("fastapi", "pydantic", "sqlalchemy", "uvicorn", "asyncpg", "aiosqlite", "eventsourcing", "psycopg")
PARTS: dict[str, Callable[[], Awaitable[Sequence[Ratio | Figure]]]] = {
    "dispatch": dispatch.run,
    "http": http.run,
    "append": append.run,
    "consume": consume.run,
    "domain": domain.run,
    "reading": reading.run,
    "relay": relay.run,
    "wakeups": wakeups.run,
}


async def main() -> int:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    wanted = sys.argv[1:] or list(PARTS)
    rows: list[Ratio | Figure] = [row for name in wanted for row in await PARTS[name]()]
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    print(f"Python {platform.python_version()}, {versions}\n")
    print(f"{'':72} {'ratio':>7} {'median':>7} {'limit':>7}  {'us':>9} {'us ref':>9}")
    for row in rows:
        print(_row(row) if isinstance(row, Ratio) else _figure(row))
    return 0


def _row(ratio: Ratio) -> str:
    best, reference = ratio.best * 1e6, ratio.reference_best * 1e6
    limit = f"{'>=' if ratio.at_least else '<='}{ratio.limit:.1f}"
    kept = "" if ratio.kept else "  not reached"
    return f"{ratio.name:72} {ratio.value:>7.2f} {ratio.median:>7.2f} {limit:>7}  {best:>9.2f} {reference:>9.2f}{kept}"


def _figure(figure: Figure) -> str:
    sign = ">=" if figure.at_least else "<="
    limit = "" if figure.limit is None else f"{sign}{figure.limit:,.0f}"
    kept = "" if figure.kept else "  not reached"
    return f"{figure.name:72} {figure.value:>15,.1f} {limit:>7}{kept}"


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
