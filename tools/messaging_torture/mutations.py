"""The framework made wrong on purpose, to see that the torture finds it.

Each mutation is applied in a worker process before its application is imported. It names what it patches by parts of
its source; where one of them is gone, it says so and nothing runs: a mutation that changes nothing proves nothing.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select, update


class MutationTargetGoneError(Exception):
    """The code that a mutation patches was rewritten; the mutation must be rewritten after it."""


@dataclass(frozen=True, slots=True)
class Mutation:
    """`breaks` are the promises of which one must be found broken, within so many `seeds`."""

    name: str
    what: str
    breaks: tuple[str, ...]
    apply: Callable[[], None]
    seeds: int = 5


def target(owner: Any, name: str, *parts: str) -> Any:
    """An attribute that is about to be replaced, whose source has all these parts."""
    found = getattr(owner, name, None)
    if found is None:
        raise MutationTargetGoneError(f"{owner.__name__} has no {name} any more")
    source = inspect.getsource(found)
    missing = [part for part in parts if part not in source]
    if missing:
        raise MutationTargetGoneError(f"{owner.__name__}.{name} has no {missing[0]!r} any more")
    return found


def mark_before_send() -> None:
    """The relay deletes what it has claimed, and sends it then."""
    from cqrs_fastapi.brokers.broker import Delivery, Outcome
    from cqrs_fastapi.outbox.relay import Relay

    target(Relay, "_step", "self._publish(publisher, batch, stop)", "self._record(batch, outcomes)")
    publish = target(Relay, "_publish", "publisher.publish(")
    record = target(Relay, "_record", "Delivery.ACKNOWLEDGED", "remove(")

    async def mutated(self: Any, publisher: Any, batch: Sequence[Any], stop: asyncio.Event) -> Any:
        await record(self, batch, [Outcome(Delivery.ACKNOWLEDGED)] * len(batch))
        return await publish(self, publisher, batch, stop)

    Relay._publish = mutated  # type: ignore[method-assign]


def offset_before_inbox() -> None:
    """The consumer lets the offsets pass what it has received, and handles it then."""
    from cqrs_fastapi.inbox.consumer import Consumer

    target(Consumer, "_turn", "subscription.settle(await self._settle_all(messages))")
    receive = target(Consumer, "_receive", "subscription.receive()")

    async def mutated(self: Any, subscription: Any) -> Any:
        messages = await receive(self, subscription)
        await subscription.settle(messages)
        return messages

    Consumer._receive = mutated  # type: ignore[method-assign]


def no_fencing() -> None:
    """Whoever has held the relays' lease once believes in it for ever, and nobody asks."""
    from cqrs_fastapi.outbox import relay
    from cqrs_fastapi.storage import leases

    hold = target(relay.Relay, "_hold", "leases.acquire(", "leases.renew(")
    target(leases, "fenced", "with_for_update(read=True)")
    target(relay.Relay, "_record", "leases.fenced(connection, tables, lease)")

    async def mutated(self: Any) -> bool:
        return self._lease is not None or await hold(self)

    relay.Relay._hold = mutated  # type: ignore[method-assign]
    leases.fenced = lambda *_: None  # type: ignore[assignment]


def skip_locked_without_buckets() -> None:
    """Each relay takes the oldest rows that no other has locked, as most outboxes do."""
    from cqrs_fastapi.outbox import relay, rows

    target(relay.Relay, "_step", "self._hold()", "self._claim()", "self._record(")
    target(rows, "next_batch", "order_by(outbox.c.position)")

    async def mutated(self: Any, publisher: Any, stop: asyncio.Event) -> None:
        self._woken.clear()
        outbox, limit = self.database.tables.outbox, self.settings.relay_batch
        taken = select(outbox.c.position).order_by(outbox.c.position).limit(limit).with_for_update(skip_locked=True)
        try:
            async with self.database.engine.begin() as connection:
                positions = set((await connection.execute(taken)).scalars())
                oldest = await connection.run_sync(rows.next_batch, self.database.tables, 20 * limit)
                batch = [pending for pending in oldest if pending.position in positions]
                outcomes = await self._publish_all(publisher, batch) if batch else []
                sent = [one.position for one, is_sent in zip(batch, outcomes, strict=True) if is_sent]
                await connection.run_sync(rows.remove, self.database.tables, sent)
        except Exception as error:  # noqa: BLE001  # whatever it is, it is tried again
            await self._failed(error, stop)
            return
        if not batch:
            await self._wait(self.settings.relay_poll.total_seconds(), stop)

    async def publish_all(_: Any, publisher: Any, batch: Sequence[Any]) -> list[bool]:
        outcomes = await publisher.publish([pending.message for pending in batch])
        return [outcome.delivery is relay.Delivery.ACKNOWLEDGED for outcome in outcomes]

    relay.Relay._step = mutated  # type: ignore[method-assign]
    relay.Relay._publish_all = publish_all  # type: ignore[attr-defined]


def attempt_cap() -> None:
    """A message that could not be sent five times is never looked at again."""
    from cqrs_fastapi.outbox import relay, rows

    publish = target(relay.Relay, "_publish", "publisher.publish(")
    claim = target(relay.Relay, "_claim", "next_batch(c, tables, limit)")
    target(rows, "next_batch", "select(", "outbox.c.position")

    async def counted(self: Any, publisher: Any, batch: Sequence[Any], stop: asyncio.Event) -> Any:
        outbox = self.database.tables.outbox
        positions = [pending.position for pending in batch]
        counting = update(outbox).where(outbox.c.position.in_(positions)).values(attempts=outbox.c.attempts + 1)
        await self.database.write(lambda connection: connection.execute(counting).rowcount)
        return await publish(self, publisher, batch, stop)

    async def capped(self: Any) -> list[Any]:
        outbox = self.database.tables.outbox
        given_up = select(outbox.c.position).where(outbox.c.attempts >= 5)  # noqa: PLR2004
        positions = await self.database.read(lambda connection: set(connection.execute(given_up).scalars()))
        return [pending for pending in await claim(self) if pending.position not in positions]

    relay.Relay._publish = counted  # type: ignore[method-assign]
    relay.Relay._claim = capped  # type: ignore[method-assign]


_ALL = (
    Mutation("mark-before-send", "the relay deletes before it sends", ("lost", "hidden"), mark_before_send),
    Mutation("offset-before-inbox", "the consumer commits before it handles", ("lost", "hidden"), offset_before_inbox),
    Mutation("no-fencing", "a lease is believed in for ever", ("duplicates",), no_fencing),
    Mutation(
        "skip-locked-without-buckets",
        "each relay takes any rows that are not locked",
        ("inverted",),
        skip_locked_without_buckets,
    ),
    Mutation("attempt-cap", "a row is given up after five attempts", ("lost", "unfinished", "inverted"), attempt_cap),
)

MUTATIONS: Mapping[str, Mutation] = {mutation.name: mutation for mutation in _ALL}
