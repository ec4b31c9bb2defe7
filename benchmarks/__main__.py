"""`make bench`: runs everything and prints one table."""

from __future__ import annotations

import asyncio
import logging
import platform
import sys
from importlib.metadata import version

import structlog

from benchmarks import append, dispatch, http
from benchmarks.timing import Ratio

PACKAGES = ("fastapi", "pydantic", "sqlalchemy", "uvicorn", "asyncpg", "aiosqlite")


async def main() -> int:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    ratios = [*await dispatch.run(), *await http.run(), *await append.run()]
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    print(f"Python {platform.python_version()}, {versions}\n")
    print(f"{'':72} {'ratio':>7} {'median':>7} {'limit':>7}  {'us':>9} {'us ref':>9}")
    for ratio in ratios:
        print(_row(ratio))
    return 0


def _row(ratio: Ratio) -> str:
    best, reference = ratio.best * 1e6, ratio.reference_best * 1e6
    limit = f"{'>=' if ratio.at_least else '<='}{ratio.limit:.1f}"
    kept = "" if ratio.kept else "  not reached"
    return f"{ratio.name:72} {ratio.value:>7.2f} {ratio.median:>7.2f} {limit:>7}  {best:>9.2f} {reference:>9.2f}{kept}"


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
