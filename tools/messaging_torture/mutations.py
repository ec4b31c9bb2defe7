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

from sqlalchemy import delete, select, update


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


_SENDING = ("await publish(publisher, self.envelopes, batch, stop)", "await self._take_away(sent, held, stop)")


def mark_before_send() -> None:
    """The relay deletes what it has claimed, and sends it then."""
    from cqrs_fastapi.outbox.lane import Lane
    from cqrs_fastapi.outbox.sending import Sent

    send = target(Lane, "_send", *_SENDING)
    take_away = target(Lane, "_take_away", "sent.acknowledged")

    async def mutated(self: Any, publisher: Any, batch: Sequence[Any], held: Any, stop: asyncio.Event) -> None:
        await take_away(self, Sent(acknowledged=list(batch)), held, stop)
        await send(self, publisher, batch, held, stop)

    Lane._send = mutated  # type: ignore[method-assign]


def offset_before_inbox() -> None:
    """The consumer lets the offsets pass what it has received, and handles it then."""
    from cqrs_fastapi.inbox.consumer import Consumer

    target(Consumer, "_receive", "await subscription.receive()")
    target(Consumer, "_settle_lanes", "await subscription.settle(passed)")
    subscribe = target(Consumer, "_subscribe", "self.broker.subscribe(")

    async def mutated(self: Any, stop: asyncio.Event) -> Any:
        subscription = await subscribe(self, stop)
        if subscription is None:
            return None
        receive = subscription.receive

        async def receive_and_settle() -> Any:
            messages = await receive()
            await subscription.settle(messages)
            return messages

        subscription.receive = receive_and_settle
        return subscription

    Consumer._subscribe = mutated  # type: ignore[method-assign]


def no_fencing() -> None:
    """Whoever has held a share of the buckets once believes in it for ever, and nobody asks."""
    from cqrs_fastapi.outbox import lane
    from cqrs_fastapi.outbox.shares import Shares
    from cqrs_fastapi.storage import leases

    target(Shares, "usable", "self._renewed_at")
    beat = target(Shares, "beat", "self.held = {")
    target(lane.Lane, "_take_away", "partial(settle, tables=tables, held=held, rows=rows)")
    target(lane.Lane, "_park", "leases.fenced(connection, tables, lease)")

    def usable(self: Any) -> list[int]:
        return list(self.held)

    async def believing(self: Any) -> bool:
        before = dict(self.held)
        changed = await beat(self)
        self.held = {**before, **self.held}
        return bool(changed)

    def settle(connection: Any, tables: Any, held: Any, rows: Sequence[tuple[int, int]]) -> set[int]:
        positions = [position for position, _ in rows]
        connection.execute(delete(tables.outbox).where(tables.outbox.c.position.in_(positions)))
        return set(held)

    Shares.usable = usable  # type: ignore[method-assign]
    Shares.beat = believing  # type: ignore[method-assign]
    lane.settle = settle  # type: ignore[attr-defined]
    leases.fenced = lambda *_: None  # type: ignore[assignment]


def skip_locked_without_buckets() -> None:
    """Each relay takes the oldest rows that no other has locked, as most outboxes do."""
    from cqrs_fastapi.brokers.broker import Delivery
    from cqrs_fastapi.outbox.lane import Lane
    from cqrs_fastapi.outbox.pending import columns_of, pending_of
    from cqrs_fastapi.outbox.sending import publish

    target(Lane, "_step", "self.shares.usable()", "await self._send(publisher, batch, held, stop)")

    async def mutated(self: Any, publisher: Any, stop: asyncio.Event) -> float:
        tables = self.database.tables
        position, limit = tables.outbox.c.position, self.orders.batch
        oldest = select(*columns_of(tables)).order_by(position).limit(limit).with_for_update(skip_locked=True)
        try:
            async with self.database.engine.begin() as connection:
                batch = [pending_of(row) for row in await connection.execute(oldest)]
                outcomes = await publish(publisher, self.envelopes, batch, stop) if batch else []
                pairs = zip(batch, outcomes, strict=True)
                sent = [one.position for one, outcome in pairs if outcome.delivery is Delivery.ACKNOWLEDGED]
                await connection.execute(delete(tables.outbox).where(position.in_(sent)))
        except Exception as error:  # noqa: BLE001  # whatever it is, it is tried again
            return float(await self._backed_off(error, stop))
        return 0.0 if batch else float(self.orders.poll())

    Lane._step = mutated  # type: ignore[method-assign]


def attempt_cap() -> None:
    """A message that could not be sent five times is never looked at again."""
    from cqrs_fastapi.outbox.lane import Lane

    send = target(Lane, "_send", *_SENDING)
    claim = target(Lane, "_claim", "self.database.read(work)")

    async def counted(self: Any, publisher: Any, batch: Sequence[Any], held: Any, stop: asyncio.Event) -> None:
        outbox = self.database.tables.outbox
        positions = [pending.position for pending in batch]
        counting = update(outbox).where(outbox.c.position.in_(positions)).values(attempts=outbox.c.attempts + 1)
        await self.database.write(lambda connection: connection.execute(counting).rowcount)
        await send(self, publisher, batch, held, stop)

    async def capped(self: Any, buckets: Sequence[int]) -> list[Any]:
        outbox = self.database.tables.outbox
        given_up = select(outbox.c.position).where(outbox.c.attempts >= 5)  # noqa: PLR2004
        positions = await self.database.read(lambda connection: set(connection.execute(given_up).scalars()))
        return [pending for pending in await claim(self, buckets) if pending.position not in positions]

    Lane._send = counted  # type: ignore[method-assign]
    Lane._claim = capped  # type: ignore[method-assign]


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
