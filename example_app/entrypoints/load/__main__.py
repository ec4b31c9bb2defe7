"""`python -m example_app.entrypoints.load` loads a running shop with 1,000 orders and checks every one of them."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from cqrs_fastapi import Settings
from example_app.entrypoints.load.check import Check
from example_app.entrypoints.load.client import Client
from example_app.entrypoints.load.drive import Driver, SetupFailedError
from example_app.entrypoints.load.journal import Journal
from example_app.entrypoints.load.plan import make_plan

AT_ONCE = 16
_MOST_SHOWN = 20


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m example_app.entrypoints.load", description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="the shop (default: %(default)s)")
    parser.add_argument("--orders", type=int, default=1000, help="how many orders to place (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="what is ordered follows from it (default: %(default)s)")
    parser.add_argument("--timeout", type=float, default=120, help="seconds to settle in (default: %(default)s)")
    parser.add_argument("--journal", type=Path, help="append each acknowledgement to this file, as a line of JSON")
    parser.add_argument("--check-only", action="store_true", help="order nothing, check what the journal holds")
    parsed = parser.parse_args(given)
    if parsed.check_only and parsed.journal is None:
        parser.error("--check-only needs --journal FILE, which says what was acknowledged")
    return parsed


async def main(options: argparse.Namespace) -> int:
    """The exit status: 0 if all is well, 1 if something is missing or the shop cannot be loaded."""
    client = Client(options.url, AT_ONCE)
    journal = Journal()
    try:
        with ExitStack() as stack:
            if options.check_only:
                journal.read(options.journal)
            elif options.journal is not None:
                journal.file = stack.enter_context(options.journal.open("a"))
            if not options.check_only:
                await _load(client, journal, seed=options.seed, orders=options.orders)
        return await _check(Check(client, journal.acknowledged, Settings().broker_url, options.timeout))
    except SetupFailedError as error:
        print(f"FAILED: {error}", file=sys.stderr)
        return 1
    finally:
        await client.close()


async def _load(client: Client, journal: Journal, *, seed: int, orders: int) -> None:
    plan, driver = make_plan(seed, orders), Driver(client, journal)
    products, customers = await driver.open_shop(plan)
    print(f"catalogue: {len(products)} products, {len(customers)} customers", flush=True)
    began = time.monotonic()
    await driver.order(plan, products, customers, AT_ONCE)
    seconds = time.monotonic() - began
    counts = {event: journal.count(f"order.{event}") for event in ("placed", "paid", "cancelled")}
    print("acknowledged: " + ", ".join(f"{count} {event}" for event, count in counts.items()))
    if driver.counts:
        print("besides: " + ", ".join(f"{count} {what}" for what, count in sorted(driver.counts.items())))
    print(f"rate: {counts['placed'] / seconds:.0f} orders/s in {seconds:.1f} s, {AT_ONCE} at once", flush=True)


async def _check(check: Check) -> int:
    began = time.monotonic()
    wrong = await check.run()
    ended = ", ".join(f"{count} {status}" for status, count in sorted(check.statuses().items()))
    print(f"event store and read model: {len(check.settled)} of {len(check.acknowledged)} orders ({ended or 'none'})")
    print(f"list of orders: {check.listed}")
    if check.reads_topic:
        print(f"topic: {check.on_topic} messages, once and in order; {check.sent_again} were sent again")
    print(f"settled and checked in {time.monotonic() - began:.1f} s")
    for sentence in wrong[:_MOST_SHOWN]:
        print(sentence, file=sys.stderr)
    if len(wrong) > _MOST_SHOWN:
        print(f"and {len(wrong) - _MOST_SHOWN} more", file=sys.stderr)
    if not check.acknowledged:
        print("FAILED: no order was acknowledged, so nothing was checked", file=sys.stderr)
    if wrong or not check.acknowledged:
        return 1
    print("OK")
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main(arguments())))
