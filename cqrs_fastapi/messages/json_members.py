"""The members of a JSON object, each with its own bytes: what is inside of one is not decoded and written again."""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn

from cqrs_fastapi.errors import MalformedMessageError
from cqrs_fastapi.messages.json_codec import MAX_DEPTH, require_json

_SPACE = re.compile(r"[ \t\n\r]*")


def _constant(name: str) -> NoReturn:
    raise ValueError(name)


# Only where values end is wanted: numbers are neither computed nor kept, which would cost time and memory.
_DECODER = json.JSONDecoder(parse_int=bool, parse_float=bool, parse_constant=_constant)


def members_of(data: bytes, *, depth_limit: int = MAX_DEPTH) -> dict[str, str]:
    """By name, the JSON text of each. MalformedMessageError for what is no object, is nested deeper than
    `depth_limit`, or names a member twice: two readers might take two different ones.
    """
    require_json(data, depth_limit=depth_limit)
    try:
        return _members(data.decode())
    except (ValueError, IndexError, RecursionError):  # a UnicodeDecodeError and a JSONDecodeError are ValueErrors
        raise MalformedMessageError("the payload is no JSON object, or names a member twice") from None


def _members(text: str) -> dict[str, str]:
    found: dict[str, str] = {}
    at = _past(text, 0, "{")
    if text[at] == "}":
        _require_end(text, at + 1)
        return found
    while True:
        name, at = _value(text, at)
        if not isinstance(name, str) or name in found:
            raise ValueError
        start = _past(text, at, ":")
        _, at = _value(text, start)
        found[name] = text[start:at]
        at = _space(text, at)
        if text[at] == "}":
            _require_end(text, at + 1)
            return found
        at = _past(text, at, ",")


def _value(text: str, at: int) -> tuple[Any, int]:
    return _DECODER.raw_decode(text, at)


def _past(text: str, at: int, char: str) -> int:
    """Where what follows this character begins, spaces left out."""
    at = _space(text, at)
    if text[at] != char:
        raise ValueError
    return _space(text, at + 1)


def _space(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return at if found is None else found.end()


def _require_end(text: str, at: int) -> None:
    if _space(text, at) != len(text):
        raise ValueError
