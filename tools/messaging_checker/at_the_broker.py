"""The store against the topic: all of it, nothing else, in order; what was sent again has a cause."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator

from tools.messaging_checker.evidence import Evidence, Fault, Record

Found = Iterable[tuple[str, str]]
RELAY = "relay"
"""What dead letters of the relay are filed under."""


def delivery(evidence: Evidence) -> Found:
    """Each stored event is on the topic. If not, it must wait in the outbox or be a dead letter, or it is hidden."""
    on_topic = {record.message_id for record in evidence.records}
    waiting = set(evidence.outbox)
    dead = {letter.message_id for letter in evidence.dead_letters if letter.consumer == RELAY}
    stored = {one.message_id: one.entry for one in evidence.stored}
    for message_id, entry in stored.items():
        if message_id not in on_topic:
            yield "lost", f"{entry} is stored and not on the topic"
            if message_id not in waiting and message_id not in dead:
                yield "hidden", f"{entry} is neither on the topic, nor in the outbox, nor a dead letter"
    for record in evidence.records:
        entry = stored.get(record.message_id)
        if entry is None:
            yield "phantom", f"record {record.partition}/{record.offset} of {record.entry} has no stored event"
        elif entry != record.entry:
            yield "altered", f"record {record.partition}/{record.offset} says {record.entry}, the store {entry}"
    if waiting:
        yield "unfinished", f"{len(waiting)} messages wait in the outbox"


def order(evidence: Evidence) -> Found:
    """Of each key all records are in one partition, and what is not there for the second time ascends."""
    partitions: dict[int, set[int]] = defaultdict(set)
    reached: dict[int, int] = defaultdict(int)
    for record in first_occurrences(evidence.records):
        partitions[record.entry.key].add(record.partition)
        if record.entry.number < reached[record.entry.key]:
            yield "inverted", f"{record.entry} came after number {reached[record.entry.key]} of its key on the topic"
        reached[record.entry.key] = max(record.entry.number, reached[record.entry.key])
    for key, found in partitions.items():
        if len(found) > 1:
            yield "scattered", f"key {key} is in the partitions {sorted(found)}"


def first_occurrences(records: Iterable[Record]) -> Iterator[Record]:
    seen: set[str] = set()
    for record in sorted(records, key=lambda one: (one.partition, one.offset)):
        if record.message_id not in seen:
            seen.add(record.message_id)
            yield record


def duplicates(evidence: Evidence) -> Found:
    """Bounded as a whole by faults times work in flight; and each has a fault between its two sendings."""
    count, allowed = duplicate_count(evidence), duplicates_allowed(evidence)
    if count > allowed:
        yield "duplicates", f"{count} records were sent again, and {allowed} are allowed"
    moments = [fault for fault in evidence.faults if _in_flight(evidence, fault)]
    for before, record in _repetitions(evidence.records):
        if not any(_between(evidence, fault, before.at, record.at) for fault in moments):
            yield "duplicates", f"{record.entry} was sent again after {record.at - before.at:.2f} s without a fault"


def duplicate_count(evidence: Evidence) -> int:
    return len(evidence.records) - len({record.message_id for record in evidence.records})


def duplicates_allowed(evidence: Evidence) -> int:
    return sum(_in_flight(evidence, fault) for fault in evidence.faults)


def _in_flight(evidence: Evidence, fault: Fault) -> int:
    """How many messages relays may have had in their hands, sent and not yet deleted, when this happened to them."""
    terms = evidence.terms
    if fault.role == "relay":
        return terms.relay_batch
    if fault.role in {"kafka", "postgres"}:
        return terms.relay_batch * terms.relays
    if fault.role == "writing":
        return terms.relay_batch * min(fault.count, terms.relays)
    return 0


def _between(evidence: Evidence, fault: Fault, sent: float, again: float) -> bool:
    return fault.at <= again and sent <= fault.until + evidence.terms.seconds_to_notice


def _repetitions(records: Iterable[Record]) -> Iterator[tuple[Record, Record]]:
    last: dict[str, Record] = {}
    for record in sorted(records, key=lambda one: (one.partition, one.offset)):
        if record.message_id in last:
            yield last[record.message_id], record
        last[record.message_id] = record
