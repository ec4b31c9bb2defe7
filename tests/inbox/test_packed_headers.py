"""Messages that Debezium has sent from the outbox: most of their headers are in one."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from uuid import uuid4

import pytest

from cqrs_fastapi import Event
from cqrs_fastapi.brokers.broker import IncomingMessage
from cqrs_fastapi.errors import MalformedMessageError
from cqrs_fastapi.inbox.revealing import reveal_message
from cqrs_fastapi.messages.envelopes.chosen import Envelopes
from cqrs_fastapi.messages.registry import EventRegistry

pytestmark = pytest.mark.anyio


class Second(Event, name="second", version=2):
    n: int


def message(packed: bytes, **headers: bytes) -> IncomingMessage:
    named = {"message-id": str(uuid4()).encode(), "type": b"second", "tenant": b"", "cqrs-headers": packed, **headers}
    return IncomingMessage("t", 0, 0, b"k", b'{"n":1}', named, datetime.now(UTC))


async def test_they_are_read_as_if_each_were_a_header_of_its_own() -> None:
    stored = {"version": "2", "correlation-id": "c", "user": "u", "own": "x", "type": "another"}
    [envelope] = await reveal_message(
        message(json.dumps(stored).encode()), EventRegistry([Second]), None, Envelopes(), max_bytes=99
    )
    assert envelope.event == Second(n=1)
    assert (envelope.metadata.correlation_id, envelope.metadata.user) == ("c", "u")
    assert envelope.metadata.headers == {"own": "x"}


@pytest.mark.parametrize("packed", [b"", b"[]", b"{", b'{"a": 1}', b'{"a": "' + b"x" * 20_000 + b'"}', b"\xff"])
async def test_what_is_no_object_of_texts_is_a_malformed_message(packed: bytes) -> None:
    with pytest.raises(MalformedMessageError):
        await reveal_message(message(packed), EventRegistry([Second]), None, Envelopes(), max_bytes=99)
