"""What aggregates are made of: entities, which are told apart by their id, and values, which are what they hold."""

from __future__ import annotations

from uuid import UUID, uuid4

from pydantic import BaseModel, ConfigDict, Field


class ValueObject(BaseModel):
    """Equal to another that holds the same; frozen, and hashable if its fields are.

    In stored events it ignores fields that it does not know, so that older code reads newer events.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", ser_json_inf_nan="strings")


class Entity(BaseModel):
    """Keeps its `id` while its other fields change; each change is validated.

    It is hashed by class and id, and equal to another that holds the same in all fields: two states of one entity
    differ. An id that is left out is a new one. A fold must not make entities that way, since each replay would make
    others: let the event carry the entity, or its id.
    """

    model_config = ConfigDict(extra="ignore", validate_assignment=True, ser_json_inf_nan="strings")

    id: UUID = Field(default_factory=uuid4, frozen=True)

    def __hash__(self) -> int:
        return hash((type(self), self.id))


class ExternalEntity(Entity):
    """The mirror of an entity that another service owns, as it was at one of its versions."""

    id: UUID = Field(frozen=True)
    version: int = Field(ge=1)
