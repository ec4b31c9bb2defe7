"""The clients' history against the store, and what must be gone when all processes have ended."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable

from tools.messaging_checker.evidence import Command, Evidence, Stored

Found = Iterable[tuple[str, str]]


def history(evidence: Evidence) -> Found:
    """A client asks once for each (client, seq), and hears one answer or none."""
    asked = Counter((command.client, command.seq) for command in evidence.commands)
    for command, count in asked.items():
        if count > 1:
            yield "history", f"command {command} was invoked {count} times"
    for one in evidence.commands:
        if len(one.outcomes) > 1:
            yield "history", f"command {(one.client, one.seq)} has the outcomes {', '.join(one.outcomes)}"


def commands(evidence: Evidence) -> Found:
    """Ok is in the store as a whole, fail is not, unknown is there as a whole or not at all; nothing else is there."""
    parts: dict[tuple[int, int], list[Stored]] = defaultdict(list)
    for stored in evidence.stored:
        parts[stored.entry.client, stored.entry.seq].append(stored)
    for command in evidence.commands:
        yield from _command(command, parts.pop((command.client, command.seq), []))
    for name, left in parts.items():
        yield "phantom", f"{len(left)} stored events of command {name}, which nobody has sent"


def _command(command: Command, found: list[Stored]) -> Found:
    name = f"command {(command.client, command.seq)}"
    if not found:
        if command.outcome == "ok":
            yield "lost", f"{name} was acknowledged and is not in the store"
        return
    if command.outcome == "fail":
        yield "returned", f"{name} was refused or failed, and is in the store"
    wanted, present = set(range(1, command.parts + 1)), Counter(one.entry.part for one in found)
    if wanted - set(present):
        yield "torn", f"{name} has the parts {sorted(present)} of {command.parts}"
    if set(present) - wanted:
        yield "phantom", f"{name} has the parts {sorted(set(present) - wanted)} that it was not asked for"
    for part, count in present.items():
        if count > 1:
            yield "doubled", f"part {part} of {name} is in the store {count} times"
    if any(one.entry.key != command.key for one in found):
        yield "altered", f"{name} is for key {command.key} and was stored for another"


def streams(evidence: Evidence) -> Found:
    versions: dict[str, list[Stored]] = defaultdict(list)
    for stored in sorted(evidence.stored, key=lambda one: one.position):
        versions[stored.stream].append(stored)
    for stream, found in versions.items():
        yield from _versions(stream, found, evidence.streams.get(stream))
    for message_id, count in Counter(one.message_id for one in evidence.stored).items():
        if count > 1:
            yield "doubled", f"message {message_id} is in the store {count} times"


def _versions(stream: str, found: list[Stored], row: int | None) -> Found:
    if [one.version for one in found] != list(range(1, len(found) + 1)):
        yield "versions", f"{stream} has the versions {_short([one.version for one in found])} in order of positions"
    if row != len(found):
        yield "versions", f"the row of {stream} stands at {row}, and it has {len(found)} events"
    wrong = [one for one in found if one.entry.number != one.version]
    if wrong:
        yield "versions", f"version {wrong[0].version} of {stream} was decided as number {wrong[0].entry.number}"


def leaks(evidence: Evidence) -> Found:
    """Read after every process was asked to end and has ended."""
    for lease in evidence.leases_held:
        yield "leaked", f"lease {lease} is still held"
    for back_end in evidence.back_ends:
        yield "leaked", f"back end {back_end}"
    for what in evidence.unfinished:
        yield ("leaked" if what.startswith("process") else "unfinished"), what


def _short(numbers: list[int]) -> str:
    """Around the first that is out of place."""
    wrong = next((at for at, number in enumerate(numbers, start=1) if number != at), len(numbers))
    return f"…{numbers[max(0, wrong - 3) : wrong + 3]}…"
