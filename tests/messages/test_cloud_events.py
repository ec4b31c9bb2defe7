"""CloudEvents in both modes: read by the `cloudevents` package, and what it writes read by us."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal
from uuid import UUID

import pytest
from cloudevents.core.bindings import kafka
from cloudevents.core.v1.event import CloudEvent
from hypothesis import given
from hypothesis import strategies as st

from cqrs_fastapi.errors import ConfigurationError, MalformedMessageError
from cqrs_fastapi.messages.envelopes.chosen import Envelopes
from cqrs_fastapi.messages.envelopes.cloud_events import CloudEvents, Mode
from cqrs_fastapi.messages.envelopes.envelope import Opened, Outbound, Sealed
from cqrs_fastapi.messages.headers import render_headers
from cqrs_fastapi.messages.json_codec import parse_json
from cqrs_fastapi.messages.metadata import Metadata

ID, CAUSE = UUID(int=7), UUID(int=6)
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
AT = datetime(2026, 1, 2, 3, 4, 5, 678000, UTC)
METADATA = Metadata(ID, "c-1", AT, CAUSE, "ann", "acme", TRACE, {"x-shop": "north"})
DATA = b'{"text":"\xc3\xbc \\"x\\"","big":12345678901234567890123,"exact":0.1000000000000000055,"none":null}'

both_modes = pytest.mark.parametrize("mode", ["binary", "structured"])


@dataclass(frozen=True)
class Got:
    payload: bytes
    headers: Mapping[str, bytes]
    key: bytes | None = b"order-1"
    topic: str = "orders"
    partition: int = 0
    offset: int = 0
    sent_at: datetime = AT


def outbound(payload: bytes = DATA, metadata: Metadata = METADATA, **changed: Any) -> Outbound:
    stored = parse_json(render_headers(metadata, 3))
    given = {"key": "order-1", "tenant": metadata.tenant or "", **changed}
    return Outbound(metadata.message_id, "order.placed", "orders", given.pop("key"), payload, stored, **given)


def got(sealed: Sealed) -> Got:
    """As it arrives from a broker."""
    return Got(sealed.payload, {name: text.encode() for name, text in sealed.headers.items()})


def opened(message: Got) -> Opened:
    return Envelopes({"orders": CloudEvents(source="/other")}).open(message, max_bytes=1 << 20)


def read(sealed: Sealed) -> Any:
    return kafka.from_kafka_event(kafka.KafkaMessage(dict(got(sealed).headers), None, sealed.payload))


@both_modes
def test_what_we_send_is_read_by_the_package(mode: Mode) -> None:
    schema = "https://schemas.test/{type}/{version}"
    event = read(CloudEvents(source="/shop", mode=mode, dataschema=schema).build(outbound()))

    attributes = event.get_attributes()
    assert attributes == {
        "specversion": "1.0",
        "id": str(ID),
        "source": "/shop",
        "type": "order.placed",
        "time": AT,
        "subject": "order-1",
        "partitionkey": "order-1",
        "dataschema": "https://schemas.test/order.placed/3",
        "datacontenttype": "application/json",
        "schemaversion": "3",
        "correlationid": "c-1",
        "causationid": str(CAUSE),
        "userid": "ann",
        "tenant": "acme",
        "traceparent": TRACE,
    }
    assert event.get_data() == json.loads(DATA)


@both_modes
def test_what_we_send_is_read_by_us_without_loss(mode: Mode) -> None:
    message = got(CloudEvents(source="/shop", mode=mode).build(outbound()))
    assert opened(message) == Opened("order.placed", 3, DATA, "application/json", METADATA)


@both_modes
def test_an_event_without_context_carries_none(mode: Mode) -> None:
    bare = Metadata(ID, "c", AT)
    sealed = CloudEvents(source="/shop", mode=mode).build(outbound(metadata=bare, key=None))
    names = set(read(sealed).get_attributes())
    assert names == {"specversion", "id", "source", "type", "time", "datacontenttype", "schemaversion", "correlationid"}
    assert opened(got(sealed)).metadata == bare


@both_modes
def test_what_the_package_sends_is_read_by_us(mode: Literal["binary", "structured"]) -> None:
    event = CloudEvent(
        {"id": "A-1", "source": "https://elsewhere.test/", "type": "order.placed", "time": AT, "traceparent": TRACE},
        {"text": "ü", "n": 1},
    )
    send = kafka.to_binary_event if mode == "binary" else kafka.to_structured_event
    message = send(event)
    one = opened(Got(message.value, message.headers))

    assert (one.type, one.version, json.loads(one.data)) == ("order.placed", 1, {"text": "ü", "n": 1})
    assert (one.metadata.time, one.metadata.traceparent) == (AT, TRACE)
    assert one.metadata.correlation_id == str(one.metadata.message_id)


def test_an_id_belongs_to_its_source_unless_it_is_ours() -> None:
    def id_of(source: str, identifier: str, **headers: bytes) -> UUID:
        given = {"ce_specversion": b"1.0", "ce_type": b"t", "ce_source": source.encode(), "ce_id": identifier.encode()}
        return opened(Got(b"{}", {**given, **headers})).metadata.message_id

    same = id_of("/a", str(ID))
    assert same == id_of("/a", str(ID))
    assert len({same, id_of("/b", str(ID)), id_of("/a", "7"), id_of("/a7", "x"), ID}) == 5
    assert id_of("/a", str(ID), **{"message-id": str(ID).encode()}) == ID
    assert id_of("/a", "7", **{"message-id": str(ID).encode()}) == id_of("/a", "7")
    assert id_of("/a", "bc") != id_of("/ab", "c")


@both_modes
def test_data_of_another_form_travel_as_they_are(mode: Mode) -> None:
    message = outbound(b"\x81\xa1a\x01", content_type="application/msgpack")
    sealed = CloudEvents(source="/shop", mode=mode).build(message)
    one = CloudEvents(source="/x").parse(got(sealed), max_bytes=1000)
    assert (one.data, one.content_type) == (b"\x81\xa1a\x01", "application/msgpack")
    assert read(sealed).get_data() == b"\x81\xa1a\x01"


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
        max_leaves=10,
    )
)
def test_data_come_out_of_the_structured_mode_byte_for_byte(value: Any) -> None:
    data = json.dumps(value).encode()
    sealed = CloudEvents(source="/shop", mode="structured").build(outbound(data))
    assert CloudEvents(source="/x").parse(got(sealed), max_bytes=1 << 20).data == data


def test_attributes_in_the_payload_count_and_not_those_in_the_headers() -> None:
    sealed = CloudEvents(source="/shop", mode="structured").build(outbound())
    message = got(sealed)
    changed = Got(message.payload, {**message.headers, "ce_type": b"other", "ce_tenant": b"other"})
    one = opened(changed)
    assert (one.type, one.metadata.tenant) == ("order.placed", "acme")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"source": ""}, "no URI reference"),
        ({"source": "a b"}, "no URI reference"),
        ({"source": "/shop", "mode": "batch"}, "'binary' or 'structured'"),
        ({"source": "/shop", "dataschema": "/relative/{type}"}, "no absolute URI"),
        ({"source": "/shop", "dataschema": "https://x/{name}"}, "no absolute URI"),
    ],
)
def test_a_wrong_choice_is_refused_at_once(arguments: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=sentence):
        CloudEvents(**arguments)


def test_a_batch_is_refused() -> None:
    headers = {"content-type": b"application/cloudevents-batch+json"}
    with pytest.raises(MalformedMessageError, match="is not read"):
        opened(Got(b"[]", headers))
