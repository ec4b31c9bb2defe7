"""CloudEvents 1.0 on Kafka, after its core specification, its JSON event format and its Kafka protocol binding."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal
from urllib.parse import urlsplit
from uuid import UUID, uuid5

from cqrs_fastapi.errors import ConfigurationError, MalformedMessageError
from cqrs_fastapi.messages.envelopes.cloud_events_json import from_json_format, is_structured, to_json_format
from cqrs_fastapi.messages.envelopes.codecs import JSON
from cqrs_fastapi.messages.envelopes.envelope import Inbound, Opened, Outbound, Sealed
from cqrs_fastapi.messages.headers import (
    OURS,
    OwnHeaders,
    metadata_of,
    printable,
    time_of,
    uuid_of,
    version_of,
)

Mode = Literal["binary", "structured"]
PREFIX = "ce_"
STRUCTURED = "application/cloudevents+json; charset=UTF-8"
_NAMES = UUID("2a0e2f5c-9a0b-5d0c-8b53-5b6f0f1f6a51")
"""The ids of strangers' events are made of their source and id in this namespace; the inbox holds them."""
_URI = re.compile(r"[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=%-]{1,255}")


@dataclass(frozen=True, slots=True)
class CloudEvents:
    """Both modes are read, whichever is sent; `source` says who sends, and belongs to no other sender's ids.

    `dataschema` is a URI with the places `{type}` and `{version}`. Attributes: `subject` and `partitionkey` are the
    key, `schemaversion`, `correlationid`, `causationid`, `userid` and `tenant` ours, `traceparent` as its extension
    says. The user's own headers stay headers. An event of another sender has the id that follows from `source` and
    `id`, one of ours its own.
    """

    source: str
    mode: Mode = "binary"
    dataschema: str | None = None

    def __post_init__(self) -> None:
        if self.mode not in {"binary", "structured"}:
            raise ConfigurationError(f"CloudEvents(mode={self.mode!r}): write 'binary' or 'structured'")
        if not _URI.fullmatch(self.source):
            raise ConfigurationError(f"CloudEvents(source={self.source!r}) is no URI reference; write: source='/shop'")
        if self.dataschema is not None:
            self._require_schema(self.dataschema)

    def build(self, message: Outbound) -> Sealed:
        attributes = self._attributes(message)
        kept = {name: text for name, text in message.headers.items() if name not in OURS and not _is_reserved(name)}
        kept["message-id"] = str(message.message_id)
        if self.mode == "structured":
            payload = to_json_format(attributes, message.content_type, message.payload)
            return Sealed(payload, {"content-type": STRUCTURED, **kept})
        headers = {PREFIX + name: text for name, text in attributes.items()}
        return Sealed(message.payload, {"content-type": message.content_type, **headers, **kept})

    def parse(self, message: Inbound, *, max_bytes: int) -> Opened:  # noqa: ARG002  # nothing is inflated
        content_type = OwnHeaders(message.headers).get("content-type") or ""
        if is_structured(content_type):
            attributes, content_type, data = from_json_format(content_type, message.payload)
        else:
            attributes, data = _headers(message.headers), message.payload
        return _opened(message, attributes, content_type or JSON, data)

    def validate(self, message: Inbound, opened: Opened) -> None:
        """Whatever could be taken apart is good."""

    def _attributes(self, message: Outbound) -> dict[str, str]:
        stored = message.headers
        attributes = {
            "specversion": "1.0",
            "id": str(message.message_id),
            "source": self.source,
            "type": message.type,
            "time": _rfc3339(stored.get("time")),
            "subject": message.key,
            "partitionkey": message.key,
            "dataschema": self._schema(message.type, stored.get("version", "1")),
            "schemaversion": stored.get("version", "1"),
            "correlationid": stored.get("correlation-id"),
            "causationid": stored.get("causation-id"),
            "userid": stored.get("user"),
            "tenant": message.tenant,
            "traceparent": stored.get("traceparent"),
        }
        return {name: text for name, text in attributes.items() if text}

    def _schema(self, name: str, version: str) -> str | None:
        return None if self.dataschema is None else self.dataschema.format(type=name, version=version)

    def _require_schema(self, schema: str) -> None:
        try:
            uri = schema.format(type="t", version="1")
            is_uri = bool(urlsplit(uri).scheme) and _URI.fullmatch(uri) is not None
        except (ValueError, LookupError, AttributeError):
            is_uri = False
        if not is_uri:
            raise ConfigurationError(
                f"CloudEvents(dataschema={schema!r}) is no absolute URI with the places {{type}} and {{version}}; "
                "write: dataschema='https://example.com/{type}/{version}'"
            )


def _headers(raw: Mapping[str, bytes]) -> dict[str, bytes]:
    """The attributes of the binary mode."""
    return {name.removeprefix(PREFIX): value for name, value in raw.items() if name.startswith(PREFIX)}


def _opened(message: Inbound, given: Mapping[str, bytes], content_type: str, data: bytes) -> Opened:
    attributes = OwnAttributes(given)
    if (spec := attributes.required("specversion")) != "1.0":
        raise MalformedMessageError(f"CloudEvents {spec[:20]!r} is not read, only 1.0")
    source, identifier = attributes.required("source"), attributes.required("id")
    causation, version = attributes.get("causationid"), attributes.get("schemaversion")
    metadata = metadata_of(
        _message_id(message, source, identifier),
        time=time_of("the attribute 'time'", attributes.get("time")) or message.sent_at,
        correlation_id=given.get("correlationid"),
        causation_id=_uuid(causation),
        user=attributes.get("userid"),
        tenant=attributes.get("tenant"),
        traceparent=given.get("traceparent"),
        headers=OwnHeaders(message.headers).others(but=PREFIX),
    )
    name = attributes.required("type")
    return Opened(name, version_of("the attribute 'schemaversion'", version), data, content_type, metadata)


class OwnAttributes:
    """Reads attributes as printable text of at most 1024 characters."""

    __slots__ = ("_given",)

    def __init__(self, given: Mapping[str, bytes]) -> None:
        self._given = given

    def get(self, name: str) -> str | None:
        value = self._given.get(name)
        return None if value is None else printable(f"the attribute {name!r}", value)

    def required(self, name: str) -> str:
        text = self.get(name)
        if not text:
            raise MalformedMessageError(f"this is no CloudEvent: the attribute {name!r} is missing")
        return text


def _message_id(message: Inbound, source: str, identifier: str) -> UUID:
    """Our relay repeats the id as a header. Elsewhere an id is unique for its source only, also one that is a UUID."""
    if message.headers.get("message-id") == identifier.encode():
        return uuid_of("the attribute 'id'", identifier)
    return uuid5(_NAMES, f"{len(source)}:{source}{identifier}")


def _uuid(text: str | None) -> UUID | None:
    """Others' causes need not be UUIDs; what is none is no cause that we know."""
    try:
        return None if text is None else UUID(text)
    except ValueError:
        return None


def _rfc3339(text: str | None) -> str | None:
    return None if text is None else datetime.fromisoformat(text).astimezone(UTC).isoformat().replace("+00:00", "Z")


def _is_reserved(name: str) -> bool:
    return name.startswith(PREFIX)
