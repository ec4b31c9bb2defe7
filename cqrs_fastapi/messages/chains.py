"""What stored names and versions lead to: aliases, then upcaster after upcaster, to what a class reads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from cqrs_fastapi.messages.events import EventDefinition
from cqrs_fastapi.messages.upcasters import Key, Upcaster


class Chains:
    """Computed once, at the start. `problems` has a sentence for everything that could not be read."""

    __slots__ = ("_names", "_read", "problems", "steps")

    def __init__(self, definitions: Iterable[EventDefinition], upcasters: Iterable[Upcaster]) -> None:
        self.problems: list[str] = []
        self._read: set[Key] = set()
        self._names: dict[str, str] = {}
        self.steps: dict[Key, Upcaster] = {}
        """By the present name, also where an upcaster was written for an alias."""
        self._add_classes(list(definitions))
        for upcaster in upcasters:
            self._add(upcaster)
        self.problems += [*self._dead_ends(), *self._circles()]

    def present(self, name: str) -> str:
        """The name that stands for a stored one: its own, unless it is an alias."""
        return self._names.get(name, name)

    def aliases_of(self, name: str) -> frozenset[str]:
        """All former names of what is called so now."""
        return frozenset(alias for alias, present in self._names.items() if present == name)

    def is_readable(self, name: str, version: int) -> bool:
        """Whether a class or an upcaster reads it."""
        key = (self.present(name), version)
        return key in self._read or key in self.steps

    def sources_of(self, name: str) -> frozenset[str]:
        """The stored names under which there may be what is read as an event of this name, in any version."""
        names = {name}
        for key in self.steps:
            if any(reached == name for reached, _ in self._reached(key)):
                names.add(key[0])
        return frozenset(names.union(*(self.aliases_of(one) for one in names)))

    def _add_classes(self, definitions: list[EventDefinition]) -> None:
        self._read.update((one.name, one.version) for one in definitions)
        names = {one.name for one in definitions}
        for one in definitions:
            for alias in one.aliases:
                if alias in names:
                    self.problems.append(
                        f"{alias!r} is an alias of {one.name!r} and the name of another event; a stored name "
                        f"stands for one event: take the alias away, or give the other one another name"
                    )
                elif (other := self._names.setdefault(alias, one.name)) != one.name:
                    self.problems.append(
                        f"{alias!r} is an alias of both {other!r} and {one.name!r}; take it from one of them"
                    )

    def _add(self, upcaster: Upcaster) -> None:
        key = (self.present(upcaster.name), upcaster.version)
        if key in self._read:
            self.problems.append(
                f"{upcaster.called} reads {_told(key)}, which a class reads as it is; give the class a higher version, "
                f"or take the upcaster away"
            )
        elif (first := self.steps.setdefault(key, upcaster)) is not upcaster:
            self.problems.append(
                f"{first.called} and {upcaster.called} both read {_told(key)}; a version has one upcaster"
            )

    def _targets(self, key: Key) -> list[Key]:
        """Where one step leads to, by present names."""
        step = self.steps.get(key)
        return [] if step is None else [(self.present(name), version) for name, version in step.targets]

    def _reached(self, start: Key) -> set[Key]:
        """All that the steps from here lead to."""
        found: set[Key] = set()
        todo = self._targets(start)
        while todo:
            key = todo.pop()
            if key not in found:
                found.add(key)
                todo += self._targets(key)
        return found

    def _dead_ends(self) -> Iterator[str]:
        for key, step in sorted(self.steps.items()):
            for target in self._targets(key):
                if target not in self._read and target not in self.steps:
                    name, version = target
                    yield (
                        f"{step.called} makes {_told(target)} of {_told(key)}, and nothing reads that; register its "
                        f"class by cqrs.register(...), or write an upcaster: @upcasts({name!r}, version={version})"
                    )

    def _circles(self) -> Iterator[str]:
        told: set[Key] = set()
        for key in sorted(self.steps):
            if key not in told and key in self._reached(key):
                members = {one for one in self._reached(key) if key in self._reached(one)}
                told |= members
                names = ", ".join(f"{self.steps[one].called} of {_told(one)}" for one in sorted(members))
                yield f"these upcasters lead back to where they begin: {names}; the last of a chain leads to a class"


def _told(key: Key) -> str:
    return f"{key[0]!r} version {key[1]}"
