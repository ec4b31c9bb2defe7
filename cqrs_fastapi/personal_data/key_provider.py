"""Who keeps the keys that the subjects' keys are encrypted with. They are never in the database."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from cqrs_fastapi.errors import ConfigurationError, CqrsError
from cqrs_fastapi.personal_data.cipher import KEY_BYTES, WrongKeyError, decrypt, encrypt


class KeyNotUnwrappedError(CqrsError):
    """The key of a subject is there and cannot be decrypted. Nothing of it counts as forgotten: repair the provider."""

    code = "key_not_unwrapped"

    def __init__(self, *, wrapped_by: str, reason: str) -> None:
        self.wrapped_by = wrapped_by
        super().__init__(
            f"a subject's key was wrapped by {wrapped_by!r} and cannot be unwrapped: {reason}; give the key provider "
            "that key again, for as long as subjects' keys are wrapped by it"
        )


@dataclass(frozen=True, slots=True)
class Wrapped:
    """A subject's key as it is stored: encrypted, with the name of what can decrypt it."""

    name: str
    data: bytes


@runtime_checkable
class KeyProvider(Protocol):
    """A key management service, or what stands for one. Both methods may be called at any moment, several at once.

    They raise UnavailableError while the service does not answer (it is tried again), and `unwrap` raises
    KeyNotUnwrappedError for what it cannot decrypt. `context` is the same in both calls for a key: who decrypts under
    another one must fail, so that a key moved to another subject's row opens nothing.
    """

    async def wrap(self, key: bytes, context: bytes) -> Wrapped: ...

    async def unwrap(self, wrapped: Wrapped, context: bytes) -> bytes: ...


class LocalKeyProvider:
    """Keys held by the process, each of 32 bytes. The first wraps; all unwrap, so that a new one is put in front of an
    old one.
    """

    __slots__ = ("_current", "_keys")

    def __init__(self, keys: Mapping[str, bytes]) -> None:
        """ConfigurationError for no keys, and for one that has not 32 bytes."""
        if not keys:
            raise ConfigurationError("a LocalKeyProvider needs a key: LocalKeyProvider({'main': 32 random bytes})")
        for name, key in keys.items():
            if len(key) != KEY_BYTES:
                raise ConfigurationError(f"the key {name!r} has {len(key)} bytes; it must have {KEY_BYTES}")
        self._keys = dict(keys)
        self._current = next(iter(self._keys))

    async def wrap(self, key: bytes, context: bytes) -> Wrapped:
        return Wrapped(self._current, encrypt(self._keys[self._current], key, context))

    async def unwrap(self, wrapped: Wrapped, context: bytes) -> bytes:
        master = self._keys.get(wrapped.name)
        if master is None:
            raise KeyNotUnwrappedError(wrapped_by=wrapped.name, reason="no key of that name is configured")
        try:
            return decrypt(master, wrapped.data, context)
        except WrongKeyError:
            raise KeyNotUnwrappedError(wrapped_by=wrapped.name, reason="it is another key of that name") from None


def keys_of(setting: str) -> dict[str, bytes]:
    """`main:<base64>,old:<base64>`. A ConfigurationError never repeats a key."""
    found: dict[str, bytes] = {}
    for number, part in enumerate((part.strip() for part in setting.split(",")), start=1):
        name, colon, text = part.partition(":")
        try:
            key = base64.b64decode(text, validate=True)
        except binascii.Error:
            key = b""
        if not (name and colon and key) or name in found:
            raise ConfigurationError(
                f"CQRS_PERSONAL_DATA_KEYS: part {number} is not name:base64, or repeats a name; write "
                "main:<base64 of 32 random bytes>, and older keys behind it, separated by commas"
            )
        found[name] = key
    return found
