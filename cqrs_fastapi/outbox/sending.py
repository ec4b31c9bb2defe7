"""What became of a batch, and what follows from it for its keys."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from cqrs_fastapi.brokers.broker import Delivery, Outcome, Publisher
from cqrs_fastapi.outbox.parked_keys import Refused
from cqrs_fastapi.outbox.pending import Pending

_GRACE = 1.0
"""Seconds that acknowledgements are waited for after the relay was told to stop."""
_STOPPING = Outcome(Delivery.HELD, "the relay is stopping")


@dataclass(slots=True)
class Sent:
    """A batch, told apart: of each key the first message that was not acknowledged decides."""

    acknowledged: list[Pending] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    held: dict[str, str] = field(default_factory=dict)
    """Keys, with the reason."""
    unknown: dict[str, str] = field(default_factory=dict)
    """Topics that the broker does not know."""


async def publish(publisher: Publisher, batch: Sequence[Pending], stop: asyncio.Event) -> Sequence[Outcome]:
    """Publish; what is not acknowledged soon after `stop` is left for another relay, whatever becomes of it."""
    publishing = asyncio.ensure_future(publisher.publish([pending.message for pending in batch]))
    stopping = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({publishing, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not publishing.done():
            await asyncio.wait({publishing}, timeout=_GRACE)
        return publishing.result() if publishing.done() else [_STOPPING] * len(batch)
    finally:
        stopping.cancel()
        if not publishing.done():
            publishing.cancel()
            await asyncio.wait({publishing})


def told_apart(batch: Sequence[Pending], outcomes: Sequence[Outcome], given_up: frozenset[str]) -> Sent:
    """The batch is in the order of positions; topics that were `given_up` refuse what they do not know."""
    sent = Sent()
    first_failed: dict[str, tuple[Pending, Outcome]] = {}
    later: dict[str, list[Pending]] = {}
    for pending, outcome in zip(batch, outcomes, strict=True):
        name = pending.name
        if outcome.delivery is Delivery.ACKNOWLEDGED:
            sent.acknowledged.append(pending)
            if name in first_failed:
                later.setdefault(name, []).append(pending)
        elif pending.message.key is None:
            _fail(sent, pending, outcome, given_up, ())
        else:
            first_failed.setdefault(name, (pending, outcome))
    for name, (pending, outcome) in first_failed.items():
        _fail(sent, pending, outcome, given_up, later.get(name, ()))
    return sent


def _fail(
    sent: Sent, pending: Pending, outcome: Outcome, given_up: frozenset[str], overtaken_by: Sequence[Pending]
) -> None:
    topic = pending.message.topic
    is_unknown = outcome.delivery is Delivery.UNKNOWN_TOPIC
    if outcome.delivery is Delivery.REFUSED or (is_unknown and topic in given_up):
        sent.refused.append(Refused(pending, outcome.reason, overtaken_by))
    elif is_unknown:
        sent.unknown[topic] = outcome.reason
    else:
        sent.held[pending.name] = outcome.reason
