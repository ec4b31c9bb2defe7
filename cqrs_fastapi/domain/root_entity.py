"""Root entities: what is done to their fields records itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, Self
from uuid import UUID

from pydantic import GetCoreSchemaHandler

from cqrs_fastapi.domain.aggregate import Aggregate
from cqrs_fastapi.domain.diffs import Diff
from cqrs_fastapi.domain.field_codec import FieldCodec, SetCodec, in_a_field, is_immutable
from cqrs_fastapi.domain.root_events import Changed, Created, Deleted, RootEvents, events_for
from cqrs_fastapi.domain.root_fields import fields_of
from cqrs_fastapi.domain.tracked import Kept, TrackedField, TrackedSet, kept_fields
from cqrs_fastapi.errors import DomainError
from cqrs_fastapi.messages.events import AnyEvent
from cqrs_fastapi.messages.personal import PersonalField


class DeletedError(DomainError):
    """The root entity was there and has been deleted. One that never was is a NotFoundError."""

    code = "deleted"

    def __init__(self, *, kind: str, identifier: str, deleted_at: datetime | None) -> None:
        self.kind, self.identifier, self.deleted_at = kind, identifier, deleted_at
        when = "just now" if deleted_at is None else f"at {deleted_at.isoformat(timespec='seconds')}"
        super().__init__(f"{kind} {identifier} was deleted {when}")


class RootEntity(Aggregate):
    """An aggregate that is its fields: `class Product(RootEntity): price: Tracked[int]`.

    Whatever is done to the fields in a unit of work, by assignment or within a set, list or model, is found when it
    commits and recorded: `ProductCreated`, for each field that is another than it was `ProductUpdated.price` (for each
    member of an EntitySet or a ValueObjectSet `ProductUpdated.tags.create`, `.update` or `.delete`), `ProductDeleted`.
    They are appended together, in the order of the fields, on the version that was loaded.

    `class Product(RootEntity, name="Product", category="Product", topic="products", retired=("colour",))`: `name` is
    what the events are called by, and `category` what the stream is; they default to the class's name and must stay the
    same for as long as there are events. With a `topic` all events are sent. `retired` are fields that the class had
    once: what is stored of them is passed over.
    """

    __tracked__: ClassVar[Mapping[str, FieldCodec]] = {}
    __events__: ClassVar[RootEvents]
    __personal__: ClassVar[Sequence[PersonalField]] = ()

    if TYPE_CHECKING:  # a field on the class, which searches compare, and a value on an instance
        id: Kept[UUID]  # pyright: ignore[reportIncompatibleVariableOverride]  # it gives the same on an instance
        version: Kept[int]
        created_at: Kept[datetime]
        updated_at: Kept[datetime]

    def __init_subclass__(
        cls,
        *,
        name: str | None = None,
        category: str | None = None,
        topic: str | None = None,
        retired: Sequence[str] = (),
        **rest: Any,
    ) -> None:
        stored = name or cls.__name__
        fields = fields_of(cls, RootEntity, retired)
        super().__init_subclass__(category=category or stored, **rest)
        if cls.__folds__:
            folds = ", ".join(cls.__folds__.values())
            raise TypeError(f"{cls.__name__} has folds, {folds}; a root entity records its own events: use Aggregate")
        cls.__tracked__ = fields
        cls.__personal__ = tuple(field.personal for field in fields.values() if field.personal is not None)
        cls.__events__ = events = events_for(stored, topic, fields, retired)
        cls.__folds__ = _folds_for(events)
        for kept_name, kept in kept_fields().items():
            setattr(cls, kept_name, kept)
        for field_name, field in fields.items():
            kind = TrackedSet if isinstance(field, SetCodec) else TrackedField
            setattr(cls, field_name, kind(field, events.changed[field_name]))

    def __init__(self, id: UUID) -> None:
        super().__init__(id)
        self._values: dict[str, Any] = {}
        self._forms: dict[str, bytes] = {}
        self._begun = False
        self._deleting = False
        self.recorded_state: Mapping[str, Any] = {}
        self.deleted_at: datetime | None = None

    @property
    def exists(self) -> bool:
        """False of a new one that nobody has begun, and of a deleted one."""
        return (self.version > 0 or self._begun) and not self.is_deleted

    @property
    def is_touched(self) -> bool:
        """Whether it may differ from what is stored: a field was set, or given out to be changed."""
        return bool(self._forms or self._recorded or self._deleting) or (self.is_new and self._begun)

    @property
    def is_deleted(self) -> bool:
        """True from its `delete` on."""
        return self._deleting or self.deleted_at is not None

    def update(self, /, **fields: object) -> None:
        """Set several fields: all of them, or none if a value is wrong."""
        self.require_present()
        known = self.__tracked__
        for name in fields:
            if name not in known:
                raise TypeError(_no_field(type(self), name))
        checked = {name: known[name].checked(value) for name, value in fields.items()}
        for name, value in checked.items():
            self._put(name, value)

    def delete(self) -> None:
        """Have it deleted with the commit of the unit of work; what else was changed in it is not recorded then."""
        self.require_present()
        self._deleting = True

    def diff(self, other: Self, /) -> Diff:
        """What makes this one equal to the other: `old.apply_diff(old.diff(new))`."""
        changed: dict[str, Any] = {}
        for name, field in self.__tracked__.items():
            before, after = field.form(self._get(name)), field.form(other._get(name))
            if isinstance(field, SetCodec):
                if changes := field.changes(before, after):
                    changed[name] = changes
            elif not field.same(before, after):
                changed[name] = field.read(after)
        return Diff(changed)

    def apply_diff(self, diff: Diff, /) -> None:
        """Make the changes of a diff, as if they were made by hand."""
        for name, change in diff.fields.items():
            field = self.__tracked__[name]
            if isinstance(field, SetCodec):
                self._set(name, field.applied(self._get(name), change))
            else:
                self._set(name, change)

    def begin(self, at: datetime) -> None:
        """Have a new one created with the commit, even if none of its fields was set. An error names what it lacks."""
        self._begun = True
        self.created_at = self.updated_at = at
        self._require_complete()

    def record_changes(self, at: datetime) -> None:
        """Record what has changed since the last time; `at` is the time of the unit of work, which calls this."""
        before = len(self._recorded)
        is_stored = bool(self.version or self._recorded)
        if self._deleting and self.deleted_at is None:
            if is_stored:
                self._recorded.append(self.__events__.deleted(id=self.id, at=at))
                self.deleted_at = at
        elif not is_stored and self._begun:
            self._record_creation(at)
        elif is_stored:
            for name, field in self.__tracked__.items():
                if name in self._forms:
                    self._recorded += self._changes_of(field, at)
        if len(self._recorded) > before:
            self.updated_at = self._recorded[-1].at  # type: ignore[union-attr]  # they are all events of this class
            self.recorded_state = self.row_state()

    def to_json(self) -> bytes:
        """All fields as they are now, which `restore` takes."""
        return _object(self._form(name) for name in self.__tracked__)

    def row_state(self) -> dict[str, Any]:
        """All fields as the row of this one holds them; of a deleted one nothing."""
        fields = {} if self.is_deleted else self.__tracked__
        return {name: field.row_value(field.form(self._get(name))) for name, field in fields.items()}

    def restore(
        self,
        state: str | bytes,
        version: int,
        created_at: datetime,
        updated_at: datetime,
        deleted_at: datetime | None = None,
    ) -> None:
        """Take over a stored state. Fields that it lacks have their defaults; a ValidationError if one has none."""
        self._values = {} if deleted_at else dict(vars(self.__events__.state.validate_json(state)))
        self._forms.clear()
        self.version = version  # pyright: ignore[reportIncompatibleVariableOverride]  # it gives the same on an instance
        self.created_at, self.updated_at, self.deleted_at = created_at, updated_at, deleted_at

    def become(self, other: Self, /) -> None:
        """Take over everything of another object for the same root."""
        vars(self).update(vars(other))

    def require_present(self) -> None:
        """Raise DeletedError if it is deleted."""
        if self.is_deleted:
            raise DeletedError(kind=type(self).__name__, identifier=str(self.id), deleted_at=self.deleted_at)

    def _record_creation(self, at: datetime) -> None:
        self._require_complete()
        at = vars(self).setdefault("created_at", at)
        state = self.to_json()
        self._recorded.append(_event(self.__events__.created, self.id, at, b"fields", state))
        self._forms = {name: field.form(self._values[name]) for name, field in self.__tracked__.items()}

    def _require_complete(self) -> None:
        missing = [
            name for name, field in self.__tracked__.items() if field.initial is None and name not in self._values
        ]
        if missing:
            raise TypeError(f"a new {type(self).__name__} has no {', '.join(missing)}; give it a value")

    def _changes_of(self, field: FieldCodec, at: datetime) -> list[AnyEvent]:
        """What has changed in one field. The events share nothing with it: they are read from JSON."""
        name, events = field.name, self.__events__.changed[field.name]
        before, form = self._forms[name], field.form(self._values[name])
        if form == before:
            return []
        self._forms[name] = form
        if not isinstance(field, SetCodec):
            return [] if field.same(before, form) else [_event(events[0], self.id, at, b"value", form)]
        changes = field.changes(before, form)
        members = zip(events, (changes.created, changes.updated, changes.deleted), strict=True)
        return [
            _event(event_type, self.id, at, b"value", field.member.form(member))
            for event_type, several in members
            for member in several
        ]

    def _get(self, name: str) -> Any:
        field = self.__tracked__[name]
        if name not in self._values:
            if field.initial is None:
                raise AttributeError(f"{field} has no value yet; set it first", name=name, obj=self)
            self._values[name] = field.checked(field.initial())
        value = self._values[name]
        if name not in self._forms and not is_immutable(value):
            self._forms[name] = field.form(value)  # whoever has it may change it in place
        return value

    def _form(self, name: str) -> tuple[str, bytes]:
        return name, self.__tracked__[name].form(self._get(name))

    def _set(self, name: str, value: object) -> None:
        self.require_present()
        self._put(name, self.__tracked__[name].checked(value))

    def _put(self, name: str, checked: object) -> None:
        if name not in self._forms and name in self._values:
            self._forms[name] = self.__tracked__[name].form(self._values[name])
        self._values[name] = checked
        self._begun = True

    def _on_created(self, event: Created[Any]) -> None:
        state = _object((name, field.form(getattr(event.fields, name))) for name, field in self.__tracked__.items())
        self.restore(state, self.version, event.at, event.at)

    def _on_changed(self, event: Changed[Any, Any]) -> None:
        field = self.__tracked__[event.field]
        if isinstance(field, SetCodec):
            self._values[field.name] = field.applied(self._values[field.name], event.diff[field.name])
        else:
            self._values[field.name] = field.checked(event.value)
        self.updated_at = event.at

    def _on_deleted(self, event: Deleted[Any]) -> None:
        self.deleted_at = self.updated_at = event.at

    def _on_retired(self, event: Changed[Any, Any]) -> None:
        self.updated_at = event.at

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: Any, _handler: GetCoreSchemaHandler) -> NoReturn:
        raise TypeError(in_a_field(cls.__name__))


def _folds_for(events: RootEvents) -> dict[type[AnyEvent], str]:
    changed = (event_type for several in events.changed.values() for event_type in several)
    return {
        events.created: "_on_created",
        **dict.fromkeys(changed, "_on_changed"),
        events.deleted: "_on_deleted",
        **dict.fromkeys(events.retired, "_on_retired"),
    }


def _event(event_type: Any, id: UUID, at: datetime, name: bytes, form: bytes) -> AnyEvent:
    event: AnyEvent = event_type.model_validate_json(
        b'{"id":"%s","at":"%s","%s":%s}' % (str(id).encode(), at.isoformat().encode(), name, form)
    )
    return event


def _object(forms: Iterator[tuple[str, bytes]]) -> bytes:
    return b"{" + b",".join(b'"%s":%s' % (name.encode(), form) for name, form in forms) + b"}"


def _no_field(cls: type[RootEntity], name: str) -> str:
    return f"{cls.__name__} has no field {name}; it has {', '.join(cls.__tracked__)}"
