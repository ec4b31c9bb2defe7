"""What lies between two states of a root entity."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Diff:
    """The fields that changed, by name: `diff["price"]` and `diff.price` are the new value, or of an EntitySet or a
    ValueObjectSet the Changes of its members. `root.apply_diff(diff)` makes the changes. It is falsy if there are none.
    """

    fields: Mapping[str, Any]

    def __getitem__(self, name: str) -> Any:
        return self.fields[name]

    def __getattr__(self, name: str) -> Any:
        try:
            return self.fields[name]
        except KeyError:
            changed = ", ".join(self.fields) or "none"
            raise AttributeError(f"the field {name} did not change; these did: {changed}", name=name) from None

    def __contains__(self, name: object) -> bool:
        return name in self.fields

    def __iter__(self) -> Iterator[str]:
        return iter(self.fields)

    def __len__(self) -> int:
        return len(self.fields)

    def decompose(self) -> tuple[Diff, ...]:
        """One for each field; applied one after the other they do the same."""
        return tuple(Diff({name: value}) for name, value in self.fields.items())
