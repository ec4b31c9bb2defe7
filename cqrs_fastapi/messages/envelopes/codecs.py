"""Other forms than JSON for the data of an event on its way: what is stored stays JSON."""

from __future__ import annotations

from typing import Protocol

from pydantic_core import to_json

from cqrs_fastapi.errors import MalformedMessageError
from cqrs_fastapi.messages.json_codec import JsonValue, parse_json, require_json

JSON = "application/json"
_LONGEST = 255


class Codec(Protocol):
    """One for a class of events, by `CQRS(codecs={Deposited: MessagePack()})`: msgpack, Avro, Protobuf and the like.

    It is given and gives what JSON can say: objects, lists, text, numbers, truth and None. So it never sees classes,
    and what is personal stays encrypted in it. Neither call may wait. The same value must give the same bytes.
    """

    @property
    def content_type(self) -> str:
        """The media type that says so on the wire, for instance `application/msgpack`."""
        ...

    def encode(self, value: JsonValue) -> bytes: ...

    def decode(self, data: bytes) -> JsonValue:
        """Any exception means that the bytes are malformed. They are no longer than the limit of a message; nothing
        of them may be trusted.
        """
        ...


def is_json(content_type: str) -> bool:
    """Whether data of this media type is JSON: `application/json`, `text/json` or `…+json`, with any parameters."""
    media_type = content_type.partition(";")[0].strip().lower()
    return media_type in {JSON, "text/json"} or media_type.endswith("+json")


def same_media_type(one: str, other: str) -> bool:
    """Parameters, as a charset, tell no two media types apart."""
    return one.partition(";")[0].strip().lower() == other.partition(";")[0].strip().lower()


def encoded(codec: Codec, payload: bytes) -> bytes:
    """Stored JSON in the codec's form. MalformedMessageError if the codec cannot say it."""
    value: JsonValue = parse_json(payload)
    try:
        return codec.encode(value)
    except Exception as error:  # noqa: BLE001  # whatever it is, this event cannot be sent like this
        raise MalformedMessageError(f"{codec.content_type} cannot say this event: {type(error).__name__}") from None


def decoded(codec: Codec, data: bytes) -> bytes:
    """As JSON again. MalformedMessageError for bytes that are not what they should be."""
    try:
        rendered = to_json(codec.decode(data), inf_nan_mode="constants")
    except Exception as error:  # noqa: BLE001  # strangers' bytes: see `Codec.decode`
        raise MalformedMessageError(f"the data is no {codec.content_type}: {type(error).__name__}") from None
    require_json(rendered)
    return rendered
