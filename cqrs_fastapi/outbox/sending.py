"""What became of a batch, and what follows from it for its keys."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from cqrs_fastapi.brokers.broker import Delivery, Outcome, OutgoingMessage, Publisher
from cqrs_fastapi.errors import MessageError
from cqrs_fastapi.messages.envelopes.chosen import POSITION_HEADER, Envelopes
from cqrs_fastapi.outbox.parked_keys import Refused
from cqrs_fastapi.outbox.pending import Pending

_GRACE = 1.0
"""Seconds that acknowledgements are waited for after the relay was told to stop."""
_STOPPING = Outcome(Delivery.HELD, "the relay is stopping")
_BEHIND = Outcome(Delivery.HELD, "an earlier message of its key was refused")


@dataclass(slots=True)
class Sent:
    """A batch, told apart: of each key the first message that was not acknowledged decides."""

    acknowledged: list[Pending] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    held: dict[str, str] = field(default_factory=dict)
    """Keys, with the reason."""
    unknown: dict[str, str] = field(default_factory=dict)
    """Topics that the broker does not know."""


async def publish(
    publisher: Publisher, envelopes: Envelopes, batch: Sequence[Pending], stop: asyncio.Event
) -> Sequence[Outcome]:
    """Publish in the envelopes of their topics; what is not acknowledged soon after `stop` is left for another relay,
    whatever becomes of it. What no envelope can be built of is refused, and nothing later of its key is sent.
    """
    outcomes: list[Outcome | None] = []
    sealed: list[OutgoingMessage] = []
    refused: set[str] = set()
    for pending in batch:
        if pending.message.key is not None and pending.name in refused:
            outcomes.append(_BEHIND)
            continue
        try:
            sealed.append(_sealed(envelopes, pending))
            outcomes.append(None)
        except MessageError as error:
            refused.add(pending.name)
            outcomes.append(Outcome(Delivery.REFUSED, str(error)))
    sent = iter(await _publish(publisher, sealed, stop) if sealed else ())
    return [next(sent) if outcome is None else outcome for outcome in outcomes]


def _sealed(envelopes: Envelopes, pending: Pending) -> OutgoingMessage:
    stored = pending.message
    sealed = envelopes.build(pending.outbound())
    headers = {**sealed.headers, POSITION_HEADER: str(pending.position)}
    return OutgoingMessage(stored.message_id, stored.topic, stored.key, sealed.payload, headers)


async def _publish(publisher: Publisher, messages: Sequence[OutgoingMessage], stop: asyncio.Event) -> Sequence[Outcome]:
    publishing = asyncio.ensure_future(publisher.publish(messages))
    stopping = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({publishing, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not publishing.done():
            await asyncio.wait({publishing}, timeout=_GRACE)
        return publishing.result() if publishing.done() else [_STOPPING] * len(messages)
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
