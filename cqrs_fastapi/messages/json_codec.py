"""JSON for every form of message. The class is chosen by the registry, never by the bytes."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails, PydanticSerializationError, from_json, to_json

from cqrs_fastapi.errors import MalformedMessageError
from cqrs_fastapi.messages.forms import is_struct

JsonValue: TypeAlias = Any
"""What JSON can say: objects, lists, text, numbers, truth and None."""

MAX_DEPTH = 64
# Each string is matched at once and to its end, closed or not, without going back: hostile quotes cost linear time.
_STRINGS = re.compile(rb'"(?:[^"\\]|\\.)*+"?', re.DOTALL)
_NO_BRACKETS = bytes(set(range(256)) - set(b"[{]}"))
_CONSTANTS = re.compile(rb"NaN|Infinity")
# Pydantic's kinds of schema that read no NaN, so that nothing need look for one before them.
_WITHOUT_NAN = frozenset(
    {"model", "model-fields", "model-field", "dataclass", "dataclass-args", "dataclass-field", "default", "nullable"}
    | {"str", "int", "bool", "uuid", "decimal", "datetime", "date", "time", "enum", "literal"}
)


@dataclass(frozen=True, slots=True)
class JsonCodec:
    """Both directions for one class. Each raises MalformedMessageError with what does not fit: `encode` refuses what
    `decode` would not read again, so that nothing unreadable is ever stored.
    """

    encode: Callable[[Any], bytes]
    decode: Callable[[bytes], Any]
    read: Callable[[bytes], Any]
    """As `decode`, and faster, for what `encode` has written. Its errors are the parser's own; `decode` tells them."""


def codec_for(cls: type) -> JsonCodec:
    """Compiled once for a class: pydantic model, dataclass or msgspec struct."""
    if is_struct(cls):
        return _struct_codec(cls)
    adapter: TypeAdapter[Any] = TypeAdapter(cls)
    validate, schema = adapter.validator.validate_json, repr(adapter.core_schema)
    names = frozenset(re.findall(r"'([^']+)'", schema))

    def decode(data: bytes) -> Any:
        require_json(data)
        try:
            return validate(data)
        except ValidationError as error:
            # The cause would print the input, which may be secret.
            raise MalformedMessageError(f"{cls.__name__}: {_what_is_wrong(error, names)}") from None

    def read(data: bytes) -> Any:
        if b"NaN" in data or b"Infinity" in data:
            require_json(data)
        return validate(data)

    kinds = set(re.findall(r"'type': '([^']+)'", schema))
    encode = _encoder(cls, adapter, decode, has_floats="'float'" in schema)
    return JsonCodec(encode, decode, validate if kinds <= _WITHOUT_NAN else read)


def require_json(data: bytes, *, depth_limit: int = MAX_DEPTH) -> None:
    """Refuse, before any parser sees them, NaN and infinities, which are no JSON, and nesting deeper than 64."""
    has_constants = b"NaN" in data or b"Infinity" in data
    is_deep = data.count(b"[") + data.count(b"{") > depth_limit
    if not has_constants and not is_deep:
        return
    bare = _STRINGS.sub(b"", data)
    if has_constants and _CONSTANTS.search(bare):
        raise MalformedMessageError("NaN and infinities are not JSON; write them as strings in fields that are floats")
    depth = 0
    for char in bare.translate(None, _NO_BRACKETS):
        depth += 1 if char in b"[{" else -1
        if depth > depth_limit:
            raise MalformedMessageError(f"JSON nested deeper than {depth_limit}")


def parse_json(data: bytes | str) -> Any:
    """Plain JSON as Python values; NaN, infinities and bad text are refused."""
    try:
        return from_json(data, allow_inf_nan=False)
    except (ValueError, TypeError) as error:  # a TypeError is a str that holds lone surrogates
        raise MalformedMessageError(f"not JSON: {error}") from None


def render_json(value: Any) -> str:
    """The text of plain values, as it is stored."""
    return to_json(value, inf_nan_mode="constants").decode()


def _encoder(
    cls: type, adapter: TypeAdapter[Any], decode: Callable[[bytes], Any], *, has_floats: bool
) -> Callable[[Any], bytes]:
    """Models were validated when they were made; a dataclass may hold anything, so its serializer is strict."""
    serialize = adapter.serializer.to_json
    # `warnings` is left out for models, since it takes as long to be read as the rest.
    write = serialize if issubclass(cls, BaseModel) else partial(serialize, warnings="error")

    def encode(message: Any) -> bytes:
        try:
            data = write(message)
        except PydanticSerializationError as error:
            raise _unwritable(cls, error) from None
        require_json(data)
        if has_floats and b"null" in data:
            _require_readable(cls, data, decode)  # NaN is written as null, which no float can be read from
        return data

    return encode


def _struct_codec(cls: type) -> JsonCodec:
    import msgspec  # noqa: PLC0415  # an extra: only who defines a struct needs it

    decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(cls)
    write = msgspec.json.Encoder().encode

    def decode(data: bytes) -> Any:
        require_json(data)
        try:
            return decoder.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise MalformedMessageError(f"{cls.__name__}: {_without_values(error)}") from None

    def encode(message: Any) -> bytes:
        try:
            data = write(message)
        except (ValueError, TypeError, OverflowError, msgspec.MsgspecError) as error:
            raise _unwritable(cls, error) from None
        _require_readable(cls, data, decode)  # a struct may hold anything; reading it again is cheap
        return data

    return JsonCodec(encode, decode, decoder.decode)  # which takes no NaN


def _require_readable(cls: type, data: bytes, decode: Callable[[bytes], Any]) -> None:
    try:
        decode(data)
    except MalformedMessageError as error:
        raise MalformedMessageError(
            f"this {cls.__name__} could be written but not read again ({error}); give its fields values of their "
            f"types, and no NaN or infinity"
        ) from None


def _unwritable(cls: type, error: Exception) -> MalformedMessageError:
    return MalformedMessageError(
        f"this {cls.__name__} cannot be written as JSON ({type(error).__name__}); give its fields values of their types"
    )


def _what_is_wrong(error: ValidationError, names: frozenset[str]) -> str:
    """The first three faults, by field, without the values, which may be secret. Keys that the class does not name are
    values too; so may be the details of a fault, of which only the kind is told.
    """
    faults = error.errors(include_url=False, include_input=False)[:3]
    return "; ".join(f"{_place(fault['loc'], names)}: {_kind(fault)}" for fault in faults)


def _place(location: tuple[int | str, ...], names: frozenset[str]) -> str:
    return ".".join(str(part) if isinstance(part, int) or part in names else "*" for part in location) or "body"


def _kind(fault: ErrorDetails) -> str:
    harmless = "ctx" not in fault or fault["type"] == "json_invalid"
    return fault["msg"] if harmless else fault["type"]


def _without_values(error: Exception) -> str:
    """What msgspec says, less what it quotes from the input."""
    if isinstance(error, UnicodeDecodeError):
        return "text that is not UTF-8"
    return re.sub(r"(Invalid enum value|Invalid value) .*?(?= - at|$)", r"\1", str(error), flags=re.DOTALL)
