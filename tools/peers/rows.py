"""The rows of the table: what is done, and what is left."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from tools.peers.place import Place, send_ours, until_still
from tools.peers.systems.numbers import texts
from tools.servers.sql import ask

EVENTS, STREAMS, MESSAGES = 1000, 100, 100
OUTAGE_SECONDS = 30.0
_STILL = 15.0


@dataclass(frozen=True, slots=True)
class Row:
    """`work` gets a place with nothing in it and returns what is left, as a sentence."""

    name: str
    work: Callable[[Place], str]
    relays: bool
    """Whether it is about sending an outbox, which not every system has."""


def broker_outage(place: Place) -> str:
    place.run("fill", str(EVENTS), str(STREAMS))
    place.broker.down()
    try:
        with place.running("relay"):
            time.sleep(OUTAGE_SECONDS)
            place.broker.up()
            return _sent(place)
    finally:
        if not place.broker.process.alive():
            place.broker.up()


def two_relays(place: Place) -> str:
    place.run("fill", str(EVENTS), str(STREAMS))
    with ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(place.running("relay"))
        return _sent(place)


def one_error_per_stream(place: Place) -> str:
    place.run("fill", str(EVENTS), str(STREAMS))
    with place.running("relay", PEERS_FAULT="stream-error"):
        return _sent(place)


def killed_before_the_mark(place: Place) -> str:
    place.run("fill", str(EVENTS), str(STREAMS))
    with place.running("relay", PEERS_FAULT="kill-after-ack") as first:
        first.wait(60)
    with place.running("relay"):
        return _sent(place)


def error_once(place: Place) -> str:
    return _consumed(place, "second:1")


def error_for_long(place: Place) -> str:
    return _consumed(place, "tenth:8")


def _consumed(place: Place, fails: str) -> str:
    if place.system.program != "python_cqrs":
        messages = [text for _, text in texts(MESSAGES, 1)]
        asyncio.run(send_ours(place.broker.url, place.topic, messages))
    with place.running("consume", *_count(place), PEERS_FAILS=fails):
        until_still(lambda: len(set(place.handled())), MESSAGES, still=_STILL)
    handled = place.handled()
    told = f"{len(set(handled))} of {MESSAGES} handled"
    if again := len(handled) - len(set(handled)):
        told += f", {again} again"
    missing = MESSAGES - len(set(handled))
    return f"{told}, **{missing} {_what_became_of_the_rest(place)}**" if missing else told


def _count(place: Place) -> list[str]:
    """Its inbox is filled by itself."""
    return [str(MESSAGES)] if place.system.program == "python_cqrs" else []


def _what_became_of_the_rest(place: Place) -> str:
    if place.system.program == "ours":
        letters = ask(place.database, "SELECT count(*) FROM cqrs_dead_letters")
        return f"not ({letters} dead letters, to be replayed)"
    if place.system.program == "python_cqrs":
        left = ask(place.database, "SELECT count(*) FROM inbox WHERE flush_counter >= 5")
        return f"never ({left} rows in the inbox that nothing selects)"
    return "lost"


def _sent(place: Place) -> str:
    until_still(lambda: len(set(place.sent())), EVENTS, still=_STILL)
    return told_of(place.sent(), EVENTS)


def told_of(sent: Sequence[tuple[int, int]], wanted: int) -> str:
    """How many are there, how often again, and in how many streams the first occurrences are out of order."""
    firsts = list(dict.fromkeys(sent))
    by_stream: dict[int, list[int]] = {}
    for stream, number in firsts:
        by_stream.setdefault(stream, []).append(number)
    inverted = sum(numbers != sorted(numbers) for numbers in by_stream.values())
    parts = [_told("lost", wanted - len(firsts)), _told("repeated", len(sent) - len(firsts))]
    return ", ".join([*parts, _told("streams out of order", inverted)])


def _told(what: str, count: int) -> str:
    return f"**{count:,} {what}**" if count else f"0 {what}"


ROWS = (
    Row(f"Kafka is away for {OUTAGE_SECONDS:.0f} s, then comes back", broker_outage, relays=True),
    Row("two relays at once", two_relays, relays=True),
    Row("one transient error for each stream", one_error_per_stream, relays=True),
    Row("`kill -9` between the acknowledgement and the mark", killed_before_the_mark, relays=True),
    Row("each second message fails once in its handler", error_once, relays=False),
    Row("each tenth message fails eight times", error_for_long, relays=False),
)
