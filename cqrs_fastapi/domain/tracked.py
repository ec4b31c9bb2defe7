"""The fields of root entities, as they are written and as classes and instances show them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

from cqrs_fastapi.domain.entities import Entity, ValueObject
from cqrs_fastapi.domain.field_codec import FieldCodec
from cqrs_fastapi.domain.finding.annotations import Shape, shape_of
from cqrs_fastapi.domain.finding.fields import Field
from cqrs_fastapi.domain.finding.kinds import IDENTITY, INT, MOMENT
from cqrs_fastapi.domain.sets import EntitySet, ValueObjectSet

if TYPE_CHECKING:
    from cqrs_fastapi.domain.root_entity import RootEntity
    from cqrs_fastapi.domain.root_events import Changed

T = TypeVar("T")
R = TypeVar("R", bound="RootEntity")
E = TypeVar("E", bound=Entity)
V = TypeVar("V", bound=ValueObject)

_NOTHING: Any = object()
_ENCRYPTED = "it is personal, and encrypted wherever it is stored; find the ones meant by another field"


class Tracked(Generic[T]):
    """How a field of a root entity is written: `price: Tracked[int]`, `stock: Tracked[int] = tracked(default=0)`.

    On an instance it is a `T`: what is set is validated at once, by pydantic, and copied. On the class it is the field
    itself, `Product.price`: handlers subscribe to it, and searches compare it.
    """

    if TYPE_CHECKING:

        @overload
        def __get__(self: Tracked[EntitySet[E]], instance: None, owner: type[R]) -> TrackedSet[R, E]: ...
        @overload
        def __get__(self: Tracked[ValueObjectSet[V]], instance: None, owner: type[R]) -> TrackedSet[R, V]: ...
        @overload
        def __get__(self, instance: None, owner: type[R]) -> TrackedField[R, T]: ...
        @overload
        def __get__(self, instance: RootEntity, owner: type[RootEntity]) -> T: ...
        def __get__(self, instance: RootEntity | None, owner: type[Any]) -> Any: ...
        def __set__(self, instance: RootEntity, value: T) -> None: ...


class Initial:
    """The mark that `tracked` leaves in a class: how a field starts that is not given."""

    __slots__ = ("make",)

    def __init__(self, make: Callable[[], object]) -> None:
        self.make = make


@overload
def tracked(*, default: T) -> Tracked[T]: ...
@overload
def tracked(*, default_factory: Callable[[], T]) -> Tracked[T]: ...
def tracked(*, default: Any = _NOTHING, default_factory: Callable[[], Any] | None = None) -> Any:
    """Says what a field has that is not given: `tracked(default=0)`, or `tracked(default_factory=dict)` if it can
    change. A field that is added to a class later needs one, for the roots that were stored without it.
    """
    if (default is _NOTHING) == (default_factory is None):
        raise TypeError("write tracked(default=...) or tracked(default_factory=...), one of the two")
    return Initial(default_factory if default_factory is not None else lambda: default)


class TrackedField(Field[T], Generic[R, T]):
    """`Product.price`: subscribe to it by `cqrs.on(Product.price)`, whose handler takes a `Changed[Product, int]`;
    compare it to find products.
    """

    __slots__ = ("__event_types__", "_codec")

    def __init__(self, codec: FieldCodec, event_types: Sequence[type[Changed[R, T]]]) -> None:
        shape = shape_of(codec.annotation)
        super().__init__((codec.name,), shape if codec.personal is None else shape.closed(_ENCRYPTED))
        self._codec = codec
        self.__event_types__ = event_types

    def __get__(self, instance: RootEntity | None, owner: type[Any]) -> Any:
        return self if instance is None else instance._get(self._codec.name)  # noqa: SLF001  # two halves of one thing

    def __set__(self, instance: RootEntity, value: object) -> None:
        instance._set(self._codec.name, value)  # noqa: SLF001  # see above

    def __repr__(self) -> str:
        return f"<{self._codec}>"


class TrackedSet(TrackedField[R, T]):
    """`Product.tags`, where the field is an EntitySet or a ValueObjectSet: each change is that of one member, and the
    handler takes a `Changed[Product, Tag]`. Its `created`, `updated` and `deleted` are subscribed to as it is.
    """

    __slots__ = ()

    @property
    def created(self) -> type[Changed[R, T]]:
        """A member came."""
        return self.__event_types__[0]

    @property
    def updated(self) -> type[Changed[R, T]]:
        """A member is another than it was; only entities can be."""
        return self.__event_types__[1]

    @property
    def deleted(self) -> type[Changed[R, T]]:
        """A member is gone."""
        return self.__event_types__[2]


class Kept(Field[T]):
    """`Product.id`, `Product.version`, `Product.created_at`, `Product.updated_at`: what the library keeps of each root.
    On the class it is compared to find products, on an instance it is a `T`.
    """

    __slots__ = ()

    if TYPE_CHECKING:

        @overload
        def __get__(self, instance: None, owner: type[Any]) -> Kept[T]: ...
        @overload
        def __get__(self, instance: RootEntity, owner: type[Any]) -> T: ...
        def __get__(self, instance: RootEntity | None, owner: type[Any]) -> Any: ...
        def __set__(self, instance: RootEntity, value: T) -> None: ...

    else:

        def __get__(self, instance: RootEntity | None, owner: type[Any]) -> Any:
            if instance is None:
                return self
            # An instance has it in itself as soon as there is something to have, and Python looks there first.
            raise AttributeError(f"a new {owner.__name__} has no {self} before it is created", name=str(self))


def kept_fields() -> Mapping[str, Kept[Any]]:
    """Those that every class of root entities has."""
    kinds = {"id": IDENTITY, "version": INT, "created_at": MOMENT, "updated_at": MOMENT}
    return {name: Kept((name,), Shape(kind=kind), is_column=True) for name, kind in kinds.items()}
