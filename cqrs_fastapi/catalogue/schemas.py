"""The JSON schemas of events, without what is only told to people, so that they change only when the data does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

from pydantic import TypeAdapter
from pydantic.errors import PydanticInvalidForJsonSchema
from pydantic.json_schema import GenerateJsonSchema

from cqrs_fastapi.errors import ConfigurationError
from cqrs_fastapi.messages.events import definition_of
from cqrs_fastapi.messages.forms import is_struct

Schema: TypeAlias = dict[str, Any]

_TOLD = frozenset({"title", "description", "examples", "default", "deprecated", "discriminator", "$defs"})
_DEFINITIONS = "#/$defs/"
_NAMED = frozenset({"properties", "patternProperties"})
_ONE = frozenset({"items", "additionalProperties", "contains", "propertyNames", "not"})
_SEVERAL = frozenset({"anyOf", "oneOf", "allOf", "prefixItems"})


class _Schemas(GenerateJsonSchema):
    """Pydantic's, but for what is written: it writes fields with defaults, too."""

    def field_is_required(self, field: Any, total: bool) -> bool:  # pydantic's own method
        if self.mode == "serialization" and field["type"] != "typed-dict-field":
            return not field.get("serialization_exclude", False)
        return super().field_is_required(field, total)


def schema_written(event_type: type) -> Schema:
    """What is stored and sent of this event."""
    return _schema(event_type, "serialization")


def schema_read(event_type: type) -> Schema:
    """What this class reads."""
    return _schema(event_type, "validation")


def _schema(event_type: type, mode: Literal["validation", "serialization"]) -> Schema:
    if is_struct(event_type):
        import msgspec  # noqa: PLC0415  # an extra: only who defines a struct needs it

        return plain(msgspec.json.schema(event_type))
    try:
        return plain(TypeAdapter(event_type).json_schema(mode=mode, schema_generator=_Schemas))
    except PydanticInvalidForJsonSchema as error:
        name = definition_of(event_type).name
        raise ConfigurationError(
            f"{event_type.__name__} ({name!r}) has a field that no JSON schema can be made of ({error.message}); give "
            f"its type a __get_pydantic_json_schema__"
        ) from error


def plain(schema: Schema) -> Schema:
    """With definitions where they are used. Only where a definition holds itself a reference to it remains."""
    made: Schema = _plain(schema, schema.get("$defs", {}), ())
    return made


def _plain(schema: Any, definitions: Mapping[str, Any], above: tuple[str, ...]) -> Any:
    if not isinstance(schema, dict):
        return schema
    if (reference := schema.get("$ref")) is not None:
        name = reference.removeprefix(_DEFINITIONS)
        return {"$ref": name} if name in above else _plain(definitions[name], definitions, (*above, name))
    made: Schema = {}
    for key, value in schema.items():
        if key in _NAMED:
            made[key] = {name: _plain(one, definitions, above) for name, one in value.items()}
        elif key in _SEVERAL:
            made[key] = [_plain(one, definitions, above) for one in value]
        elif key in _ONE:
            made[key] = _plain(value, definitions, above)
        elif key not in _TOLD:
            made[key] = sorted(value) if key == "required" else value
    return made
