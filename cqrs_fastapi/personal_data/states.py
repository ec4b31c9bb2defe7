"""States that were folded from personal data: whole ones, as snapshots keep them, and fields of root entities."""

from __future__ import annotations

import os
from collections.abc import Mapping
from uuid import UUID

from pydantic_core import to_json

from cqrs_fastapi.personal_data.cipher import WrongKeyError, decrypt, encrypt, joint_key
from cqrs_fastapi.personal_data.tokens import Place

_FORM = b"cqrs:sealed:1:"
_SALT_BYTES = 16


def seal_state(state: bytes, keys: Mapping[UUID, bytes], place: Place) -> bytes:
    """Encrypt a state that holds data of several subjects, so that it takes the keys of all of them to read it.

    `place` is where it is kept: for a snapshot the stream, its fingerprint as the type, and its version. ValueError
    without keys: a state that holds nobody's data is stored as it is.
    """
    if not keys:
        raise ValueError("a state is sealed with the keys of the subjects whose data it holds, and there are none")
    salt = os.urandom(_SALT_BYTES)
    return _FORM + salt + encrypt(_joint(keys, salt), state, _bound(keys, place))


def open_state(sealed: bytes, keys: Mapping[UUID, bytes], place: Place) -> bytes:
    """What was sealed with exactly these keys for this place. WrongKeyError otherwise: make the state anew."""
    if not sealed.startswith(_FORM) or not keys:
        raise WrongKeyError("not sealed, or not with these keys")
    salt = sealed[len(_FORM) : len(_FORM) + _SALT_BYTES]
    return decrypt(_joint(keys, salt), sealed[len(_FORM) + _SALT_BYTES :], _bound(keys, place))


def place_of_state(tenant: str, category: str, id: UUID) -> Place:
    """Where the fields of a root entity's state are kept; no event has an empty type."""
    return Place(tenant, f"{category}-{id}", "", 0)


def _joint(keys: Mapping[UUID, bytes], salt: bytes) -> bytes:
    return joint_key([keys[key_id] for key_id in sorted(keys)], salt, b"cqrs:state")


def _bound(keys: Mapping[UUID, bytes], place: Place) -> bytes:
    return to_json([_FORM.decode(), place.tenant, place.stream, place.type, place.version, sorted(keys)])
