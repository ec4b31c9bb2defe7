"""The store against both ledgers: the table in the handlers' own transactions, and the one outside."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable

from tools.messaging_checker.evidence import Effect, Evidence

Found = Iterable[tuple[str, str]]
DONE = "done"


def effects(evidence: Evidence) -> Found:
    """Exactly one for each message and handler; none for a message that the handler has given up."""
    stored = {one.message_id: one.entry for one in evidence.stored}
    counts = Counter((effect.handler, effect.message_id) for effect in evidence.effects)
    dead = {(letter.consumer, letter.message_id) for letter in evidence.dead_letters}
    for handler in evidence.terms.handlers:
        for message_id, entry in stored.items():
            count = counts[handler, message_id]
            if count > 1:
                yield "doubled", f"{handler} has {count} effects of {entry}"
            if count == 0 and (handler, message_id) not in dead:
                yield "lost", f"{handler} has no effect of {entry}"
                yield "hidden", f"{entry} is neither handled by {handler}, nor waiting for it, nor a dead letter"
    yield from _caused(evidence)


def _caused(evidence: Evidence) -> Found:
    stored = {one.message_id: one.entry for one in evidence.stored}
    for effect in evidence.effects:
        if effect.message_id not in stored:
            yield "phantom", f"effect {effect.n} of {effect.handler}, {effect.entry}, has no stored event"
        elif stored[effect.message_id] != effect.entry:
            yield "altered", f"effect {effect.n} of {effect.handler} says {effect.entry} of another event"
        if effect.handler not in evidence.terms.handlers:
            yield "phantom", f"effect {effect.n} is of {effect.handler}, which is no handler"


def order(evidence: Evidence) -> Found:
    """A handler has met the events of each key in their order, as both ledgers tell; a call's first time counts."""
    yield from _ascending("a table", sorted(evidence.effects, key=lambda one: one.n))
    calls = {(call.handler, call.message_id): call for call in reversed(evidence.calls)}
    firsts = [call for call in evidence.calls if calls[call.handler, call.message_id] is call]
    yield from _ascending("outside", [Effect(0, call.handler, call.message_id, call.entry) for call in firsts])


def _ascending(where: str, met: Iterable[Effect]) -> Found:
    reached: dict[tuple[str, int], int] = defaultdict(int)
    for effect in met:
        name = effect.handler, effect.entry.key
        if effect.entry.number < reached[name]:
            yield "inverted", f"{effect.handler} met {effect.entry} after number {reached[name]} of its key ({where})"
        reached[name] = max(effect.entry.number, reached[name])


def outside(evidence: Evidence) -> Found:
    """At least one call for each message that was handled, with its id; repeats are bounded."""
    stored = {one.message_id: one.entry for one in evidence.stored}
    called = {(call.handler, call.message_id) for call in evidence.calls if call.answered == "ok"}
    for handler in evidence.terms.outside:
        for effect in evidence.effects:
            if effect.handler == handler and (handler, effect.message_id) not in called:
                yield "lost", f"{handler} is done with {effect.entry} and has not called outside"
    for call in evidence.calls:
        if call.message_id not in stored:
            yield "phantom", f"{call.handler} called outside for {call.entry}, which has no stored event"
        elif stored[call.message_id] != call.entry:
            yield "altered", f"{call.handler} called outside for {call.entry} with the id of another event"
    count, allowed = repeat_count(evidence), repeats_allowed(evidence)
    if count > allowed:
        yield "repeats", f"{count} calls were repeated, and {allowed} are allowed"


def repeat_count(evidence: Evidence) -> int:
    """A call that was refused must be made again, so it is not counted."""
    counts = Counter((call.handler, call.message_id) for call in evidence.calls if call.answered == "ok")
    return sum(count - 1 for count in counts.values())


def repeats_allowed(evidence: Evidence) -> int:
    """A consumer that comes or goes moves partitions of all: what was begun in any may be begun again elsewhere."""
    touched = sum(fault.role in {"consumer", "kafka", "postgres", "reading"} for fault in evidence.faults)
    return touched * evidence.terms.in_flight


def dead_letters(evidence: Evidence) -> Found:
    """Only poison is given up, only by the handler that it is poison to, and never what was handled."""
    stored = {one.message_id: one.entry for one in evidence.stored}
    handled = {(effect.handler, effect.message_id) for effect in evidence.effects}
    for letter in evidence.dead_letters:
        entry = stored.get(letter.message_id)
        if entry is None:
            yield "phantom", f"a dead letter of {letter.consumer} has no stored event ({letter.message_id})"
        elif letter.consumer not in evidence.terms.outside or not _behind_poison(evidence, entry.key):
            yield "dead", f"{letter.consumer} gave up {entry}: {letter.code}"
        if (letter.consumer, letter.message_id) in handled:
            yield "dead", f"{letter.consumer} has handled and given up {entry}"
    counts = Counter((letter.consumer, letter.message_id) for letter in evidence.dead_letters)
    for name, count in counts.items():
        if count > 1:
            yield "doubled", f"{count} dead letters of {name[0]} for {stored.get(name[1])}"
    yield from _keys(evidence)


def _behind_poison(evidence: Evidence, key: int) -> bool:
    """Poison itself, or what a policy of order parks behind it."""
    return key == evidence.terms.poison_key


def _keys(evidence: Evidence) -> Found:
    """A blocked key without a dead letter waits for ever, and nobody can see why."""
    givers = {letter.consumer for letter in evidence.dead_letters}
    for owner, key in evidence.blocked_keys:
        if owner not in givers:
            yield "hidden", f"{owner} blocks the key {key} and has no dead letter"


def inbox(evidence: Evidence) -> Found:
    """Where there are rows for each message, those of handled messages have an effect, and the other way round."""
    handled = {(effect.handler, effect.message_id) for effect in evidence.effects}
    known = {handler for handler, _ in evidence.inbox}
    for (consumer, message_id), status in evidence.inbox.items():
        if status == DONE and consumer in evidence.terms.handlers and (consumer, message_id) not in handled:
            yield "inbox", f"{consumer} is done with {message_id} and has no effect"
    for name in handled:
        if name[0] in known and evidence.inbox.get(name) != DONE:
            yield "inbox", f"{name[0]} has an effect of {name[1]} and is not done with it"
