"""What stands in the JSON in place of a personal value: a text that names its key and what it reads as without it.

`cqrs:personal:1:<key id, nonce, ciphertext, tag in base64>:<the placeholder as JSON>`. A token is bound to its place:
copied to another tenant, stream, type, version or field it is no more than a text. So no mark is needed to read one,
and whoever writes such a text into a field that is not personal gets that text back.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from pydantic_core import to_json

from cqrs_fastapi.errors import MalformedMessageError
from cqrs_fastapi.messages.json_codec import parse_json
from cqrs_fastapi.personal_data.cipher import WrongKeyError, decrypt, encrypt

PREFIX = "cqrs:personal:1:"
_KEY_ID_BYTES = 16


@dataclass(frozen=True, slots=True)
class Place:
    """Where a value is kept. An event that belongs to no stream has `<type>-<message id>` in its stead."""

    tenant: str
    stream: str
    type: str
    version: int

    def of(self, field: str, key_id: UUID, placeholder: str) -> bytes:
        """What a token is bound to. JSON, in which no two lists are written alike."""
        return to_json([PREFIX, self.tenant, self.stream, self.type, self.version, field, key_id, placeholder])


@dataclass(frozen=True, slots=True)
class Token:
    """A token, taken apart. `placeholder` is JSON."""

    key_id: UUID
    sealed: bytes
    placeholder: str

    @classmethod
    def parse(cls, text: str) -> Token | None:
        """None if the text is no token."""
        body, colon, placeholder = text.removeprefix(PREFIX).partition(":")
        if not colon or not text.startswith(PREFIX):
            return None
        try:
            data = base64.b64decode(body, validate=True)
            parse_json(placeholder)
        except (binascii.Error, ValueError, MalformedMessageError):
            return None
        if len(data) <= _KEY_ID_BYTES:
            return None
        return cls(UUID(bytes=data[:_KEY_ID_BYTES]), data[_KEY_ID_BYTES:], placeholder)

    def open(self, key: bytes, place: Place, field: str) -> Any:
        """The value. WrongKeyError if the token was not made with this key for this place."""
        return parse_json(decrypt(key, self.sealed, place.of(field, self.key_id, self.placeholder)))

    def forgotten(self) -> Any:
        """What the field reads as once the key is no more."""
        return parse_json(self.placeholder)


def seal(value: Any, key_id: UUID, key: bytes, place: Place, *, field: str, placeholder: str) -> str:
    """The token of a plain JSON value."""
    sealed = encrypt(key, to_json(value), place.of(field, key_id, placeholder))
    return f"{PREFIX}{base64.b64encode(key_id.bytes + sealed).decode()}:{placeholder}"


def is_token(value: Any) -> bool:
    """Whether it looks like one."""
    return isinstance(value, str) and value.startswith(PREFIX)


__all__ = ["PREFIX", "Place", "Token", "WrongKeyError", "is_token", "seal"]
