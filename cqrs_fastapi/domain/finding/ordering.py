"""In which order root entities are found: always a total one, since the id comes last."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from cqrs_fastapi.domain.finding.places import ID, Place

MOST_FIELDS = 8


@dataclass(frozen=True, slots=True)
class Step:
    """One field of an ordering."""

    place: Place
    descending: bool = False

    def __str__(self) -> str:
        return f"{self.place} {'descending' if self.descending else 'ascending'}"


@dataclass(frozen=True, slots=True)
class Ordering:
    """By several fields, the first of which counts most: `Ordering.by(Product.price.descending(),
    Product.name.ascending())`. Null comes last in either direction, and what is equal in all fields is ordered by id.
    """

    steps: tuple[Step, ...] = ()

    def __post_init__(self) -> None:
        if len(self.steps) > MOST_FIELDS:
            raise TypeError(f"an ordering has {len(self.steps)} fields, the limit is {MOST_FIELDS}")
        paths = [step.place.path for step in self.steps]
        twice = next((path for path in paths if paths.count(path) > 1), None)
        if twice is not None:
            raise TypeError(f"an ordering names {'.'.join(twice)} twice; leave one of them out")

    @classmethod
    def by(cls, *orderings: Ordering) -> Ordering:
        """By the first, then by the second, and so on; by id alone if there are none."""
        return cls(tuple(step for ordering in orderings for step in ordering.steps))

    def total(self) -> tuple[Step, ...]:
        """The steps, completed by the id."""
        return self.steps if any(step.place == ID for step in self.steps) else (*self.steps, Step(ID))

    def __str__(self) -> str:
        return ", ".join(map(str, self.total()))


BY_ID: Final = Ordering()
