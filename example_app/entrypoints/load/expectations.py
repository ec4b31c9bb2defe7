"""What must be true of an order that the shop has acknowledged, once everything has settled."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

# An answer that was lost may have been an acknowledgement, so an order may have gone further than the journal knows.
_LIVES: Final = (
    ("order.placed",),
    ("order.placed", "order.paid", "order.shipped"),
    ("order.placed", "order.cancelled"),
)


@dataclass(frozen=True, slots=True)
class Stored:
    """An order as its stream has it: the events' names and message identifiers, in order."""

    events: tuple[str, ...]
    message_ids: tuple[str, ...]

    @property
    def status(self) -> str:
        return self.events[-1].removeprefix("order.")


def stored(history: Sequence[Mapping[str, Any]]) -> Stored:
    """From the answer of `/orders/{id}/history`."""
    return Stored(
        tuple(entry["event"] for entry in history),
        tuple(entry["message_id"] for entry in history),
    )


def has_ended(acknowledged: Iterable[str], status: str | None) -> bool:
    """Whether an order of this status in the list may have come to its end: only then it is worth a closer look."""
    return status in {"shipped", "cancelled"} or (status == "placed" and set(acknowledged) == {"order.placed"})


def wrong_in_store(acknowledged: Iterable[str], history: Sequence[Mapping[str, Any]]) -> str | None:
    """What is wrong with an order's stream; None if nothing is."""
    versions = [entry["version"] for entry in history]
    if versions != list(range(1, len(versions) + 1)):
        return f"its stream has the versions {versions}"
    found = stored(history)
    missing = [event for event in acknowledged if event not in found.events]
    if missing:
        return f"{', '.join(missing)} was acknowledged and is not in the event store, which has {list(found.events)}"
    if found.events == ("order.placed", "order.paid"):
        return "it is paid and not shipped"
    if found.events not in _LIVES:
        return f"its stream has the events {list(found.events)}"
    return None


def wrong_in_overview(expected: Stored, summary: Mapping[str, Any]) -> str | None:
    """What is wrong with an order's row in the read model; None if nothing is."""
    if summary["status"] != expected.status:
        return f"it is {expected.status} in the event store and {summary['status']} in the read model"
    if summary["changes"] != len(expected.events):
        return f"it has {len(expected.events)} events, and the read model has taken in {summary['changes']}"
    if (summary["tracking"] is not None) != (expected.status == "shipped"):
        return f"it is {expected.status}, and its tracking number is {summary['tracking']}"
    return None


def wrong_on_topic(expected: Stored, messages: Sequence[str]) -> str | None:
    """What is wrong with an order's messages; None if nothing is. One that was sent again, under its identifier, is no
    fault.
    """
    first_ones = tuple(dict.fromkeys(messages))
    if first_ones == expected.message_ids:
        return None
    missing = len(set(expected.message_ids) - set(first_ones))
    if missing:
        return f"{missing} of its {len(expected.message_ids)} messages are not on the topic"
    if set(first_ones) - set(expected.message_ids):
        return "there are messages on the topic that are not in the event store"
    return "its messages are out of order on the topic"
