"""An outcome for people: a small table, what was left out, and one word at the end."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict

from cqrs_fastapi.testing.torture.plan import Plan
from cqrs_fastapi.testing.torture.run import Outcome

_EXPLAINED = ("lost", "inverted")
"""Faults that are shown when they are 0, too."""


def report(plan: Plan, outcome: Outcome) -> str:
    """Its last line is `OK` or `BROKEN`."""
    rows = [f"{name:<16} {value}" for name, value in _rows(plan, outcome)]
    notes = [f"note: {note}" for note in outcome.notes]
    return "\n".join([*rows, *notes, "OK" if outcome.is_ok else "BROKEN"])


def _rows(plan: Plan, outcome: Outcome) -> Iterator[tuple[str, str]]:
    verdict = outcome.verdict
    yield "reader", plan.reader
    grouped = "" if plan.group_commit else ", no group commit"
    yield "writers", f"{plan.writers}, seed {plan.seed}{grouped}"
    rate = verdict.committed / max(outcome.seconds, 0.001)
    yield "committed", f"{verdict.committed:,} events in {outcome.seconds:.0f} s, {rate:,.0f} in a second"
    yield "delivered", f"{verdict.delivered:,}"
    for name, value in asdict(verdict.faults).items():
        if value or name in _EXPLAINED:
            yield name, f"{value:,}{_kinds(verdict.lost_by) if name == 'lost' else ''}"
    yield "longest wait", f"{verdict.longest_wait * 1000:,.0f} ms"
    yield "attempts", ", ".join(f"{value:,} {name}" for name, value in sorted(outcome.outcomes.items()))
    yield "killed", f"{outcome.kills:,} back ends"
    if outcome.foreign_seconds:
        held = "and was waited for" if outcome.waited_for_foreign else "and nobody waited for it"
        yield "foreign", f"a transaction on another table was open for {outcome.foreign_seconds:.0f} s, {held}"


def _kinds(lost_by: dict[str, int]) -> str:
    """Whose events were lost."""
    if not lost_by:
        return ""
    return f" ({', '.join(f'{value:,} {name}' for name, value in sorted(lost_by.items(), key=lambda it: -it[1]))})"
