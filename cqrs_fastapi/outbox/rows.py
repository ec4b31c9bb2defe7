"""How the events of a stream are sent."""

from __future__ import annotations

from cqrs_fastapi.eventstore.records import Sending
from cqrs_fastapi.messages.metadata import Metadata
from cqrs_fastapi.outbox.routing import bucket_of


def sending_of(metadata: Metadata, stream: str, topic: str) -> Sending:
    """How an event of a stream is sent. Its key is its stream, so that a stream's events stay in order."""
    return Sending(topic, bucket_of(stream), metadata.time)
