"""JSON for every form of message. The class is chosen by the registry, never by the bytes."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import from_json, to_json

from cqrs_fastapi.errors import MalformedMessageError
from cqrs_fastapi.messages.forms import is_struct

MAX_DEPTH = 64
_STRINGS = re.compile(rb'"(?:[^"\\]|\\.)*"')


@dataclass(frozen=True, slots=True)
class JsonCodec:
    """Both directions for one class. `decode` raises MalformedMessageError with what does not fit."""

    encode: Callable[[Any], bytes]
    decode: Callable[[bytes], Any]


def codec_for(cls: type) -> JsonCodec:
    """Compiled once for a class: pydantic model, dataclass or msgspec struct."""
    if is_struct(cls):
        return _struct_codec(cls)
    adapter: TypeAdapter[Any] = TypeAdapter(cls)
    encode = cls.__pydantic_serializer__.to_json if issubclass(cls, BaseModel) else adapter.serializer.to_json
    validate = adapter.validator.validate_json

    def decode(data: bytes) -> Any:
        require_shallow(data)
        try:
            return validate(data)
        except ValidationError as error:
            raise MalformedMessageError(f"{cls.__name__}: {_what_is_wrong(error)}") from error

    return JsonCodec(encode, decode)


def require_shallow(data: bytes) -> None:
    """Refuse nesting deeper than 64 before any parser recurses into it."""
    if data.count(b"[") + data.count(b"{") <= MAX_DEPTH:
        return
    depth = 0
    for char in _STRINGS.sub(b"", data):
        if char in b"[{":
            depth += 1
            if depth > MAX_DEPTH:
                raise MalformedMessageError(f"JSON nested deeper than {MAX_DEPTH}")
        elif char in b"]}":
            depth -= 1


def parse_json(data: bytes | str) -> Any:
    """Plain JSON as Python values; NaN, infinities and bad text are refused."""
    try:
        return from_json(data, allow_inf_nan=False)
    except ValueError as error:
        raise MalformedMessageError(f"not JSON: {error}") from error


def render_json(value: Any) -> str:
    """The text of plain values, as it is stored."""
    return to_json(value, inf_nan_mode="constants").decode()


def _struct_codec(cls: type) -> JsonCodec:
    import msgspec  # noqa: PLC0415  # an extra: only who defines a struct needs it

    decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(cls)

    def decode(data: bytes) -> Any:
        require_shallow(data)
        try:
            return decoder.decode(data)
        except msgspec.DecodeError as error:
            raise MalformedMessageError(f"{cls.__name__}: {error}") from error

    return JsonCodec(msgspec.json.Encoder().encode, decode)


def _what_is_wrong(error: ValidationError) -> str:
    """The first three faults, by field, without the values, which may be secret."""
    faults = error.errors(include_url=False, include_context=False, include_input=False)
    return "; ".join(f"{'.'.join(map(str, fault['loc'])) or 'body'}: {fault['msg']}" for fault in faults[:3])
