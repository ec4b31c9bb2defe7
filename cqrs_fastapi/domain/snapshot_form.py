"""The state of an aggregate as JSON, and back."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from itertools import starmap
from typing import Any, TypeVar
from uuid import UUID

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError
from pydantic_core import SchemaSerializer
from typing_extensions import TypedDict

from cqrs_fastapi.domain.fields import fields_of
from cqrs_fastapi.domain.fingerprint import fingerprint_of, fingerprint_of_upcasters
from cqrs_fastapi.domain.snapshots import Loading, SnapshotPolicy
from cqrs_fastapi.messages.registry import EventRegistry

_JSON: Any = ConfigDict(ser_json_inf_nan="strings", ser_json_bytes="base64", val_json_bytes="base64")


class SnapshotForm:
    """Made with the class of an aggregate that has a policy. A TypeError names the field that no snapshot can hold."""

    def __init__(self, cls: Any, base: type, policy: SnapshotPolicy) -> None:
        """`base` is the library's own class, whose attributes are no state."""
        self.policy = policy
        self._cls = cls
        self._own = frozenset(vars(base)) | {"id", "version", "_recorded", "__loading__"}
        self._fields = fields_of(cls, base)
        for name, kind in self._fields.items():
            _require_json(f"{cls.__name__}.{name}", kind)
        adapter = _adapter_of(cls.__name__, self._fields)
        self._read = adapter.validator.validate_json
        # The serializer of a TypedDict takes no notice of the configuration that its validator reads.
        self._write = SchemaSerializer(adapter.core_schema, _JSON).to_json

    @cached_property
    def fingerprint(self) -> str:
        """Of the state's schema and of the code that folds it. Ask when the class's module has been read to its end."""
        return fingerprint_of(self._cls, self._cls.__folds__, self._fields)

    def fingerprint_in(self, registry: EventRegistry) -> str:
        """That, and of the upcasters, which say what the events are that are folded."""
        return self.fingerprint + fingerprint_of_upcasters(registry)

    def restore(self, aggregate: Any, state: str, version: int, key_ids: frozenset[UUID] = frozenset()) -> None:
        """Take an aggregate to where a snapshot was taken, which was sealed with these keys. A ValueError tells that
        its state does not fit; then nothing was changed.
        """
        for name, value in self._read(state).items():
            setattr(aggregate, name, value)
        aggregate.version = version
        aggregate.__loading__ = Loading(version, 0.0, key_ids)

    def loaded_in(self, aggregate: Any, seconds: float) -> None:
        """Remember for the policy how long its events have taken."""
        aggregate.__loading__ = replace(aggregate.__loading__, seconds=seconds)

    def learnt(self, aggregate: Any, key_ids: frozenset[UUID]) -> None:
        """Remember whose data it has folded."""
        loading = aggregate.__loading__
        aggregate.__loading__ = replace(loading, key_ids=loading.key_ids | key_ids)

    def is_due(self, aggregate: Any, version: int) -> bool:
        """Whether a snapshot is to be taken of an aggregate that is at this version now."""
        return self.policy.is_due(version, aggregate.__loading__)

    def dump(self, aggregate: Any) -> str:
        """The state as JSON. A ValueError names the field that would not come back as it is."""
        self._require_declared(aggregate)
        state = {name: getattr(aggregate, name) for name in self._fields if hasattr(aggregate, name)}
        try:
            data = self._write(state, warnings="error")
            read = self._read(data)
        except ValueError as error:
            raise self._not_kept(_field_of(error)) from None  # the cause would print values, which may be secret
        for name, value in state.items():
            if not _same(value, read[name]):
                raise self._not_kept(name)
        return data.decode()

    def _not_kept(self, name: str) -> ValueError:
        return ValueError(
            f"{self._cls.__name__}.{name} would not come back from a snapshot as it is; annotate it with the type of "
            f"what it holds"
        )

    def _require_declared(self, aggregate: Any) -> None:
        for name in sorted(vars(aggregate).keys() - self._fields.keys() - self._own):
            raise ValueError(
                f"{self._cls.__name__}.{name} is set and not declared, so that no snapshot would hold it; write into "
                f"the class: {name}: its_type = ..."
            )


def _adapter_of(name: str, fields: Mapping[str, Any]) -> TypeAdapter[Any]:
    """A field that is declared and was never set is left out."""
    make: Any = TypedDict  # checkers know it by literal names only
    form = make(f"{name}State", dict(fields), total=False)
    form.__pydantic_config__ = _JSON
    return TypeAdapter(form)


def _require_json(where: str, kind: Any) -> None:
    try:
        if isinstance(kind, TypeVar):
            raise TypeError(f"{kind} stands for no type")  # noqa: TRY301  # one of several reasons
        adapter: TypeAdapter[Any] = TypeAdapter(kind)
        adapter.json_schema()
        adapter.json_schema(mode="serialization")
    except (PydanticUserError, TypeError) as error:
        reason = str(error).partition("\n")[0]
        raise TypeError(
            f"{where} cannot be kept in a snapshot: {reason} Give it a type that pydantic writes as JSON and reads "
            f"again, or leave snapshots out"
        ) from None


def _field_of(error: ValueError) -> str:
    if isinstance(error, ValidationError):
        return str(error.errors(include_url=False, include_input=False)[0]["loc"][0])
    found = re.search(r"field_name='(\w+)'", str(error))
    return found[1] if found else "*"


def _same(one: Any, other: Any) -> bool:
    """Equal, and of one type throughout: what is equal may still behave otherwise in the next fold."""
    if type(one) is not type(other):
        return {type(one), type(other)} == {int, float} and one == other
    if isinstance(one, dict):
        return list(one) == list(other) and all(_same(value, other[key]) for key, value in one.items())
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(starmap(_same, zip(one, other, strict=True)))
    return bool(one == other)
