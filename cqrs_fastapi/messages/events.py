"""What has happened. Events are stored for ever, so their names never depend on where a class lives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, TypeAlias, TypeVar, Unpack

from pydantic import BaseModel, ConfigDict


@dataclass(frozen=True, slots=True)
class EventDefinition:
    """How an event is called outside the process. `topic` is None for an event that stays in the store."""

    name: str
    version: int
    topic: str | None


def checked_version(cls: type, version: int) -> int:
    """The version of a message, a whole number from 1."""
    if version < 1:
        raise TypeError(f"{cls.__name__}: version must be 1 or more, not {version}")
    return version


class Event(BaseModel):
    """A fact, frozen. Unknown fields of stored events are ignored, so that older code reads newer events.

    `class Deposited(Event, name="account.deposited", version=2, topic="accounts")`: the name defaults to the class's,
    the version to 1; an event without a topic (and without a route) is never sent to a broker.
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
        **config: Unpack[ConfigDict],
    ) -> None:
        if config:  # pydantic has taken those it knows
            unknown = ", ".join(config)
            raise TypeError(f"{cls.__name__}: unknown class argument {unknown}; there are name, version and topic")
        super().__init_subclass__()
        cls.__event__ = EventDefinition(name or cls.__name__, checked_version(cls, version), topic)

    @classmethod
    def __pydantic_init_subclass__(cls, **arguments: Any) -> None:
        """Pydantic repeats the class arguments here; `__init_subclass__` has already used them."""


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


def definition_of(cls: type) -> EventDefinition:
    """How this event class is called outside; a TypeError tells how to mark one that is not an event."""
    definition = cls.__dict__.get("__event__")
    if isinstance(definition, EventDefinition):
        return definition
    raise TypeError(
        f"{cls.__name__} is not an event: inherit from cqrs_fastapi.Event, "
        f"or put @event(name=...) outermost on a dataclass or msgspec struct"
    )
