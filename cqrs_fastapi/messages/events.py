"""What has happened. Events are stored for ever, so their names never depend on where a class lives."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, TypeAlias, TypeVar, Unpack

from pydantic import BaseModel, ConfigDict

from cqrs_fastapi.messages.personal import personal_fields

MAX_TAG_LENGTH = 200


@dataclass(frozen=True, slots=True)
class EventDefinition:
    """How an event is called outside the process. `topic` is None for an event that stays in the store; `key` names the
    field that is its key there, None stands for its stream. `tags` name the fields by which conditions find it,
    whatever its stream; `subject` the one that says whose its personal data are. `aliases` are names that it was stored
    under before.
    """

    name: str
    version: int
    topic: str | None
    tags: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    subject: str | None = None
    key: str | None = None


def checked_version(cls: type, version: int) -> int:
    """The version of a message, a whole number from 1."""
    if version < 1:
        raise TypeError(f"{cls.__name__}: version must be 1 or more, not {version}")
    return version


def checked_aliases(cls: type, name: str, aliases: Sequence[str]) -> tuple[str, ...]:
    """Former names of a message, each once, and none of them the present one."""
    if isinstance(aliases, str):
        raise TypeError(f"{cls.__name__}: aliases are several; write: aliases=({aliases!r},)")
    if name in aliases:
        raise TypeError(f"{cls.__name__}: {name!r} is its name; aliases are the names that it had before")
    return tuple(dict.fromkeys(aliases))


def require_fields(cls: type, tags: Sequence[str], fields: Iterable[str]) -> None:
    """Every tag names a field."""
    if unknown := [tag for tag in tags if tag not in fields]:
        raise TypeError(f"{cls.__name__}: tags name fields of the event, and it has no {', '.join(unknown)}")


def require_key(cls: type, key: str | None, topic: str | None) -> None:
    """A key is an attribute, and belongs to a topic."""
    if key is not None and topic is None:
        raise TypeError(f"{cls.__name__} has the key {key!r} and no topic, so that it is sent nowhere; add topic=...")


def tag(field: str, value: object) -> str:
    """The tag that an event carries for a field: 1 to 200 printable characters without spaces."""
    text = f"{field}:{value}"
    if len(text) > MAX_TAG_LENGTH or not text.isprintable() or " " in text:
        raise ValueError(
            f"{text[:60]!r} is no tag: the value of {field} must be printable, without spaces, and short enough for "
            f"{MAX_TAG_LENGTH} characters with its name"
        )
    return text


class Event(BaseModel):
    """A fact, frozen. Unknown fields of stored events are ignored, so that older code reads newer events.

    `class Deposited(Event, name="account.deposited", version=2, topic="accounts")`: the name defaults to the class's,
    the version to 1; an event without a topic is never sent to a broker. Its key there is its stream, so that a stream
    stays in order; `key="customer_id"` names a field or property that is the key instead. `tags=("course", "student")`
    names fields: the event then carries `course:<value>` and `student:<value>`, and decisions can be made on all events
    with a tag.
    `aliases=("AccountDeposited",)` are names that it had before: what is stored under them is read as this event.
    """

    # JSON has no NaN and no infinity; as strings they can be read again.
    model_config = ConfigDict(frozen=True, extra="ignore", ser_json_inf_nan="strings")

    __event__: ClassVar[EventDefinition]

    def __init_subclass__(
        cls,
        *,
        name: str | None = None,
        version: int = 1,
        topic: str | None = None,
        tags: Sequence[str] = (),
        aliases: Sequence[str] = (),
        subject: str | None = None,
        key: str | None = None,
        **config: Unpack[ConfigDict],
    ) -> None:
        if config:  # pydantic has taken those it knows
            unknown = ", ".join(config)
            raise TypeError(
                f"{cls.__name__}: unknown class argument {unknown}; there are name, version, topic, key, tags, aliases "
                "and subject"
            )
        super().__init_subclass__()
        named = name or cls.__name__
        former = checked_aliases(cls, named, aliases)
        require_key(cls, key, topic)
        cls.__event__ = EventDefinition(named, checked_version(cls, version), topic, tuple(tags), former, subject, key)

    @classmethod
    def __pydantic_init_subclass__(cls, **arguments: Any) -> None:
        """Pydantic repeats the class arguments here, when it knows the fields."""
        require_fields(cls, cls.__event__.tags, cls.model_fields)
        if cls.__pydantic_complete__:  # else the registry finds out, which needs all types
            personal_fields(cls, cls.__event__.subject, cls.__event__.tags)


class NotificationEvent(Event):
    """For other services: says that something happened, by ids only."""


class ECSTEvent(Event):
    """For other services: carries the state, so that the receiver need not ask (event-carried state transfer)."""


class DataclassLike(Protocol):
    """Any dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Any]]


class StructLike(Protocol):
    """Any msgspec struct."""

    __struct_fields__: ClassVar[tuple[str, ...]]


AnyEvent: TypeAlias = Event | DataclassLike | StructLike

E = TypeVar("E", bound=AnyEvent)


E_co = TypeVar("E_co", bound=AnyEvent, covariant=True)


class EventTypes(Protocol[E_co]):
    """Stands for several classes of events that one handler takes alike: a field of a root entity."""

    @property
    def __event_types__(self) -> Sequence[type[E_co]]: ...


def event_types_of(given: Any) -> Sequence[type]:
    """The classes that a binding names: those that it stands for, or itself."""
    stands_for = (
        vars(given).get("__event_types__") if isinstance(given, type) else getattr(given, "__event_types__", None)
    )
    if stands_for is None:
        return (given,)
    if not stands_for:
        raise TypeError(
            f"{getattr(given, '__name__', given)} stands for no events; write which root entity's: [Product]"
        )
    types: Sequence[type] = stands_for
    return types


def tags_of(event: AnyEvent) -> tuple[str, ...]:
    """The tags of one event. A field that is None gives none; a list or a set gives one for each of its members."""
    fields = definition_of(type(event)).tags
    return tuple(dict.fromkeys(found for field in fields for found in _tags(field, getattr(event, field))))


def _tags(field: str, value: object) -> Iterator[str]:
    if isinstance(value, list | tuple | set | frozenset):
        for one in value:
            yield tag(field, one)
    elif value is not None:
        yield tag(field, value)


def definition_of(cls: type) -> EventDefinition:
    """How this event class is called outside; a TypeError tells how to mark one that is not an event."""
    definition = cls.__dict__.get("__event__")
    if isinstance(definition, EventDefinition):
        return definition
    raise TypeError(
        f"{cls.__name__} is not an event: inherit from cqrs_fastapi.Event, "
        f"or put @event(name=...) outermost on a dataclass or msgspec struct"
    )
