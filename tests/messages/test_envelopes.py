"""Our own envelope, foreign topics, codecs, and the bounds that hold for all of them."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from cqrs_fastapi.errors import ConfigurationError, MalformedMessageError, MessageTooLargeError
from cqrs_fastapi.messages.envelopes.chosen import Envelopes, chosen
from cqrs_fastapi.messages.envelopes.cloud_events import CloudEvents
from cqrs_fastapi.messages.envelopes.compression import MAX_RATIO, deflated, inflated
from cqrs_fastapi.messages.envelopes.envelope import Envelope, Opened, Outbound, Sealed
from cqrs_fastapi.messages.envelopes.foreign import Foreign
from cqrs_fastapi.messages.envelopes.native import Native
from cqrs_fastapi.messages.events import Event
from cqrs_fastapi.messages.forms import event
from cqrs_fastapi.messages.headers import MAX_KEPT, MAX_KEPT_BYTES, OwnHeaders, render_headers
from cqrs_fastapi.messages.json_codec import parse_json
from cqrs_fastapi.messages.metadata import Metadata

ID = UUID(int=7)
AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
METADATA = Metadata(ID, "c-1", AT, UUID(int=6), "ann", "acme", None, {"x-shop": "north"})
LIMIT = 1 << 20


class Imported(Event, name="imported", topic="theirs"):
    what: str
    number: int = Field(default=0, alias="Number")


@event(name="struct.imported", topic="theirs")
class StructImported(msgspec.Struct, frozen=True, rename="camel"):
    first_name: str


@event(name="plain.imported", topic="theirs")
@dataclass(frozen=True)
class PlainImported:
    what: str


@dataclass(frozen=True)
class Got:
    payload: bytes
    headers: Mapping[str, bytes]
    topic: str = "orders"
    partition: int = 0
    offset: int = 0
    key: bytes | None = None
    sent_at: datetime = AT


class MessagePack:
    content_type = "application/msgpack"

    def encode(self, value: Any) -> bytes:
        return msgspec.msgpack.encode(value)

    def decode(self, data: bytes) -> Any:
        return msgspec.msgpack.decode(data)


def outbound(payload: bytes, name: str = "thing", topic: str = "orders", metadata: Metadata = METADATA) -> Outbound:
    stored = parse_json(render_headers(metadata, 3))
    return Outbound(metadata.message_id, name, topic, "k", payload, stored, metadata.tenant or "")


def got(sealed: Sealed, topic: str = "orders") -> Got:
    return Got(sealed.payload, {name: text.encode() for name, text in sealed.headers.items()}, topic)


def test_our_own_envelope_is_json_with_everything_else_in_headers() -> None:
    sealed = Envelopes().build(outbound(b'{"a":1}'))
    assert sealed.payload == b'{"a":1}'
    assert sealed.headers == {
        "message-id": str(ID),
        "type": "thing",
        "content-type": "application/json",
        "tenant": "acme",
        "x-shop": "north",
        "version": "3",
        "time": "2026-01-02T03:04:05+00:00",
        "correlation-id": "c-1",
        "causation-id": str(UUID(int=6)),
        "user": "ann",
    }
    assert Envelopes().open(got(sealed), max_bytes=LIMIT) == Opened(
        "thing", 3, b'{"a":1}', "application/json", METADATA
    )


def test_a_large_payload_is_compressed_and_a_small_one_is_not() -> None:
    large = json.dumps({"a": [str(n) for n in range(20_000)]}).encode()
    sealed = Envelopes().build(outbound(large))
    assert sealed.headers["content-encoding"] == "gzip"
    assert len(sealed.payload) < len(large) / 2
    assert gzip.decompress(sealed.payload) == large
    assert sealed == Envelopes().build(outbound(large)), "the same bytes each time"
    assert Envelopes().open(got(sealed), max_bytes=LIMIT).data == large
    assert Native(compress_above=None).build(outbound(large)).payload == large


def test_what_would_not_shrink_or_not_be_read_again_is_sent_as_it_is() -> None:
    for payload in (os.urandom(50_000), b"0" * 900_000):
        sealed = Native().build(outbound(payload))
        assert (sealed.payload, "content-encoding" in sealed.headers) == (payload, False)


@given(st.binary(max_size=2000), st.integers(1, 400))
def test_whatever_is_deflated_is_inflated_again(part: bytes, times: int) -> None:
    payload = part * times
    small = deflated(payload)
    assert small is None or inflated(small, max_bytes=len(payload)) == payload


def test_inflation_ends_at_the_limit_and_at_the_ratio() -> None:
    bomb = gzip.compress(bytes(10_000_000))
    with pytest.raises(MessageTooLargeError, match="the limit is 1000"):
        inflated(bomb, max_bytes=1000)
    with pytest.raises(MessageTooLargeError, match=f"the limit is {MAX_RATIO * len(bomb)}"):
        inflated(bomb, max_bytes=10_000_000)


def test_headers_of_others_are_bounded_and_those_that_are_no_text_left_out() -> None:
    many = {f"h{n:03}": b"x" for n in range(200)}
    assert len(OwnHeaders(many).others()) == MAX_KEPT
    big = {f"h{n}": b"x" * 1000 for n in range(20)}
    kept = OwnHeaders(big).others()
    assert sum(len(name) + len(text) for name, text in kept.items()) <= MAX_KEPT_BYTES
    bad = {
        "": b"x",
        "a b": b"x",
        "a\n": b"x",
        "ä": b"x",
        "x" * 129: b"x",
        "v": b"a\r\nb",
        "w": b"\xff",
        "u": b"x" * 1025,
    }
    assert OwnHeaders({**bad, "type": b"t", "outbox-position": b"1", "ok": "ü".encode()}).others() == {"ok": "ü"}


@pytest.mark.parametrize("value", [b"", b"a b", b"a\nb", b"x" * 65, "ü".encode(), b"\xff", b"<script>"])
def test_a_correlation_id_that_is_none_is_made_anew(value: bytes) -> None:
    headers = {"message-id": str(ID).encode(), "type": b"t", "correlation-id": value}
    assert Native().parse(Got(b"", headers), max_bytes=LIMIT).metadata.correlation_id == str(ID)


def test_the_users_own_headers_cannot_stand_for_ours() -> None:
    forged = replace(METADATA, headers={"tenant": "other", "type": "x", "message-id": "y", "content-encoding": "gzip"})
    assert set(parse_json(render_headers(forged, 1))) == {"version", "time", "correlation-id", "causation-id", "user"}
    stored = {"tenant": "other", "type": "x", "version": "1"}
    sealed = Native().build(replace(outbound(b"{}"), headers=stored))
    assert (sealed.headers["tenant"], sealed.headers["type"]) == ("acme", "thing")


@pytest.mark.parametrize("header", [{"a": "b\nc"}, {"a\n": "b"}, {"": "b"}, {"a": "x" * 1025}, {"a": "\ud800"}])
def test_a_header_that_no_reader_would_take_is_refused_before_the_commit(header: dict[str, str]) -> None:
    with pytest.raises(MalformedMessageError, match="cannot be sent"):
        render_headers(replace(METADATA, headers=header), 1)


def test_a_foreign_message_has_an_id_that_follows_from_its_place() -> None:
    foreign = Foreign(Imported)

    def id_of(message: Got) -> UUID:
        return foreign.parse(message, max_bytes=LIMIT).metadata.message_id

    message = Got(b'{"what":"x"}', {}, "theirs", 1, 2)
    assert id_of(message) == id_of(replace(message, payload=b"{}", headers={"message-id": b"x"}))
    others = [replace(message, **{name: 3}) for name in ("partition", "offset")]
    again = replace(message, sent_at=AT + timedelta(seconds=1))  # the topic was made anew
    assert len({id_of(one) for one in (message, *others, again, replace(message, topic="other"))}) == 5


def test_a_foreign_message_may_name_itself() -> None:
    by_field, by_header = Foreign(Imported, id_field="Number"), Foreign(Imported, id_header="event")

    def ids(foreign: Foreign, *messages: Got) -> set[UUID]:
        return {foreign.parse(message, max_bytes=LIMIT).metadata.message_id for message in messages}

    places = [Got(b'{"what":"x","Number":5}', {"event": b"5"}, "theirs", n, n) for n in range(3)]
    assert len(ids(by_field, *places)) == len(ids(by_header, *places)) == 1
    assert len(ids(by_field, places[0], replace(places[0], payload=b'{"Number":6}'))) == 2
    for foreign in (by_field, by_header):
        with pytest.raises(MalformedMessageError, match="missing"):
            foreign.parse(Got(b"{}", {}, "theirs"), max_bytes=LIMIT)


def test_a_foreign_message_has_key_time_and_trace_and_nothing_that_it_claims() -> None:
    headers = {"type": b"x", "tenant": b"t", "user": b"u", "correlation-id": b"c-9", "x-a": b"1"}
    one = Foreign(Imported).parse(Got(b'{"what":"x"}', headers, "theirs"), max_bytes=LIMIT)
    metadata = one.metadata
    assert (one.type, one.version, metadata.time, metadata.correlation_id) == ("imported", 1, AT, "c-9")
    assert (metadata.tenant, metadata.user, metadata.headers) == (None, None, {"x-a": "1"})


@pytest.mark.parametrize(
    ("form", "known", "unknown"),
    [
        (Imported, b'{"what":"x","Number":1}', b'{"what":"x","other":1}'),
        (StructImported, b'{"firstName":"x"}', b'{"firstName":"x","first_name":"x"}'),
        (PlainImported, b'{"what":"x"}', b'{"what":"x","other":1}'),
    ],
)
def test_unknown_fields_of_a_foreign_message_are_ignored_or_refused(form: Any, known: bytes, unknown: bytes) -> None:
    for unknown_fields in ("ignore", "refuse"):
        envelopes = Envelopes({"theirs": Foreign(form, unknown_fields=unknown_fields)})  # type: ignore[arg-type]
        assert envelopes.open(Got(known, {}, "theirs"), max_bytes=LIMIT).data == known
    with pytest.raises(MalformedMessageError, match="1 fields that"):
        envelopes.open(Got(unknown, {}, "theirs"), max_bytes=LIMIT)


def test_what_we_send_to_a_foreign_topic_is_bare() -> None:
    sealed = Foreign(Imported, id_header="event").build(outbound(b'{"what":"x"}', "imported", "theirs"))
    assert sealed.payload == b'{"what":"x"}'
    assert sealed.headers == {"x-shop": "north", "event": str(ID), "content-type": "application/json"}
    with pytest.raises(MalformedMessageError, match="give it another topic"):
        Foreign(Imported).build(outbound(b"{}", "thing", "theirs"))


@pytest.mark.parametrize(
    "envelope", [Native(), Native(compress_above=1), CloudEvents("/s"), CloudEvents("/s", "structured")]
)
def test_a_codec_gives_the_data_another_form_and_json_is_still_read(envelope: Envelope) -> None:
    packing = Envelopes({"orders": envelope}, {"thing": MessagePack()})
    data = b'{"a":[1,2.5,null,true,"\xc3\xbc"]}'
    sealed = packing.build(outbound(data))
    assert data not in sealed.payload
    assert packing.open(got(sealed), max_bytes=LIMIT).data == data
    as_json = Envelopes({"orders": envelope}).build(outbound(data))
    assert packing.open(got(as_json), max_bytes=LIMIT).data == data
    with pytest.raises(MalformedMessageError, match="application/msgpack"):
        Envelopes({"orders": envelope}).open(got(sealed), max_bytes=LIMIT)


def test_what_has_no_type_is_sent_as_it_is() -> None:
    headers = {"a": "b", "content-type": "image/png"}
    raw = Outbound(ID, "", "orders", "k", b"\x00raw", headers)
    for envelope in (Native(compress_above=1), CloudEvents("/s")):
        assert Envelopes({"orders": envelope}).build(raw) == Sealed(b"\x00raw", {**headers, "message-id": str(ID)})


@pytest.mark.parametrize("envelope", [None, Native(), CloudEvents("/s"), CloudEvents("/s", "structured")])
@pytest.mark.parametrize("size", [10, 500, 70_000])
def test_no_message_is_larger_than_was_checked_before_the_commit(envelope: Envelope | None, size: int) -> None:
    envelopes = Envelopes({} if envelope is None else {"orders": envelope})
    message = outbound(b'"%s"' % (b"\xc3\xbc" * (size // 2)))
    sealed = envelopes.build(message)
    sent = len(sealed.payload) + sum(len(name) + len(text.encode()) for name, text in sealed.headers.items()) + 1 + 40
    headers = render_headers(METADATA, 3)
    with pytest.raises(MessageTooLargeError, match="as it is sent"):
        envelopes.require_sendable(message, headers, max_bytes=sent)
    envelopes.require_sendable(message, headers, max_bytes=max(len(message.payload), len(sealed.payload)) + 2500)


def test_choices_are_checked_at_the_start() -> None:
    class Half:
        content_type = "application/json"

    _, problems = chosen(
        {"nowhere": Native(), "orders": Half(), "other": Foreign(Imported)},  # type: ignore[dict-item]
        {Half: MessagePack(), Imported: Half()},  # type: ignore[dict-item]
        ["orders", "other"],
    )
    assert [problem.split(";")[0][:60] for problem in problems] == [
        "an envelope is chosen for the topic 'nowhere', and no event ",
        "the envelope of the topic 'orders' has no build and no parse",
        "Foreign(Imported) stands for the topic 'other'",
        "a codec is chosen for what is no event: Half is not an event",
        "the codec of Imported has no encode and no decode: <test_env",
    ]
    with pytest.raises(ConfigurationError, match="not both"):
        Foreign(Imported, id_field="a", id_header="b")
    with pytest.raises(ConfigurationError, match="write a size"):
        Native(compress_above=0)
