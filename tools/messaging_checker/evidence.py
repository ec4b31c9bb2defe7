"""What was found after a run, as plain rows. Everything that is judged is in here, so that a test can plant a fault."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Entry:
    """What each event carries: whose command it is, which of its parts, and its number in its key, from 1."""

    client: int
    seq: int
    part: int
    key: int
    number: int


@dataclass(frozen=True, slots=True)
class Command:
    """What a client wrote down. The outcome is `ok`, `fail` (surely not done), or `unknown` (no answer)."""

    client: int
    seq: int
    key: int
    parts: int
    outcomes: tuple[str, ...] = ()

    @property
    def outcome(self) -> str:
        return self.outcomes[0] if self.outcomes else "unknown"


@dataclass(frozen=True, slots=True)
class Stored:
    """A committed event."""

    position: int
    stream: str
    version: int
    message_id: str
    entry: Entry


@dataclass(frozen=True, slots=True)
class Record:
    """A record of the topic. `at` is when its producer made it, in seconds since the epoch."""

    partition: int
    offset: int
    at: float
    key: str
    message_id: str
    entry: Entry


@dataclass(frozen=True, slots=True)
class Effect:
    """A row that a handler wrote in its own transaction. `n` ascends in the order in which rows were written."""

    n: int
    handler: str
    message_id: str
    entry: Entry


@dataclass(frozen=True, slots=True)
class Call:
    """A line of the ledger outside, which never deduplicates; `answered` is what it said: `ok` or `error`."""

    handler: str
    message_id: str
    entry: Entry
    answered: str


@dataclass(frozen=True, slots=True)
class DeadLetter:
    consumer: str
    message_id: str
    code: str = ""


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that was done to a role: `relay`, `consumer`, `writer`, `kafka`, `postgres`, `writing`, `reading`.

    The last two are back ends of that service's database that were terminated; `count` tells how many. `until` is when
    it was over: the process ran again, the server answered again.
    """

    kind: str
    role: str
    at: float
    until: float
    count: int = 1


@dataclass(frozen=True, slots=True)
class Terms:
    """What the run was like: who reacts to events, and how much a process may hold in its hands at once.

    Of the key `poison_key` every message whose number is divisible by `poison_every` is refused by the ledger outside
    for ever, so its handler must give it up, and nobody else may.
    """

    handlers: tuple[str, ...] = ("journal", "books", "notices")
    outside: tuple[str, ...] = ("notices",)
    poison_key: int = -1
    poison_every: int = 10
    relays: int = 4
    consumers: int = 3
    relay_batch: int = 50
    """Sent by one relay, and not deleted yet."""
    in_flight: int = 24
    """Begun by all consumers together."""
    seconds_to_notice: float = 6.0
    """How long after a fault a process may first notice it: a connection that was cut is found out when it is used."""


@dataclass(slots=True)
class Evidence:
    """`streams` has the version in each stream's own row; `inbox` has (consumer, message id) to status."""

    terms: Terms
    commands: list[Command] = field(default_factory=list)
    stored: list[Stored] = field(default_factory=list)
    streams: dict[str, int] = field(default_factory=dict)
    records: list[Record] = field(default_factory=list)
    effects: list[Effect] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    outbox: list[str] = field(default_factory=list)
    dead_letters: list[DeadLetter] = field(default_factory=list)
    blocked_keys: list[tuple[str, str]] = field(default_factory=list)
    inbox: Mapping[tuple[str, str], str] = field(default_factory=dict)
    leases_held: list[str] = field(default_factory=list)
    back_ends: list[str] = field(default_factory=list)
    unfinished: list[str] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)

    def is_poison(self, entry: Entry) -> bool:
        return entry.key == self.terms.poison_key and entry.number % self.terms.poison_every == 0
