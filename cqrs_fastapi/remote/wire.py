"""Requests and replies as messages of a broker, and back. Of what comes in, nothing is trusted.

A request says where its reply goes (`reply-to`) and by which token its sender will know it (`reply-token`). Replies go
to topics that end in `.replies` and to no others: whoever may send requests could else make this service write
anywhere.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import Enum
from typing import Any
from uuid import UUID, uuid5

from sqlalchemy import Connection

from cqrs_fastapi.brokers.broker import IncomingMessage, OutgoingMessage
from cqrs_fastapi.errors import MalformedMessageError, MessageError, MessageTooLargeError
from cqrs_fastapi.messages.envelopes.codecs import JSON
from cqrs_fastapi.messages.envelopes.native import plain
from cqrs_fastapi.messages.headers import (
    REPLY_STATUS,
    REPLY_TO,
    REPLY_TOKEN,
    OwnHeaders,
    all_headers,
    context_of,
    render_headers,
    require_bounded,
    uuid_of,
)
from cqrs_fastapi.messages.json_codec import parse_json, render_json
from cqrs_fastapi.messages.metadata import NO_HEADERS, Metadata
from cqrs_fastapi.outbox.outgoing import Address as Destination
from cqrs_fastapi.outbox.outgoing import row_of
from cqrs_fastapi.storage.dialects import upsert
from cqrs_fastapi.storage.tables import Tables

REPLIES = ".replies"
"""What the names of reply topics end in."""
_TOPIC = re.compile(r"[a-zA-Z0-9._-]{1,241}\.replies")
_TOKEN = re.compile(r"[a-zA-Z0-9._-]{1,200}")
_LONGEST_TEXT = 1000


class Status(Enum):
    """How a request ended, as its reply says."""

    SUCCESS = "success"
    REFUSAL = "refusal"
    """By a DomainError; nothing was done, and it stays so."""
    FAILURE = "failure"
    """It could not be done or not be understood; nothing was done until now."""
    UNKNOWN = "unknown"
    """It was settled before, and nobody knows any more how."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a reply goes. The token is known to the sender of the request alone."""

    topic: str
    token: str


@dataclass(frozen=True, slots=True)
class Reply:
    """`body` is the JSON of the answer; without success there is none, but a code and a sentence."""

    status: Status
    body: str = "null"
    code: str = ""
    text: str = ""
    headers: Mapping[str, str] = field(default_factory=lambda: NO_HEADERS)

    @classmethod
    def without(cls, status: Status, code: str, text: str) -> Reply:
        """One that is no success."""
        return cls(status, code=code[:100], text=text[:_LONGEST_TEXT])

    def payload(self) -> bytes:
        if self.status is Status.SUCCESS:
            return self.body.encode()
        return render_json({"code": self.code, "message": self.text}).encode()

    def stored(self, fingerprint: str) -> str:
        """As the inbox row keeps it, beside what was asked."""
        parts = {"status": self.status.value, "body": self.body, "code": self.code, "text": self.text}
        return render_json({"fingerprint": fingerprint, **parts, "headers": dict(self.headers)})


def restored(stored: str) -> tuple[str, Reply]:
    """The fingerprint of what was asked, and the reply."""
    parts = parse_json(stored)
    reply = Reply(Status(parts["status"]), parts["body"], parts["code"], parts["text"], parts["headers"])
    return parts["fingerprint"], reply


def address_of(message: IncomingMessage) -> Address | None:
    """Where a request wants its reply; None for one that wants none. Raises MalformedMessageError."""
    topic, token = message.headers.get(REPLY_TO), message.headers.get(REPLY_TOKEN)
    if topic is None and token is None:
        return None
    address = Address((topic or b"").decode("ascii", "replace"), (token or b"").decode("ascii", "replace"))
    if not _TOPIC.fullmatch(address.topic) or not _TOKEN.fullmatch(address.token):
        raise MalformedMessageError(
            f"{REPLY_TO!r} and {REPLY_TOKEN!r} go together: a topic that ends in {REPLIES!r}, and letters and digits"
        )
    return address


def metadata_of(message: IncomingMessage) -> Metadata:
    """Of a message whose class is known without its headers. Raises a MessageError."""
    require_bounded(message.headers)
    own = OwnHeaders(message.headers)
    return context_of(own, own.uuid("message-id", own.required("message-id")), message.sent_at)


def message_id_of(message: IncomingMessage) -> UUID | None:
    """None if it says none that is valid."""
    try:
        return uuid_of("", message.headers["message-id"].decode("ascii"))
    except (MessageError, KeyError, UnicodeDecodeError):
        return None


def payload_of(message: IncomingMessage, *, max_bytes: int) -> bytes:
    """Inflated, if it was compressed. Raises a MessageError."""
    if len(message.payload) > max_bytes:
        raise MessageTooLargeError(what="the payload", size=len(message.payload), limit=max_bytes)
    return plain(message.payload, OwnHeaders(message.headers).get("content-encoding"), max_bytes)


def request_row(name: str, metadata: Metadata, topic: str, payload: bytes, address: Address | None) -> dict[str, Any]:
    """A request, as the outbox keeps it."""
    more = {} if address is None else {REPLY_TO: address.topic, REPLY_TOKEN: address.token}
    return _row(name, metadata, topic, payload, more)


def reply_row(reply: Reply, request: Metadata, address: Address, replier: str, now: datetime) -> dict[str, Any]:
    """A reply, as the outbox keeps it. The same reply to the same request has the same id."""
    message_id = uuid5(request.message_id, f"{replier} {address.token}")
    more = {REPLY_TOKEN: address.token, REPLY_STATUS: reply.status.value}
    metadata = replace(request.caused(message_id, now), headers=reply.headers)
    return _row("reply", metadata, address.topic, reply.payload(), more)


def insert(connection: Connection, tables: Tables, row: Mapping[str, Any]) -> None:
    """Into the outbox, unless it waits there already. It has no key, and so no order to keep."""
    values = {column.key: row[column.key] for column in tables.outbox.c if column.key in row}
    connection.execute(upsert(connection, tables.outbox).on_conflict_do_nothing(), values)


def outgoing(row: Mapping[str, Any]) -> OutgoingMessage:
    """For what does not go through the outbox: the message that the relay would make of its row."""
    headers = all_headers(row["id"], row["type"], row["tenant"], parse_json(row["headers"]))
    return OutgoingMessage(row["id"], row["topic"], row["key"], row["payload"], headers)


def _row(name: str, metadata: Metadata, topic: str, payload: bytes, more: Mapping[str, str]) -> dict[str, Any]:
    # With the type of its content it is sent as it is, whatever envelope events have.
    headers = render_headers(metadata, 1, {"content-type": JSON, **more})
    return row_of(metadata, Destination(topic, None), payload, headers, kind=name, category=name, identity="")
