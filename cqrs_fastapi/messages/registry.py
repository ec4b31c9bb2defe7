"""The closed registry: (name, version) -> class. It is built when the maps are frozen; nothing is imported by name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from pydantic_core import PydanticSerializationError

from cqrs_fastapi.errors import MalformedMessageError, UnknownMessageError
from cqrs_fastapi.messages.chains import Chains
from cqrs_fastapi.messages.events import AnyEvent, EventDefinition, definition_of
from cqrs_fastapi.messages.json_codec import JsonCodec, codec_for, parse_json, render_json, require_json
from cqrs_fastapi.messages.personal import PersonalField, personal_fields
from cqrs_fastapi.messages.upcasters import Data, Key, Upcaster


@dataclass(frozen=True, slots=True)
class RegisteredEvent:
    """An event class with its outside name, its codec, and the fields of it that are encrypted."""

    event_type: type[AnyEvent]
    definition: EventDefinition
    codec: JsonCodec
    personal: tuple[PersonalField, ...] = ()


class EventRegistry:
    """Reads what is stored, and finds a name and a codec by a class. It never changes once built."""

    __slots__ = ("_by_name", "_by_type", "_chains", "_readers", "_sources", "upcasters")

    def __init__(self, event_types: Iterable[type[AnyEvent]], upcasters: Iterable[Upcaster] = ()) -> None:
        """Raises ValueError when two classes share one (name, version), or with the first problem of the chains;
        `clashes` and `Chains.problems` tell beforehand.
        """
        self._by_type: dict[type, RegisteredEvent] = {}
        self._by_name: dict[Key, RegisteredEvent] = {}
        for event_type in event_types:
            if event_type not in self._by_type:
                self._add(event_type)
        self.upcasters = tuple(upcasters)
        self._chains = Chains([one.definition for one in self], self.upcasters)
        if self._chains.problems:
            raise ValueError(self._chains.problems[0])
        self._readers: dict[Key, RegisteredEvent] = {
            (name, version): registered
            for (present, version), registered in self._by_name.items()
            for name in (present, *self._chains.aliases_of(present))
        }
        self._sources = {name: self._chains.sources_of(name) for name, _ in self._by_name}

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
        """The class that reads this version as it is, by its name or a former one; UnknownMessageError if none does."""
        try:
            return self._by_name[self._chains.present(name), version]
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

    def read(self, name: str, version: int, data: bytes) -> list[Any]:
        """The event in these bytes: mostly one, several or none where an upcaster says so. UnknownMessageError if
        neither a class nor an upcaster reads this version, MalformedMessageError.
        """
        registered = self._readers.get((name, version))
        if registered is not None:
            return [registered.codec.decode(data)]
        step = self._step(name, version)
        if step is None:
            raise UnknownMessageError(name=name, version=version)
        require_json(data)
        stored = parse_json(data)
        if not isinstance(stored, dict):
            raise MalformedMessageError(f"the data of {name!r} version {version} is no JSON object")
        return list(self._follow(step, stored))

    def reads(self, name: str, version: int) -> bool:
        """Whether what is stored so can be read."""
        return self._chains.is_readable(name, version)

    def as_it_is(self, name: str, version: int) -> RegisteredEvent | None:
        """The class that reads what is stored so without an upcaster, by its name or an alias; it is one event."""
        return self._readers.get((name, version))

    def personal_of(self, name: str, version: int) -> tuple[PersonalField, ...] | None:
        """The encrypted fields of the class that reads what is stored so; None if no class does."""
        registered = self.as_it_is(name, version)
        return None if registered is None else registered.personal

    def sources_of(self, name: str) -> frozenset[str]:
        """The stored names under which there may be events of this name: its own, its aliases, those of upcasters."""
        return self._sources.get(name, frozenset((name,)))

    def _step(self, name: str, version: int) -> Upcaster | None:
        return self._chains.steps.get((self._chains.present(name), version))

    def _follow(self, step: Upcaster, data: Data) -> Iterator[Any]:
        """One result after the other to its end, so that they keep their order. The chains have been checked."""
        for made in step(data):
            further = self._step(made.name, made.version)
            if further is not None:
                # Several results may share parts of the data, which the next upcaster may change.
                yield from self._follow(further, made.data if step.into is None else deepcopy(made.data))
            else:
                yield self._readers[made.name, made.version].codec.decode(_rendered(step, made.data))

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


def _rendered(step: Upcaster, data: Data) -> bytes:
    try:
        return render_json(data).encode()
    except (PydanticSerializationError, ValueError) as error:  # ValueError: text with lone surrogates, a circle
        raise MalformedMessageError(
            f"the upcaster {step.called} of {step.name!r} version {step.version} gave what is no JSON "
            f"({type(error).__name__})"
        ) from None
