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
    """JSON as it was stored, with the tokens that stand in it: by the field, or `field.field` for one in an object."""

    values: dict[str, Any]
    tokens: Mapping[str, Token]

    @property
    def key_ids(self) -> Iterator[UUID]:
        return (token.key_id for token in self.tokens.values())

    def revealed(self, keys: Mapping[UUID, bytes], place: Place, marked: Collection[str] | None) -> str:
        """The JSON that was recorded; see `revealed_values`."""
        return render_json(self.revealed_values(keys, place, marked))

    def revealed_values(
        self, keys: Mapping[UUID, bytes], place: Place, marked: Collection[str] | None
    ) -> dict[str, Any]:
        """What was recorded, with placeholders for what was forgotten.

        `marked` are the personal fields of the class, if it is known. A token in one of them that is from elsewhere is
        a MalformedMessageError; in any other field it is no more than a text, and left alone.
        """
        values = {name: dict(value) if isinstance(value, dict) else value for name, value in self.values.items()}
        for field, token in self.tokens.items():
            is_ours = marked is None or field in marked
            key = keys.get(token.key_id)
            if key is None:
                if is_ours:
                    _put(values, field, token.forgotten())
                continue
            try:
                _put(values, field, token.open(key, place, field))
            except WrongKeyError:
                if field in (marked or ()):
                    raise MalformedMessageError(
                        f"{place.type}.{field} holds an encrypted value of another place, or one that was changed"
                    ) from None
        return values


def find_tokens(data: str | bytes) -> Concealed | None:
    """None if there are none. What is no JSON object is left to whoever decodes it."""
    present = PREFIX in data if isinstance(data, str) else _PREFIX_BYTES in data
    if not present:
        return None
    try:
        values = parse_json(data)
    except MalformedMessageError:
        return None
    return tokens_in(values) if isinstance(values, dict) else None


def tokens_in(values: Mapping[str, Any]) -> Concealed | None:
    """The same of an object that is parsed already."""
    found = {
        path: token for path, value in _paths(values) if is_token(value) and (token := Token.parse(value)) is not None
    }
    return Concealed(dict(values), found) if found else None


def subjects_of(message: Any, fields: Collection[PersonalField]) -> dict[str, str]:
    """By the path of each personal field, whose data it holds; a field that is None holds nobody's."""
    return {field.path: _subject(message, field) for field in fields if field.of(message) is not None}


def conceal(
    payload: bytes, message: Any, fields: Collection[PersonalField], keys: Mapping[str, SubjectKey], place: Place
) -> bytes:
    """The JSON of a message with a token for each personal value. `keys` are by subject."""
    values, subjects = parse_json(payload), subjects_of(message, fields)
    for field in fields:
        subject = subjects.get(field.path)
        if subject is None:
            continue
        holder = values[field.within] if field.within else values
        if field.key in holder:
            key_id, key = keys[subject]
            if key is None:
                raise ValueError(f"the key of {subject!r} was destroyed")
            holder[field.key] = seal(
                holder[field.key], key_id, key, place, field=field.path, placeholder=field.forgotten
            )
        elif not hasattr(message, "__struct_fields__"):  # a struct may leave defaults out, and has no other names
            raise MalformedMessageError(
                f"{type(message).__name__}.{field.name} is personal and is written under another name; "
                "leave out what renames it"
            )
    return render_json(values).encode()


def conceal_state(
    state: Mapping[str, Any], fields: Collection[PersonalField], key: SubjectKey, place: Place
) -> dict[str, Any]:
    """The state of a root entity with a token for each personal value; with its placeholder, whatever the value is, if
    the subject is forgotten: it may have been read before.
    """
    concealed = dict(state)
    for field in fields:
        if concealed.get(field.key) is None:
            continue
        concealed[field.key] = (
            parse_json(field.forgotten)
            if key.key is None
            else seal(concealed[field.key], key.key_id, key.key, place, field=field.key, placeholder=field.forgotten)
        )
    return concealed


def _paths(values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """What stands at the top, and one level below."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from ((f"{name}.{inner}", below) for inner, below in value.items())
        else:
            yield name, value


def _put(values: dict[str, Any], path: str, value: Any) -> None:
    if path in values:
        values[path] = value
        return
    name, _, inner = path.partition(".")
    values[name][inner] = value


def _subject(message: Any, field: PersonalField) -> str:
    subject = getattr(message, field.subject)
    if subject is None or subject == "":
        raise ValueError(
            f"{type(message).__name__}.{field.name} is personal data of {field.subject}, which is {subject!r}; "
            "say whose it is, or leave the field None"
        )
    return str(subject)
