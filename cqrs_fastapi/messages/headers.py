"""What a message carries besides its payload: in the store as JSON, on its way as the headers of a broker's message."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from pydantic_core import to_json

from cqrs_fastapi.messages.metadata import Metadata

REPLY_TO, REPLY_TOKEN, REPLY_STATUS = "reply-to", "reply-token", "reply-status"
"""Between whoever sends a request over the broker and whoever answers it."""

OURS = frozenset(
    {"message-id", "type", "version", "content-type", "time", "correlation-id", "causation-id", "user", "tenant"}
    | {"traceparent", "outbox-position", REPLY_TO, REPLY_TOKEN, REPLY_STATUS}
)
"""All other headers are the user's own, `Metadata.headers`."""


def render_headers(metadata: Metadata, version: int) -> str:
    """As JSON text. What has a column of its own is not among it, and what has no value is left out."""
    headers = {
        "version": str(version),
        "time": metadata.time.isoformat(),
        "correlation-id": metadata.correlation_id,
    }
    if metadata.causation_id is not None:
        headers["causation-id"] = str(metadata.causation_id)
    if metadata.user:
        headers["user"] = metadata.user
    if metadata.traceparent:
        headers["traceparent"] = metadata.traceparent
    if metadata.headers:
        headers = {**metadata.headers, **headers}
    return to_json(headers).decode()


def all_headers(message_id: UUID, type: str, tenant: str, stored: Mapping[str, Any]) -> dict[str, str]:
    """Those that are sent: what the columns say, and what is stored as JSON."""
    headers = {"message-id": str(message_id), "type": type, "content-type": "application/json"}
    if tenant:
        headers["tenant"] = tenant
    return {**headers, **stored}
