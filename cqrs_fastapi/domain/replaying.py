"""Folds the stored events of a stream into an aggregate. This is the loop that the speed of loading depends on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from time import perf_counter
from typing import Any, Protocol

from cqrs_fastapi.domain.applies import fold_of
from cqrs_fastapi.errors import CqrsError, MessageError
from cqrs_fastapi.eventstore.decoding import placed
from cqrs_fastapi.messages.registry import EventRegistry
from cqrs_fastapi.storage.prepared import Row

Read = Callable[[bytes], Any]
Fold = Callable[[Any], None]


class ReplayError(CqrsError):
    """A fold refused an event that is stored. The aggregate cannot be loaded until the fold accepts it."""

    code = "replay"

    def __init__(self, *, stream: str, version: int, event: str, cause: Exception) -> None:
        self.stream, self.version, self.event = stream, version, event
        super().__init__(
            f"{event} at version {version} of stream {stream!r} cannot be folded: {type(cause).__name__}: {cause}; "
            "what was recorded has happened, so a fold takes it as it is: check invariants before recording"
        )


class Folding(Protocol):
    """What is needed of an aggregate, besides its folds."""

    version: int

    @property
    def stream(self) -> str: ...


class Replay:
    """Folds one page after another. `seconds` is how long that has taken so far."""

    __slots__ = ("_aggregate", "_registry", "_steps", "seconds")

    def __init__(self, aggregate: Folding, registry: EventRegistry) -> None:
        self._aggregate = aggregate
        self._registry = registry
        self._steps = _Steps(aggregate, registry)
        self.seconds = 0.0

    def fold(self, rows: Sequence[Row]) -> None:
        """Rows of version, type, schema_version and data, in their order. Raises ReplayError, UnknownMessageError and
        MalformedMessageError.
        """
        if not rows:
            return
        began, steps, row = perf_counter(), self._steps, rows[0]
        try:
            for row in rows:
                read, fold = steps[row[1], row[2]]
                fold(read(row[3].encode()))
        except Exception as error:
            raise self._told(row, error) from error
        self._aggregate.version = row[0]
        self.seconds += perf_counter() - began

    def _told(self, row: Row, error: Exception) -> CqrsError:
        """What is wrong: the row, told by the decoder that explains itself, or else the fold."""
        stream, (version, name, schema_version, data) = self._aggregate.stream, row[:4]
        try:
            events = self._registry.read(name, schema_version, data.encode())
        except MessageError as unreadable:
            return placed(unreadable, stream, version, name, schema_version)
        called = ", ".join(type(event).__name__ for event in events)
        return ReplayError(stream=stream, version=version, event=called or name, cause=error)


class _Steps(dict[tuple[str, int], tuple[Read, Fold]]):
    """How each type of event is read and folded, found when the first one comes."""

    __slots__ = ("_aggregate", "_registry")

    def __init__(self, aggregate: Folding, registry: EventRegistry) -> None:
        super().__init__()
        self._aggregate, self._registry = aggregate, registry

    def __missing__(self, key: tuple[str, int]) -> tuple[Read, Fold]:
        registered = self._registry.as_it_is(*key)
        if registered is not None:
            step = (registered.codec.read, fold_of(self._aggregate, registered.event_type))
        else:
            step = (partial(self._registry.read, *key), self._fold_each)
        self[key] = step
        return step

    def _fold_each(self, events: Iterable[Any]) -> None:
        """What upcasters have made of one stored event."""
        for event in events:
            fold_of(self._aggregate, type(event))(event)
