"""Writes what was measured into the page, between two marks, with its date."""

from __future__ import annotations

import datetime as dt
import os
import platform
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from tools.messaging_checker.verdict import PROMISES
from tools.messaging_torture.campaign import Killed
from tools.messaging_torture.run import Outcome
from tools.servers import Servers

PAGE = Path(__file__).parents[2] / "docs" / "torture-messaging.md"


def publish(part: str, lines: Iterable[str], page: Path = PAGE) -> None:
    """Replaces what stands between `<!-- part -->` and `<!-- end of part -->`. ValueError if the page has no such."""
    begin, end = f"<!-- {part} -->\n", f"<!-- end of {part} -->\n"
    text = page.read_text()
    if begin not in text or end not in text:
        raise ValueError(f"{page.name} has no place for {part}: {begin.strip()} … {end.strip()}")
    before, rest = text.split(begin)
    _, after = rest.split(end)
    page.write_text(before + begin + "\n" + "\n".join(lines) + "\n\n" + end + after)


def conditions(servers: Servers) -> str:
    """When and where."""
    named = [str(server).partition(": ")[2] for name in ("postgres", "kafka") if (server := servers.running(name))]
    today = dt.datetime.now(tz=dt.UTC).date()
    return (
        f"Of {today}: PostgreSQL ({named[0]}), {named[1]}, Python {platform.python_version()}, {os.cpu_count()} cores."
    )


def run_lines(outcome: Outcome, where: str) -> Iterator[str]:
    plan = outcome.plan
    yield (
        f"{where} {plan.writers} writers, {plan.relays} relays, {plan.consumers} consumers; seed {plan.seed}, "
        f"{outcome.seconds:.0f} s of load and faults, nothing waited {outcome.drained_after:.0f} s after the last. "
        f"**{'BROKEN' if outcome.is_broken else 'OK'}**"
    )
    yield ""
    yield from _table(("figure", ""), [(name, f"{figure:,}") for name, figure in outcome.figures.items()])
    yield ""
    yield from _table(("fault", "times"), [(name, f"{count:,}") for name, count in sorted(outcome.faults.items())])
    yield ""
    yield from _table(
        ("promise", "broken", "what that is"),
        [(name, f"{count:,}", PROMISES[name]) for name, count in outcome.broken.items()],
    )
    yield ""
    yield from _bound(outcome)


def _bound(outcome: Outcome) -> Iterator[str]:
    """The rule of three: nothing in n tries says that at most 3 in n are to be expected."""
    messages = outcome.figures["messages acknowledged"]
    if messages and not outcome.is_broken:
        yield f"None in {messages:,} messages is, with 95 % confidence, fewer than {3e6 / messages:,.0f} in a million."
    if outcome.ended_alone:
        yield f"Processes that ended by themselves and were started again: {len(outcome.ended_alone)}."


def mutation_lines(killed: Sequence[Killed], where: str) -> Iterator[str]:
    yield where
    yield ""
    rows = []
    for one in killed:
        found = ", ".join(f"{name} {count:,}" for name, count in one.by.items()) or "**survived**"
        seeds = f"{len(one.outcomes)} of {one.mutation.seeds}"
        faults = sum(outcome.figures["faults"] for outcome in one.outcomes)
        rows.append((f"{one.mutation.name}", one.mutation.what, found, seeds, f"{faults:,}"))
    yield from _table(("mutation", "what is wrong", "found", "seeds", "faults"), rows)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"
