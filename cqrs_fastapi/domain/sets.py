"""Sets as fields of events and of state: they are written as lists, and can tell what has changed in them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, MutableSet
from dataclasses import dataclass
from typing import Any, Generic, Self, TypeVar, get_args
from uuid import UUID

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from cqrs_fastapi.domain.entities import Entity, ValueObject

E = TypeVar("E", bound=Entity)
V = TypeVar("V", bound=ValueObject)
M = TypeVar("M")


@dataclass(frozen=True, slots=True)
class Changes(Generic[M]):
    """What lies between two states of a set, each in the order of its set. It is falsy when nothing does."""

    created: tuple[M, ...] = ()
    updated: tuple[M, ...] = ()
    """The new states of entities that are in both."""
    deleted: tuple[M, ...] = ()
    """As they were."""

    def __bool__(self) -> bool:
        return bool(self.created or self.updated or self.deleted)


class _Members(MutableSet[M]):
    """Members by their keys, in the order in which they came."""

    __slots__ = ("_members",)

    def __init__(self, members: Iterable[M] = ()) -> None:
        self._members: dict[object, M] = {}
        for member in members:
            self.add(member)

    @staticmethod
    def _key(member: Any) -> object:
        """What it is found by, be it a member or what stands for one."""
        return member

    def add(self, value: M) -> None:
        self._members[self._key(value)] = value

    def __contains__(self, member: object) -> bool:
        return self._key(member) in self._members

    def __iter__(self) -> Iterator[M]:
        return iter(list(self._members.values()))  # a copy: what is iterated may be discarded meanwhile

    def __len__(self) -> int:
        return len(self._members)

    def __eq__(self, other: object) -> bool:
        return self._members == other._members if isinstance(other, type(self)) else NotImplemented

    __hash__ = None  # type: ignore[assignment]  # it changes

    def __repr__(self) -> str:
        return f"{type(self).__name__}({list(self._members.values())!r})"

    def since(self, before: Self) -> Changes[M]:
        """What has changed since it was `before`."""
        old, new = before._members, self._members
        return Changes(
            created=tuple(member for key, member in new.items() if key not in old),
            updated=tuple(member for key, member in new.items() if key in old and old[key] != member),
            deleted=tuple(member for key, member in old.items() if key not in new),
        )

    def apply(self, changes: Changes[M]) -> None:
        """Make the changes: `set.apply(later.since(set))` makes it equal to `later`."""
        for member in changes.deleted:
            self.discard(member)
        for member in (*changes.updated, *changes.created):
            self.add(member)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """A list of its members, validated one by one, into a set of its own: no two objects share one."""
        (member,) = get_args(source) or (cls._bound(),)
        members = core_schema.list_schema(handler.generate_schema(member))
        return core_schema.no_info_before_validator_function(
            _as_list,
            core_schema.no_info_after_validator_function(cls._without_doubles, members),
            serialization=core_schema.plain_serializer_function_ser_schema(list, return_schema=members),
        )

    @classmethod
    def _bound(cls) -> type:
        raise NotImplementedError

    @classmethod
    def _without_doubles(cls, members: list[M]) -> Self:
        made = cls(members)
        if len(made) != len(members):
            raise ValueError("a member is there twice")
        return made


class EntitySet(_Members[E], Generic[E]):
    """Entities by their ids. `add` takes the place of a member with the same id; `discard` takes an entity or an id.

    In an event or an aggregate write `lines: EntitySet[Line]`; JSON has a list.
    """

    __slots__ = ()

    def get(self, id: UUID) -> E | None:
        """The member with this id, or None."""
        return self._members.get(id)

    def __getitem__(self, id: UUID) -> E:
        return self._members[id]

    def discard(self, value: E | UUID) -> None:
        """Take out an entity, or the one with this id, if it is there."""
        self._members.pop(self._key(value), None)

    @staticmethod
    def _key(member: Any) -> object:
        return member.id if isinstance(member, Entity) else member

    @classmethod
    def _bound(cls) -> type:
        return Entity


class ValueObjectSet(_Members[V], Generic[V]):
    """Values, each once. In an event or an aggregate write `tags: ValueObjectSet[Tag]`; JSON has a list."""

    __slots__ = ()

    def discard(self, value: V) -> None:
        """Take out a value, if it is there."""
        self._members.pop(value, None)

    @classmethod
    def _bound(cls) -> type:
        return ValueObject


def _as_list(given: object) -> object:
    """Sets and iterables of members; what is no iterable is refused by the schema of the list."""
    return list(given) if isinstance(given, _Members | set | frozenset | tuple) else given
