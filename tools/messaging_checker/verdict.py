"""Every broken promise with its name and a sentence; the figures beside it. Linear in what there is to judge."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from tools.messaging_checker import at_the_broker, at_the_handlers, at_the_store
from tools.messaging_checker.evidence import Evidence

Finding = tuple[str, str]
"""The name of a promise and how it was broken."""

CHECKS: tuple[Callable[[Evidence], Iterable[Finding]], ...] = (
    at_the_store.history,
    at_the_store.commands,
    at_the_store.streams,
    at_the_broker.delivery,
    at_the_broker.order,
    at_the_broker.duplicates,
    at_the_handlers.effects,
    at_the_handlers.order,
    at_the_handlers.outside,
    at_the_handlers.dead_letters,
    at_the_handlers.inbox,
    at_the_store.leaks,
)

PROMISES = {
    "lost": "an acknowledged command is missing from the store, a stored event from the topic, or a message's effect",
    "phantom": "an event, a record, an effect or a call that no committed command has caused",
    "returned": "a command that was refused or had failed is in the store",
    "torn": "a command is in the store in part",
    "doubled": "one effect, or one event, is there twice",
    "versions": "a stream's versions are not 1..n, or its row or its events' numbers contradict them",
    "inverted": "first occurrences of a key are out of order: on the topic, in a table, or outside",
    "scattered": "a key is in more than one partition",
    "altered": "a record, an effect or a call says something else than the event",
    "duplicates": "more records were sent again than faults times work in flight, or without a fault in between",
    "repeats": "more calls outside were repeated than faults times work in flight",
    "hidden": "a message is neither delivered, nor retryable, nor a dead letter; or a key is blocked by nothing",
    "dead": "a message is a dead letter that should have been handled, or was handled and is a dead letter too",
    "inbox": "the inbox says that a message was handled, and there is no effect; or the other way round",
    "leaked": "a lease, a back end or a process is left when all have ended",
    "unfinished": "something still waited when everything was whole and time enough had passed",
    "history": "the clients' own record contradicts itself",
}


@dataclass(frozen=True, slots=True)
class Verdict:
    findings: tuple[Finding, ...]
    figures: dict[str, int]

    @property
    def broken(self) -> bool:
        return bool(self.findings)

    def counts(self) -> dict[str, int]:
        """How often each promise was broken; zeros are told, too."""
        counted = dict.fromkeys(PROMISES, 0)
        for name, _ in self.findings:
            counted[name] += 1
        return counted


def judge(evidence: Evidence) -> Verdict:
    findings = tuple(finding for check in CHECKS for finding in check(evidence))
    return Verdict(findings, dict(_figures(evidence)))


def _figures(evidence: Evidence) -> Iterator[tuple[str, int]]:
    outcomes = [command.outcome for command in evidence.commands]
    for outcome in ("ok", "fail", "unknown"):
        yield f"commands {outcome}", outcomes.count(outcome)
    yield "events stored", len(evidence.stored)
    acknowledged = {(one.client, one.seq) for one in evidence.commands if one.outcome == "ok"}
    yield "messages acknowledged", sum((one.entry.client, one.entry.seq) in acknowledged for one in evidence.stored)
    yield "records on the topic", len(evidence.records)
    yield "duplicates on the topic", at_the_broker.duplicate_count(evidence)
    yield "duplicates allowed", at_the_broker.duplicates_allowed(evidence)
    yield "effects in tables", len(evidence.effects)
    yield "calls outside", len(evidence.calls)
    yield "calls refused", sum(call.answered == "error" for call in evidence.calls)
    yield "calls repeated", at_the_handlers.repeat_count(evidence)
    yield "repeats allowed", at_the_handlers.repeats_allowed(evidence)
    yield "dead letters", len(evidence.dead_letters)
    yield "faults", len(evidence.faults)
