"""Aggregates: state that changes by recorded events only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, TypeVar, cast
from uuid import UUID

from cqrs_fastapi.domain.applies import fold_of, folds_of
from cqrs_fastapi.domain.fields import Initial
from cqrs_fastapi.domain.replaying import ReplayError
from cqrs_fastapi.domain.snapshot_form import SnapshotForm
from cqrs_fastapi.domain.snapshots import NOT_LOADED, Loading, SnapshotPolicy
from cqrs_fastapi.messages.events import AnyEvent

S = TypeVar("S")

_MUTABLE = (list, dict, set, bytearray)


def state(make: Callable[[], S]) -> S:
    """Says how a mutable field of an aggregate starts, in each instance anew.

    Write `lines: list[Line] = state(list)`.
    """
    return cast("S", Initial(make))


class Aggregate:
    """A consistency boundary. Its fields are class attributes with start values; folds marked `@applies` change them.

    `class Account(Aggregate, category="account")`: the category names the stream, `account-<id>`; it defaults to the
    class's name and must stay the same for as long as there are events. `stored=(Renamed,)` names events
    that are folded though nothing here records them, since some are stored: earlier ones, or summaries.
    `snapshots=every(100)` says when its state is kept, so that it need not be folded from the start again; subclasses
    take the policy over.
    """

    __category__: ClassVar[str]
    __snapshots__: ClassVar[SnapshotForm | None] = None
    __folds__: ClassVar[dict[type[AnyEvent], str]]
    __stored__: ClassVar[tuple[type[AnyEvent], ...]] = ()
    __initials__: ClassVar[dict[str, Callable[[], object]]]
    __loading__: Loading = NOT_LOADED

    id: UUID
    version: int
    """The version of the stored stream this state is folded from; recorded events raise it when they are committed."""

    def __init_subclass__(
        cls,
        *,
        category: str | None = None,
        stored: Sequence[type[AnyEvent]] = (),
        snapshots: SnapshotPolicy | None = None,
        **rest: Any,
    ) -> None:
        super().__init_subclass__(**rest)
        cls.__stored__ = (*cls.__stored__, *stored)
        cls.__category__ = category or cls.__name__
        _check_fields(cls)
        cls.__folds__ = folds_of(cls)
        cls.__initials__ = _initials_of(cls)
        policy = snapshots or (cls.__snapshots__ and cls.__snapshots__.policy)
        cls.__snapshots__ = SnapshotForm(cls, Aggregate, policy) if policy else None

    def __init__(self, id: UUID) -> None:
        self.id = id
        self.version = 0
        self._recorded: list[AnyEvent] = []
        for name, make in self.__initials__.items():
            setattr(self, name, make())

    @property
    def stream(self) -> str:
        return f"{self.__category__}-{self.id}"

    @property
    def is_new(self) -> bool:
        """True if nothing of it is stored yet."""
        return self.version == 0

    def record(self, event: AnyEvent, /) -> None:
        """Apply the event now, and store it with the commit of the unit of work."""
        fold_of(self, type(event))(event)
        self._recorded.append(event)

    @property
    def recorded(self) -> tuple[AnyEvent, ...]:
        """What was recorded and is not committed yet, in order."""
        return tuple(self._recorded)

    def replay(self, events: Sequence[AnyEvent], version: int) -> None:
        """Fold stored events that follow the present state; `version` is that of the last one. ReplayError names the
        one whose fold has failed.
        """
        for of_this, event in enumerate(events, version - len(events) + 1):
            fold = fold_of(self, type(event))
            try:
                fold(event)
            except Exception as error:
                name = type(event).__name__
                raise ReplayError(stream=self.stream, version=of_this, event=name, cause=error) from error
        self.version = version

    def committed(self, version: int) -> None:
        """What was recorded is stored, up to this version."""
        self._recorded.clear()
        self.version = version


_OWN_NAMES = frozenset(name for name in vars(Aggregate) if not name.startswith("__")) | {"id", "version", "_recorded"}


def _check_fields(cls: type) -> None:
    for name, value in vars(cls).items():
        if isinstance(value, _MUTABLE) and not name.startswith("__"):
            kind = type(value).__name__
            raise TypeError(
                f"{cls.__name__}.{name} would be shared by all instances; write: {name} = state({kind}), or give a "
                f"function that makes the start value"
            )
    fields = {*vars(cls), *vars(cls).get("__annotations__", {})}
    for name in sorted(fields & _OWN_NAMES):
        raise TypeError(f"{cls.__name__}.{name} would hide an attribute of Aggregate; give the field another name")


def _initials_of(cls: type) -> dict[str, Callable[[], object]]:
    found: dict[str, Callable[[], object]] = {}
    for parent in reversed(cls.__mro__):
        for name, value in vars(parent).items():
            if isinstance(value, Initial):
                found[name] = value.make
            else:
                found.pop(name, None)
    return found
