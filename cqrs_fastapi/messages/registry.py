"""The closed registry: (name, version) -> class. It is built when the maps are frozen; nothing is imported by name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from cqrs_fastapi.errors import UnknownMessageError
from cqrs_fastapi.messages.events import AnyEvent, EventDefinition, definition_of
from cqrs_fastapi.messages.json_codec import JsonCodec, codec_for
from cqrs_fastapi.messages.personal import PersonalField, personal_fields


@dataclass(frozen=True, slots=True)
class RegisteredEvent:
    """An event class with its outside name, its codec, and the fields of it that are encrypted."""

    event_type: type[AnyEvent]
    definition: EventDefinition
    codec: JsonCodec
    personal: tuple[PersonalField, ...] = ()


class EventRegistry:
    """Finds a class by its stored name and version, and a name and codec by its class. It never changes once built."""

    __slots__ = ("_by_name", "_by_type")

    def __init__(self, event_types: Iterable[type[AnyEvent]]) -> None:
        """Raises ValueError when two classes share one (name, version); `clashes` tells beforehand."""
        self._by_type: dict[type, RegisteredEvent] = {}
        self._by_name: dict[tuple[str, int], RegisteredEvent] = {}
        for event_type in event_types:
            if event_type not in self._by_type:
                self._add(event_type)

    def _add(self, event_type: type[AnyEvent]) -> None:
        definition = definition_of(event_type)
        codec = codec_for(event_type)
        personal = personal_fields(event_type, definition.subject, definition.tags)
        registered = RegisteredEvent(event_type, definition, codec, personal)
        key = (definition.name, definition.version)
        if key in self._by_name:
            raise ValueError(clash(self._by_name[key].event_type, event_type))
        self._by_type[event_type] = self._by_name[key] = registered

    def named(self, name: str, version: int) -> RegisteredEvent:
        """The class stored under this name; UnknownMessageError if there is none."""
        try:
            return self._by_name[name, version]
        except KeyError:
            raise UnknownMessageError(name=name, version=version) from None

    def of(self, event: AnyEvent) -> RegisteredEvent:
        """The registration of an event's class."""
        return self.of_type(type(event))

    def of_type(self, event_type: type[AnyEvent]) -> RegisteredEvent:
        try:
            return self._by_type[event_type]
        except KeyError:
            definition = definition_of(event_type)
            raise UnknownMessageError(name=definition.name, version=definition.version) from None

    def personal_of(self, name: str, version: int) -> tuple[PersonalField, ...] | None:
        """The encrypted fields of the class stored under this name; None if there is no such class."""
        registered = self._by_name.get((name, version))
        return None if registered is None else registered.personal

    def decode(self, name: str, version: int, data: bytes) -> Any:
        """The event in these bytes; UnknownMessageError or MalformedMessageError."""
        return self.named(name, version).codec.decode(data)

    def __iter__(self) -> Iterator[RegisteredEvent]:
        return iter(self._by_type.values())

    def __len__(self) -> int:
        return len(self._by_type)


def clash(first: type, second: type) -> str:
    """The sentence for two classes that claim one stored name."""
    definition = definition_of(first)
    return (
        f"{first.__qualname__} and {second.__qualname__} are both stored as {definition.name!r} version "
        f"{definition.version}; give one of them another name: class {second.__name__}(Event, name='...')"
    )
