"""What strangers may write on our topics, each with the end that it has: handled, or the code of its dead letter."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid5

import msgspec

from cqrs_fastapi import CQRS, Event, Settings
from cqrs_fastapi.brokers.broker import IncomingMessage
from cqrs_fastapi.messages.envelopes.chosen import Envelopes, chosen
from cqrs_fastapi.messages.envelopes.cloud_events import CloudEvents
from cqrs_fastapi.messages.envelopes.foreign import Foreign
from cqrs_fastapi.messages.registry import EventRegistry

LIMIT = 200_000
HANDLED = "handled"
MALFORMED, UNKNOWN, TOO_LARGE = "malformed_message", "unknown_message", "message_too_large"
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
_IDS = UUID("6ba7b811-9dad-11d1-80b4-00c04fd430c8")


class Thing(Event, name="thing", topic="native"):
    what: str
    n: int = 0
    ratio: float = 0.0
    amount: Decimal = Decimal(0)
    at: datetime | None = None
    counts: dict[str, int] = {}  # noqa: RUF012  # pydantic copies it
    extra: Any = None


class CloudThing(Event, name="cloud.thing", topic="clouds"):
    what: str


class Imported(Event, name="imported", topic="foreign"):
    what: str


class Numbered(Event, name="numbered", topic="numbered"):
    what: str
    number: str


class Packed(Event, name="packed", topic="packed"):
    what: str


TYPES: list[Any] = [Thing, CloudThing, Imported, Numbered, Packed]


class MessagePack:
    """A codec as a user writes it."""

    content_type = "application/msgpack"

    def encode(self, value: Any) -> bytes:
        return msgspec.msgpack.encode(value)

    def decode(self, data: bytes) -> Any:
        return msgspec.msgpack.decode(data)


ENVELOPES: dict[str, Any] = {
    "clouds": CloudEvents(source="/tests"),
    "foreign": Foreign(Imported),
    "numbered": Foreign(Numbered, id_field="number", unknown_fields="refuse"),
}
CODECS: dict[Any, Any] = {Packed: MessagePack()}


def envelopes() -> Envelopes:
    made, problems = chosen(ENVELOPES, CODECS, [one.__event__.topic for one in TYPES])
    assert not problems
    return made


def registry() -> EventRegistry:
    return EventRegistry(TYPES)


def application(settings: Settings) -> CQRS:
    return CQRS(settings=settings, envelopes=ENVELOPES, codecs=CODECS)


@dataclass(frozen=True)
class Case:
    name: str
    end: str
    payload: bytes = b'{"what":"x"}'
    headers: Mapping[str, bytes] = field(default_factory=dict)
    topic: str = "native"
    key: bytes | None = b"k"

    @property
    def message_id(self) -> UUID:
        return uuid5(_IDS, self.name)

    def message(self, offset: int = 0) -> IncomingMessage:
        return IncomingMessage(self.topic, 0, offset, self.key, self.payload, self.headers, NOW)


def corpus() -> list[Case]:
    cases = [*_payloads(), *_headers(), *_names(), *_compressed(), *_clouds(), *_foreign(), *_packed()]
    assert len({case.name for case in cases}) == len(cases)
    return cases


def native(name: str, end: str, payload: bytes = b'{"what":"x"}', key: bytes | None = b"k", **changed: Any) -> Case:
    """`None` leaves a header out; underscores stand for hyphens."""
    message_id = str(uuid5(_IDS, name)).encode()
    given: dict[str, Any] = {"message-id": message_id, "type": b"thing", "version": b"1"}
    given |= {key.replace("_", "-"): value for key, value in changed.items()}
    return Case(name, end, payload, {key: value for key, value in given.items() if value is not None}, key=key)


def _payloads() -> Iterator[Case]:
    """All kinds of things that are not what the class wants."""

    def json_of(name: str, end: str, text: str) -> Case:
        return native(f"payload {name}", end, text.encode("utf-8", "surrogatepass"))

    for value in ("null", "true", "1", '"x"', "[]", "{}", "[{}]", '{"what":null}', '{"what":1}', '{"what":[]}'):
        yield json_of(f"of another type {value}", MALFORMED, value)
    for text in ("", " ", "not json", "{", '{"what":"x"', '{"what":"x"}}', '{"what":"x",}', "{'what':'x'}", "\ufeff{}"):
        yield json_of(f"no json {text!r}", MALFORMED, text)
    for text in ("NaN", "Infinity", "-Infinity", '{"what":"x","ratio":NaN}', '{"what":"x","extra":Infinity}'):
        yield json_of(f"a constant {text}", MALFORMED, text)
    yield json_of("1e9999 in a float is an infinity", HANDLED, '{"what":"x","ratio":1e9999}')
    yield json_of("1e9999 in an int", MALFORMED, '{"what":"x","n":1e9999}')
    yield json_of("1e9999 in a decimal", HANDLED, '{"what":"x","amount":"1e9999"}')
    yield json_of("an int of 4,000 digits", HANDLED, '{"what":"x","n":' + "9" * 4000 + "}")
    yield json_of("an int of 5,000 digits", MALFORMED, '{"what":"x","n":' + "9" * 5000 + "}")
    yield json_of("an int of 100,000 digits", MALFORMED, '{"what":"x","extra":' + "9" * 100_000 + "}")
    yield json_of("a float of 100,000 digits", HANDLED, '{"what":"x","ratio":0.' + "9" * 100_000 + "}")
    yield json_of("a fraction for an int", MALFORMED, '{"what":"x","n":1.5}')
    yield json_of("a decimal that is none", MALFORMED, '{"what":"x","amount":"ten"}')
    yield json_of("a time that is none", MALFORMED, '{"what":"x","at":"yesterday"}')
    yield json_of("a time far away", MALFORMED, '{"what":"x","at":99999999999999999999}')
    yield json_of("a text twice, of which the last counts", HANDLED, '{"what":1,"what":"x"}')
    yield json_of("a text twice, of which the last is none", MALFORMED, '{"what":"x","what":1}')
    yield json_of("unknown fields", HANDLED, '{"what":"x","more":{"a":[1]}}')
    yield json_of("fields of the class itself", HANDLED, '{"what":"x","__class__":"os.system","__event__":1}')
    yield json_of("the fields of a model", HANDLED, '{"what":"x","model_config":{},"__dict__":{"n":"x"}}')
    yield json_of("a NUL in a text", HANDLED, '{"what":"a\\u0000b"}')
    yield json_of("a lone surrogate", MALFORMED, '{"what":"\\ud800"}')
    yield json_of("a raw control character", MALFORMED, '{"what":"a\x00b"}')
    yield json_of("a raw surrogate", MALFORMED, '{"what":"\ud800"}')
    yield native("payload that is no text", MALFORMED, b'{"what":"\xff"}')
    yield native("payload in UTF-16", MALFORMED, '{"what":"x"}'.encode("utf-16"))
    yield native("payload in UTF-32", MALFORMED, '{"what":"x"}'.encode("utf-32"))
    yield native("payload of zeros", MALFORMED, bytes(1000))
    yield native("payload of a pickle", MALFORMED, b"cos\nsystem\n(S'true'\ntR.")
    for depth, end in ((60, HANDLED), (63, HANDLED), (64, MALFORMED), (1_000, MALFORMED), (60_000, MALFORMED)):
        yield json_of(f"{depth} lists deep", end, '{"what":"x","extra":' + "[" * depth + "]" * depth + "}")
    for opening in ("[", "{", '{"a":', "[{"):
        yield json_of(f"never closed {opening}", MALFORMED, opening * (100_000 // len(opening)))
    yield json_of("brackets in a text", HANDLED, json.dumps({"what": "[" * 10_000 + '"' + "{" * 10_000}))
    yield json_of("quotes without end", MALFORMED, '{"what":"' + '\\"' * 50_000)
    yield json_of("15,000 keys", HANDLED, json.dumps({"what": "x", "extra": dict.fromkeys(range(15_000), 0)}))
    yield json_of("45,000 empty lists", HANDLED, json.dumps({"what": "x", "extra": [[]] * 45_000}))
    yield native("payload at the limit", HANDLED, b'{"what":"%s"}' % (b"x" * (LIMIT - 11)))
    yield native("payload above the limit", TOO_LARGE, b'{"what":"%s"}' % (b"x" * (LIMIT - 10)))
    yield native("payload far above the limit", TOO_LARGE, b"[" * 900_000)


def _headers() -> Iterator[Case]:
    yield Case("no header at all", MALFORMED)
    for name in ("message_id", "type"):
        yield native(f"header {name} missing", MALFORMED, **{name: None})
        yield native(f"header {name} empty", MALFORMED, **{name: b""})
    yield native("header version missing is 1", HANDLED, version=None)
    for number, value in enumerate((b"0", b"2", b"99999")):
        yield native(f"header version unknown {number}", UNKNOWN, version=value)
    for number, value in enumerate(
        (b"", b"one", b"-1", b"1.0", b"1e3", b" 1", "\u0661".encode(), b"1" * 6, b"9" * 900)
    ):
        yield native(f"header version no number {number}", MALFORMED, version=value)
    for number, value in enumerate((b"x", b"1", b"g" * 32, b"0" * 31, b"\xff" * 16, b"0" * 1000, b"; DROP TABLE")):
        yield native(f"header message-id no UUID {number}", MALFORMED, message_id=value)
        yield native(f"header causation-id no UUID {number}", MALFORMED, causation_id=value)
    for number, value in enumerate((b"yesterday", b"2026-01-02T03:04:05", b"99999-01-01T00:00:00Z", b"1767323045")):
        yield native(f"header time no time {number}", MALFORMED, time=value)
    hostile = {
        "CRLF": b"a\r\nSet-Cookie: x",
        "NUL": b"a\x00b",
        "escape": b"\x1b[2Jgone",
        "no UTF-8": b"\xff\xfe",
        "surrogate": "\ud800".encode("utf-8", "surrogatepass"),
        "right to left": "a\u202eb".encode(),
        "2,000 characters": b"x" * 2000,
    }
    for kind, value in hostile.items():
        for name in ("type", "tenant", "user", "content_type", "content_encoding"):
            yield native(f"header {name} with {kind}", MALFORMED, **{name: value})
        for name in ("correlation_id", "traceparent", "anything"):
            yield native(f"header {name} with {kind} is not taken over", HANDLED, **{name: value})
    yield native("header tenant of 256 characters", MALFORMED, tenant=b"t" * 256)
    yield native("header user of 256 characters", MALFORMED, user=b"u" * 256)
    yield native("header tenant of 255 characters", HANDLED, tenant=b"t" * 255)
    for kind, value in {"xml": b"application/xml", "java": b"application/x-java-serialized-object"}.items():
        yield native(f"content type {kind}", MALFORMED, content_type=value)
    yield native("content type with a charset", HANDLED, content_type=b"application/json; charset=utf-8")
    yield native("content type of a suffix", HANDLED, content_type=b"application/vnd.shop+json")
    many = {f"x{n}": b"1" for n in range(200)}
    yield native("200 headers", HANDLED, **many)
    yield native("257 headers", TOO_LARGE, **{f"x{n}": b"1" for n in range(254)})
    yield native("10,000 headers", TOO_LARGE, **{f"x{n}": b"1" for n in range(10_000)})
    yield native("headers of 60 KiB", HANDLED, big=b"x" * 60_000)
    yield native("headers of 70 KiB", TOO_LARGE, big=b"x" * 70_000)
    yield native("a header name of 60,000 characters", HANDLED, **{"x" * 60_000: b"1"})
    yield native("a header name with NUL", HANDLED, **{"a\x00b": b"1"})
    yield native("a header without a name", HANDLED, **{"": b"1"})
    yield native("a header in capitals is another", MALFORMED, message_id=None, **{"Message-Id": b"x"})
    yield native("a key that is no text", HANDLED, key=b"\xff\x00")
    yield native("no key", HANDLED, key=None)
    yield native("a key of 100,000 bytes", HANDLED, key=b"k" * 100_000)


NAMES = [
    *("__import__", "os:system", "os.system", "os", "builtins.eval", "eval", "exec", "subprocess.Popen", "antigravity"),
    *(
        "this",
        "thing.__class__",
        "Thing",
        "THING",
        "thing ",
        " thing",
        "thing\u200b",
        "th\u0456ng",
        "\uff54hing",
        "../thing",
    ),
    *("cqrs_fastapi.errors:CqrsError", "tests.bad_input:Thing", "__main__.Thing", "thing;1", "thing:1", "thing/1"),
    *("pickle.loads", "{0.__class__}", "%s%s", "${jndi:ldap://x}", "idlelib.idle", "' OR 1=1 --", "a" * 255, "😀"),
]
"""Names that somebody might hope are looked up."""


def _names() -> Iterator[Case]:
    for name in NAMES:
        printable = name.isprintable()
        yield native(f"type {name}", UNKNOWN if printable else MALFORMED, type=name.encode())


def _compressed() -> Iterator[Case]:
    good = b'{"what":"%s"}' % (b"x" * 1000)
    zeros = b'{"what":"%s"}' % (b"0" * 50_000_000)
    bomb = gzip.compress(zeros, mtime=0)
    yield native("gzip", HANDLED, gzip.compress(good), content_encoding=b"gzip")
    yield native("gzip said to be none", MALFORMED, gzip.compress(good))
    yield native("gzip said to be identity", MALFORMED, gzip.compress(good), content_encoding=b"identity")
    yield native("no gzip that is said to be some", MALFORMED, good, content_encoding=b"gzip")
    yield native("gzip of 50 MB", TOO_LARGE, bomb, content_encoding=b"gzip")
    yield native("gzip of gzip of 50 MB", MALFORMED, gzip.compress(bomb), content_encoding=b"gzip")
    yield native("gzip cut off", MALFORMED, gzip.compress(good)[:-9], content_encoding=b"gzip")
    yield native("gzip with another checksum", MALFORMED, gzip.compress(good)[:-8] + bytes(8), content_encoding=b"gzip")
    lying = gzip.compress(good)[:-4] + b"\x01\0\0\0"
    yield native("gzip that lies about its size", MALFORMED, lying, content_encoding=b"gzip")
    yield native("gzip with something behind", MALFORMED, gzip.compress(good) + b"x", content_encoding=b"gzip")
    yield native("two gzips", MALFORMED, gzip.compress(good) * 2, content_encoding=b"gzip")
    yield native("gzip of nothing", MALFORMED, gzip.compress(b""), content_encoding=b"gzip")
    yield native("gzip of a ratio of 900", TOO_LARGE, gzip.compress(b" " * 150_000), content_encoding=b"gzip")
    yield native("zlib instead of gzip", MALFORMED, zlib.compress(good), content_encoding=b"gzip")
    for encoding in (b"zstd", b"br", b"deflate", b"gzip, gzip", b"GZIP", b"snappy"):
        yield native(f"encoding {encoding.decode()}", MALFORMED, good, content_encoding=encoding)


def _cloud(name: str, end: str, payload: bytes = b'{"what":"x"}', **changed: Any) -> Case:
    """Binary; `None` leaves an attribute out."""
    given = {"specversion": b"1.0", "id": name.encode(), "source": b"/s", "type": b"cloud.thing", **changed}
    headers = {f"ce_{key}": value for key, value in given.items() if value is not None}
    return Case(f"cloud {name}", end, payload, headers, "clouds")


def _structured(name: str, end: str, text: str | bytes | None = None, **changed: Any) -> Case:
    given = {"specversion": "1.0", "id": name, "source": "/s", "type": "cloud.thing", "data": {"what": "x"}, **changed}
    whole = json.dumps({key: value for key, value in given.items() if value is not ...})
    payload = whole if text is None else text
    raw = payload if isinstance(payload, bytes) else payload.encode()
    return Case(f"structured {name}", end, raw, {"content-type": b"application/cloudevents+json"}, "clouds")


def _clouds() -> Iterator[Case]:
    yield Case("cloud without anything", MALFORMED, topic="clouds")
    yield _cloud("good", HANDLED)
    for name in ("specversion", "id", "source", "type"):
        yield _cloud(f"without {name}", MALFORMED, **{name: None})
        yield _cloud(f"with an empty {name}", MALFORMED, **{name: b""})
        yield _cloud(f"with {name} of two lines", MALFORMED, **{name: b"a\nb"})
        yield _structured(f"without {name}", MALFORMED, **{name: ...})
        yield _structured(f"with {name} null", MALFORMED, **{name: None})
        yield _structured(f"with {name} as a list", MALFORMED, **{name: ["1.0"]})
    yield _cloud("of version 0.3", MALFORMED, specversion=b"0.3")
    yield _cloud("of another type", UNKNOWN, type=b"os.system")
    yield _cloud("with a wrong time", MALFORMED, time=b"noon")
    yield _cloud("with a wrong schemaversion", MALFORMED, schemaversion=b"x")
    yield _cloud("with a cause that is no UUID", HANDLED, causationid=b"order-1")
    yield _cloud("with a hostile correlation", HANDLED, correlationid=b"a\r\nb")
    yield _cloud("with a hostile extension", HANDLED, other=b"\xff\x00")
    yield _cloud("with a long tenant", MALFORMED, tenant=b"t" * 300)
    yield _cloud("with no data", MALFORMED, b"")
    yield _structured("good", HANDLED)
    yield _structured("with unknown attributes", HANDLED, more="a", other=1, third=True)
    yield _structured("with capitals in an attribute", MALFORMED, Other="a")
    yield _structured("with an object as an attribute", MALFORMED, other={"a": 1})
    yield _structured("with a fraction as an attribute", MALFORMED, other=1.5)
    yield _structured("without data", MALFORMED, data=...)
    yield _structured("with data as text", MALFORMED, data='{"what":"x"}')
    yield _structured("in base64", HANDLED, data=..., data_base64="eyJ3aGF0IjoieCJ9")
    yield _structured("in no base64", MALFORMED, data=..., data_base64="%%%")
    yield _structured("in base64 that is a number", MALFORMED, data=..., data_base64=5)
    yield _structured("in both", MALFORMED, data_base64="eyJ3aGF0IjoieCJ9")
    yield _structured("of xml", MALFORMED, datacontenttype="application/xml")
    yield _structured("as a list", MALFORMED, "[1]")
    yield _structured("as nothing", MALFORMED, "")
    yield _structured("as no text", MALFORMED, b"\xff{}")
    yield _structured("with an id twice", MALFORMED, '{"specversion":"1.0","id":"a","id":"b","source":"s","type":"t"}')
    yield _structured("65 deep", MALFORMED, '{"data":' + "[" * 65 + "]" * 65 + "}")
    yield _structured("never closed", MALFORMED, '{"data":' * 20_000)
    yield _structured("of 60,000 numbers", MALFORMED, json.dumps({"data": [0] * 60_000}))
    yield _structured("with an int of 100,000 digits", MALFORMED, '{"specversion":' + "9" * 100_000 + "}")
    for kind in ("+avro", "-batch+json", "", "+JSON2"):
        media_type = f"application/cloudevents{kind}".encode()
        yield Case(f"structured as {kind}", MALFORMED, b"[]", {"content-type": media_type}, "clouds")


def _foreign() -> Iterator[Case]:
    def foreign(name: str, end: str, payload: bytes, headers: Mapping[str, bytes] | None = None) -> Case:
        return Case(f"foreign {name}", end, payload, headers or {}, "foreign")

    def numbered(name: str, end: str, payload: bytes) -> Case:
        return Case(f"numbered {name}", end, payload, {}, "numbered")

    yield foreign("good", HANDLED, b'{"what":"x"}')
    yield foreign("with more fields", HANDLED, b'{"what":"x","more":1}')
    yield foreign("with hostile headers", HANDLED, b'{"what":"x"}', {"type": b"\xff", "message-id": b"\0", "a\nb": b""})
    yield foreign("that calls itself something else", HANDLED, b'{"what":"x"}', {"type": b"os.system", "version": b"9"})
    yield foreign("with a hostile tenant, which is not taken", HANDLED, b'{"what":"x"}', {"tenant": b"a\nb"})
    yield foreign("as xml", MALFORMED, b"<what>x</what>", {"content-type": b"text/xml"})
    yield foreign("of a wrong type", MALFORMED, b'{"what":1}')
    yield foreign("with no payload", MALFORMED, b"")
    yield foreign("too large", TOO_LARGE, b" " * (LIMIT + 1))
    yield numbered("good", HANDLED, b'{"what":"x","number":"1"}')
    yield numbered("with more fields", MALFORMED, b'{"what":"x","number":"2","more":1}')
    yield numbered("without its number", MALFORMED, b'{"what":"x"}')
    for number, value in enumerate((b"null", b'""', b"[]", b"{}", b'"a\\nb"', b'"\\ud800"', b'"' + b"n" * 2000 + b'"')):
        yield numbered(f"with a number that names nothing {number}", MALFORMED, b'{"what":"x","number":%s}' % value)
    yield numbered("with its number twice", MALFORMED, b'{"number":"1","number":"2","what":"x"}')
    yield numbered("that is no object", MALFORMED, b'["number"]')


def _packed() -> Iterator[Case]:
    def packed(name: str, end: str, payload: bytes, content_type: bytes | None = b"application/msgpack") -> Case:
        case = native(f"packed {name}", end, payload, type=b"packed", content_type=content_type)
        return Case(case.name, end, payload, case.headers, "packed")

    yield packed("good", HANDLED, msgspec.msgpack.encode({"what": "x"}))
    yield packed("that is JSON", HANDLED, b'{"what":"x"}', None)
    yield packed("that says JSON and is none", MALFORMED, msgspec.msgpack.encode({"what": "x"}), None)
    yield packed("that is cut off", MALFORMED, msgspec.msgpack.encode({"what": "x"})[:-1])
    yield packed("with something behind", MALFORMED, msgspec.msgpack.encode({"what": "x"}) + b"\0")
    yield packed("that announces 4 billion elements", MALFORMED, b"\xdd\xff\xff\xff\xff")
    yield packed("nested 100,000 deep", MALFORMED, b"\x91" * 100_000)
    yield packed("nested 100 deep", MALFORMED, b"\x81\xa4what" + b"\x91" * 100 + b"\x01")
    yield packed("with NaN", MALFORMED, msgspec.msgpack.encode({"what": "x", "n": float("nan")}))
    yield packed("with bytes as keys", MALFORMED, b"\x81\xc4\x01\xff\x01")
    yield packed("with an extension", MALFORMED, b"\x81\xa4what\xd4\x05\x00")
    yield packed("of nothing", MALFORMED, b"")
    yield packed("of another content type", MALFORMED, b"", b"application/x-protobuf")
