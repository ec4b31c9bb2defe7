"""Encrypts and decrypts fields of JSON objects: of events, and of the states of root entities."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from cqrs_fastapi.errors import MalformedMessageError
from cqrs_fastapi.messages.json_codec import parse_json, render_json
from cqrs_fastapi.messages.personal import PersonalField
from cqrs_fastapi.personal_data.key_cache import SubjectKey
from cqrs_fastapi.personal_data.tokens import PREFIX, Place, Token, WrongKeyError, is_token, seal

_PREFIX_BYTES = PREFIX.encode()


@dataclass(frozen=True, slots=True)
class Concealed:
    """JSON as it was stored, with the tokens that stand in it."""

    values: dict[str, Any]
    tokens: Mapping[str, Token]

    @property
    def key_ids(self) -> Iterator[UUID]:
        return (token.key_id for token in self.tokens.values())

    def revealed(self, keys: Mapping[UUID, bytes], place: Place, marked: Collection[str] | None) -> str:
        """The JSON that was recorded, with placeholders for what was forgotten.

        `marked` are the personal fields of the class, if it is known. A token in one of them that is from elsewhere is
        a MalformedMessageError; in any other field it is no more than a text, and left alone.
        """
        values = dict(self.values)
        for field, token in self.tokens.items():
            is_ours = marked is None or field in marked
            key = keys.get(token.key_id)
            if key is None:
                values[field] = token.forgotten() if is_ours else values[field]
                continue
            try:
                values[field] = token.open(key, place, field)
            except WrongKeyError:
                if field in (marked or ()):
                    raise MalformedMessageError(
                        f"{place.type}.{field} holds an encrypted value of another place, or one that was changed"
                    ) from None
        return render_json(values)


def find_tokens(data: str | bytes) -> Concealed | None:
    """None if there are none. What is no JSON object is left to whoever decodes it."""
    present = PREFIX in data if isinstance(data, str) else _PREFIX_BYTES in data
    if not present:
        return None
    try:
        values = parse_json(data)
    except MalformedMessageError:
        return None
    if not isinstance(values, dict):
        return None
    found = {
        name: token for name, value in values.items() if is_token(value) and (token := Token.parse(value)) is not None
    }
    return Concealed(values, found) if found else None


def subjects_of(message: Any, fields: Collection[PersonalField]) -> dict[str, str]:
    """By the name of each personal field, whose data it holds; a field that is None holds nobody's."""
    return {field.name: _subject(message, field) for field in fields if getattr(message, field.name) is not None}


def conceal(
    payload: bytes, message: Any, fields: Collection[PersonalField], keys: Mapping[str, SubjectKey], place: Place
) -> bytes:
    """The JSON of a message with a token for each personal value. `keys` are by subject."""
    values, subjects = parse_json(payload), subjects_of(message, fields)
    for field in fields:
        subject = subjects.get(field.name)
        if subject is None:
            continue
        if field.key in values:
            key_id, key = keys[subject]
            if key is None:
                raise ValueError(f"the key of {subject!r} was destroyed")
            values[field.key] = seal(
                values[field.key], key_id, key, place, field=field.key, placeholder=field.forgotten
            )
        elif not hasattr(message, "__struct_fields__"):  # a struct may leave defaults out, and has no other names
            raise MalformedMessageError(
                f"{type(message).__name__}.{field.name} is personal and is written under another name; "
                "leave out what renames it"
            )
    return render_json(values).encode()


def _subject(message: Any, field: PersonalField) -> str:
    subject = getattr(message, field.subject)
    if subject is None or subject == "":
        raise ValueError(
            f"{type(message).__name__}.{field.name} is personal data of {field.subject}, which is {subject!r}; "
            "say whose it is, or leave the field None"
        )
    return str(subject)
