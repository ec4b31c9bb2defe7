"""Whether a field still says something about somebody."""

from __future__ import annotations

from functools import lru_cache

from cqrs_fastapi.messages.events import AnyEvent, definition_of
from cqrs_fastapi.messages.personal import PersonalField, personal_fields


def is_forgotten(event: AnyEvent, field: str) -> bool:
    """Whether a personal field reads as it does once its subject is forgotten.

    A value that was recorded and happens to be the same cannot be told from it: choose `forgotten=` so that none is.
    TypeError for a field that is not personal.
    """
    found = _personal(type(event)).get(field)
    if found is None:
        raise TypeError(f"{type(event).__name__}.{field} is not personal: it is never forgotten")
    return bool(found.of(event) == found.placeholder)


@lru_cache(maxsize=1024)
def _personal(cls: type) -> dict[str, PersonalField]:
    definition = definition_of(cls)
    return {field.name: field for field in personal_fields(cls, definition.subject, definition.tags)}
