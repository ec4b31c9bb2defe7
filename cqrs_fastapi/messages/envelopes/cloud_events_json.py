"""The JSON event format of CloudEvents 1.0, which the structured mode has as its payload."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping

from pydantic_core import to_json

from cqrs_fastapi.errors import MalformedMessageError
from cqrs_fastapi.messages.envelopes.codecs import JSON, is_json
from cqrs_fastapi.messages.json_codec import MAX_DEPTH, parse_json
from cqrs_fastapi.messages.json_members import members_of

MEDIA_TYPE = "application/cloudevents"
_ATTRIBUTE = re.compile(r"[a-z0-9]{1,64}")
_NOT_ATTRIBUTES = frozenset({"data", "data_base64"})


def is_structured(content_type: str) -> bool:
    """As the Kafka binding says: whatever begins like this, in any case."""
    return content_type.lower().startswith(MEDIA_TYPE)


def to_json_format(attributes: Mapping[str, str], content_type: str, data: bytes) -> bytes:
    """JSON data are a member as they are, byte for byte; other data are base64."""
    head = to_json({**attributes, "datacontenttype": content_type})[:-1]
    if is_json(content_type):
        return b'%s,"data":%s}' % (head, data)
    return b'%s,"data_base64":"%s"}' % (head, base64.b64encode(data))


def from_json_format(content_type: str, payload: bytes) -> tuple[dict[str, bytes], str, bytes]:
    """Attributes, the media type of the data, and the data. MalformedMessageError."""
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type != f"{MEDIA_TYPE}+json":
        raise MalformedMessageError(f"{media_type[:60]!r} is not read; CloudEvents come as {MEDIA_TYPE}+json")
    members = members_of(payload, depth_limit=MAX_DEPTH + 1)  # the envelope is one level more than its data
    attributes = {name: _attribute(name, text) for name, text in members.items() if name not in _NOT_ATTRIBUTES}
    present = {name: value for name, value in attributes.items() if value is not None}
    kind = present.pop("datacontenttype", JSON.encode()).decode("utf-8", "replace")
    return present, kind, _data(members, kind)


def _attribute(name: str, text: str) -> bytes | None:
    """An attribute is a string, a whole number or a boolean; null is as if it were not there."""
    if not _ATTRIBUTE.fullmatch(name):
        raise MalformedMessageError(f"{name[:40]!r} is no name of a CloudEvents attribute")
    if text == "null":
        return None
    if text.startswith('"'):
        value = parse_json(text)
        return str(value).encode()
    if text in {"true", "false"} or re.fullmatch(r"-?[0-9]{1,10}", text):
        return text.encode()
    raise MalformedMessageError(f"the CloudEvents attribute {name!r} is no text, whole number or boolean")


def _data(members: Mapping[str, str], content_type: str) -> bytes:
    if "data_base64" in members:
        if "data" in members:
            raise MalformedMessageError("this CloudEvent has both data and data_base64")
        return _from_base64(parse_json(members["data_base64"]))
    text = members.get("data", "null")
    if is_json(content_type):
        return text.encode()
    if not text.startswith('"'):
        raise MalformedMessageError(f"the data of this CloudEvent are {content_type[:60]!r} and no text")
    return str(parse_json(text)).encode()


def _from_base64(value: object) -> bytes:
    try:
        return base64.b64decode(value, validate=True) if isinstance(value, str) else _no_base64()
    except (binascii.Error, ValueError):
        return _no_base64()


def _no_base64() -> bytes:
    raise MalformedMessageError("the data_base64 of this CloudEvent is no base64")
