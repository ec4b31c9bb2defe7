"""What a message carries besides its payload: in the store as JSON, on its way as the headers of a broker's message."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from pydantic_core import to_json

from cqrs_fastapi.messages.metadata import Metadata

OURS = frozenset(
    {"message-id", "type", "version", "content-type", "time", "correlation-id", "causation-id", "user", "tenant"}
    | {"traceparent", "source-stream"}
)
"""All other headers are the user's own, `Metadata.headers`."""

SOURCE = "source-stream"
"""The stream of an event, where the key of its message is another. Personal values are bound to it."""

PACKED = "cqrs-headers"
"""All of the stored headers in one, as JSON: Debezium can put a column into a header, and not a column into many."""


def render_headers(metadata: Metadata, version: int, more: Mapping[str, str] | None = None) -> str:
    """As JSON text, with `more` of ours. What has a column of its own is not among it, and what has no value is left
    out.
    """
    headers = {"version": str(version), **context_headers(metadata)}
    if more:
        headers |= more
    if metadata.headers:
        headers = {**metadata.headers, **headers}
    return to_json(headers).decode()


def context_headers(metadata: Metadata) -> dict[str, str]:
    """When, why and on whose behalf a message is sent."""
    headers = {"time": metadata.time.isoformat(), "correlation-id": metadata.correlation_id}
    if metadata.causation_id is not None:
        headers["causation-id"] = str(metadata.causation_id)
    if metadata.user:
        headers["user"] = metadata.user
    if metadata.traceparent:
        headers["traceparent"] = metadata.traceparent
    return headers


def all_headers(message_id: UUID, type: str, tenant: str, stored: Mapping[str, Any]) -> dict[str, str]:
    """Those that are sent: what the columns say, and what is stored as JSON."""
    headers = {"message-id": str(message_id), "content-type": "application/json"}
    if type:
        headers["type"] = type
    if tenant:
        headers["tenant"] = tenant
    return {**headers, **stored}
