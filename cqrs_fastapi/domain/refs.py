"""References: the id of something, and the thing itself once it has been resolved."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import partial
from typing import Any, Generic, Protocol, TypeVar, get_args
from uuid import UUID

from pydantic import BaseModel, GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from cqrs_fastapi.domain.aggregate import Aggregate
from cqrs_fastapi.errors import CqrsError, NotFoundError
from cqrs_fastapi.mediation.scope import current_scope


class Identified(Protocol):
    """What can be referred to: entities, aggregates, and whatever else has an id."""

    @property
    def id(self) -> UUID: ...


T = TypeVar("T", bound=Identified)
M = TypeVar("M", bound=Identified)


class RefResolver(Protocol):
    """Finds what references mean, all of one class at once.

    The application's own knows the aggregates of its service. `Provides[RefResolver]` in the container replaces it.
    """

    async def resolve(self, cls: type[M], ids: Sequence[UUID], /) -> Mapping[UUID, M]:
        """Those that there are, by their ids, each of which is asked for once; what is missing is left out."""
        ...


class UnresolvedRefError(CqrsError):
    """A reference was asked for its thing before it was resolved, or where there is nobody to resolve it."""

    code = "unresolved_ref"


class Ref(Generic[T]):
    """`customer: Ref[Customer]` in a message, an entity or a state: in JSON it is the id alone, and it is made of the
    id or of the thing. Two references are equal if class and id are, resolved or not.
    """

    __slots__ = ("_cls", "_id", "_value")

    def __init__(self, cls: type[T], id: UUID, value: T | None = None) -> None:
        """With a `value` it is resolved already."""
        self._cls = cls
        self._id = id
        self._value = value

    @classmethod
    def to(cls, thing: M) -> Ref[M]:
        """A reference that is resolved already."""
        return Ref(type(thing), thing.id, thing)

    @property
    def id(self) -> UUID:
        return self._id

    @property
    def resolved(self) -> bool:
        return self._value is not None

    @property
    def value(self) -> T:
        """The thing itself; UnresolvedRefError before it was resolved."""
        if self._value is None:
            raise UnresolvedRefError(f"{self} is not resolved; write: await ref.resolve(), or await resolve_refs(...)")
        return self._value

    async def resolve(self, resolver: RefResolver | None = None, /, *, force: bool = False) -> T:
        """The thing itself: found once and kept, or with `force` found again.

        Without a `resolver` it is the one of the message being handled, whose handler must need its unit of work (ask
        for a repository, for instance). Raises NotFoundError with class and id if there is no such thing.
        """
        await resolve_refs(self, resolver, force=force)
        return self.value

    def __eq__(self, other: object) -> bool:
        return (self._cls, self._id) == (other._cls, other._id) if isinstance(other, Ref) else NotImplemented

    def __hash__(self) -> int:
        return hash((self._cls, self._id))

    def __repr__(self) -> str:
        return f"Ref({self._cls.__name__}, {self._id})"

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        (referred,) = get_args(source) or (None,)
        if not isinstance(referred, type):
            raise TypeError("a reference says what it refers to; write: Ref[Customer]")

        ids = core_schema.no_info_after_validator_function(partial(Ref, referred), core_schema.uuid_schema())
        return core_schema.json_or_python_schema(
            json_schema=ids,
            python_schema=core_schema.no_info_wrap_validator_function(partial(_ref_to, referred), ids),
            serialization=core_schema.plain_serializer_function_ser_schema(
                _id_of, return_schema=core_schema.uuid_schema()
            ),
        )


async def resolve_refs(where: object, resolver: RefResolver | None = None, /, *, force: bool = False) -> None:
    """Resolve all references in `where`, asking once for each class: a reference, or models, dataclasses, aggregates
    and collections of such, however deep. It does not look into what references refer to.

    Raises NotFoundError with the class and all ids that are missing of it; what was found until then is kept.
    """
    wanted: dict[type[Any], dict[UUID, list[Ref[Any]]]] = {}
    for ref in _refs_in(where):
        if force or not ref.resolved:
            wanted.setdefault(ref._cls, {}).setdefault(ref.id, []).append(ref)  # noqa: SLF001  # a function of Ref's own
    if not wanted:
        return
    resolver = resolver or await _resolver_of_message()
    for cls, refs in wanted.items():
        found = await resolver.resolve(cls, tuple(refs))
        for wanted_id, same in refs.items():
            for ref in same:
                ref._value = found.get(wanted_id, ref._value)  # noqa: SLF001  # as above
        if missing := [str(one) for one in refs if one not in found]:
            raise NotFoundError(kind=cls.__name__, identifier=", ".join(missing))


def _ref_to(cls: type[Any], given: Any, by_id: Callable[[object], Ref[Any]]) -> Ref[Any]:
    """Of what a field is given: a reference, the thing, or an id."""
    if isinstance(given, cls):
        return Ref(cls, given.id, given)
    if not isinstance(given, Ref):
        return by_id(given)
    if not issubclass(given._cls, cls):  # noqa: SLF001  # a function of Ref's own
        raise ValueError(f"{given} is no reference to {cls.__name__}")  # noqa: TRY004  # pydantic makes its error of it
    return given if given._cls is cls else Ref(cls, given.id, given._value)  # noqa: SLF001  # as above


def _id_of(ref: Ref[Any]) -> UUID:
    return ref.id


async def give_resolver(_: object, resolver: RefResolver) -> RefResolver:
    """Compiled with the handlers, so that a message finds the resolver as its handler would."""
    return resolver


async def _resolver_of_message() -> RefResolver:
    scope = current_scope()
    if scope is None:
        raise UnresolvedRefError(
            "nobody resolves references here: do it in a handler that asks for a repository or another part of its "
            "unit of work, or write: await ref.resolve(your_resolver)"
        )
    scope.require_open()
    resolver: RefResolver = await scope.kernel.pipelines.resolver(scope, None)
    return resolver


def _refs_in(where: object) -> Iterator[Ref[Any]]:
    """Each reference once, and each object once, so that cycles end."""
    seen: dict[int, object] = {}  # it holds them: what was gone meanwhile could lend its identity to something else
    todo: list[object] = [where]
    while todo:
        one = todo.pop()
        if id(one) in seen:
            continue
        seen[id(one)] = one
        if isinstance(one, Ref):
            yield one
        else:
            todo.extend(reversed(_parts_of(one)))  # the first is on top


def _parts_of(whole: Any) -> tuple[object, ...]:
    if isinstance(whole, str | bytes | type):
        return ()
    if isinstance(whole, Mapping):
        return (*whole.keys(), *whole.values())
    if isinstance(whole, Collection):
        return tuple(whole)
    if isinstance(whole, BaseModel | Aggregate):
        return tuple(vars(whole).values())
    if is_dataclass(whole):
        return tuple(getattr(whole, field.name, None) for field in fields(whole))
    return ()
