"""The metadata of what happens in a unit of work: that of the message being handled, or of what it brings about."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cqrs_fastapi.messages.metadata import Metadata, holder

if TYPE_CHECKING:
    from cqrs_fastapi.mediation.kernel import Kernel


def current_metadata(kernel: Kernel) -> Metadata:
    """Of the message being handled; outside of one, where somebody holds a scope in their hands, of a new one."""
    current = holder()
    return _first(kernel) if current is None else current.metadata


def next_metadata(kernel: Kernel) -> Metadata:
    """Of an event that is recorded now."""
    current = holder()
    return _first(kernel) if current is None else current.next(kernel.ids(), kernel.clock.now())


def _first(kernel: Kernel) -> Metadata:
    message_id = kernel.ids()
    return Metadata(message_id=message_id, correlation_id=str(message_id), time=kernel.clock.now())
