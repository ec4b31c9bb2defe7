"""`schema.lock.json`: what has ever been stored under each name and version, kept in git beside the code."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from cqrs_fastapi.catalogue.schemas import Schema, schema_written
from cqrs_fastapi.errors import ConfigurationError
from cqrs_fastapi.messages.registry import EventRegistry

FILE: Final = "schema.lock.json"
_FORMAT = 1


@dataclass(frozen=True, slots=True)
class LockedVersion:
    """`written` are the schemas under which it was stored, in the order in which they were locked. A version has more
    than one where fields were added that readers can do without. `topic` is that of the last.
    """

    topic: str | None
    written: tuple[Schema, ...]


@dataclass(frozen=True, slots=True)
class LockedEvent:
    """All versions that were ever locked, and all names that it had before."""

    aliases: frozenset[str] = frozenset()
    versions: Mapping[int, LockedVersion] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Lockfile:
    """Events by their stored names."""

    events: Mapping[str, LockedEvent] = field(default_factory=dict)

    def __iter__(self) -> Iterator[tuple[str, int, LockedVersion]]:
        for name, event in self.events.items():
            for version, locked in event.versions.items():
                yield name, version, locked

    def with_code(self, registry: EventRegistry) -> Lockfile:
        """With what the code stores now. Nothing is taken away: what was stored once may be stored still."""
        events = dict(self.events)
        for registered in registry:
            definition = registered.definition
            known = events.get(definition.name, LockedEvent())
            before = known.versions.get(definition.version, LockedVersion(None, ()))
            written = schema_written(registered.event_type)
            schemas = before.written if before.written[-1:] == (written,) else (*before.written, written)
            versions = {**known.versions, definition.version: LockedVersion(definition.topic, schemas)}
            events[definition.name] = replace(known, aliases=known.aliases.union(definition.aliases), versions=versions)
        return Lockfile(events)


def rendered(lockfile: Lockfile) -> str:
    """The text of the file: sorted, so that it changes only where events do, and merges line by line."""
    events = {
        name: {
            "aliases": sorted(event.aliases),
            "versions": {
                str(version): {"topic": locked.topic, "written": [_sorted(schema) for schema in locked.written]}
                for version, locked in sorted(event.versions.items())
            },
        }
        for name, event in sorted(lockfile.events.items())
    }
    return json.dumps({"format": _FORMAT, "events": events}, indent=2, ensure_ascii=False) + "\n"


def parsed(text: str, where: str = FILE) -> Lockfile:
    """ConfigurationError for what is no such file."""
    try:
        values = json.loads(text)
        if values["format"] != _FORMAT:
            raise ConfigurationError(f"{where} has the format {values['format']!r}, and this version knows {_FORMAT}")
        return Lockfile({name: _event(one) for name, one in values["events"].items()})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigurationError(
            f"{where} is no schema lockfile ({type(error).__name__}: {error}); take it from git again, or resolve what "
            "a merge has left in it"
        ) from error


def read(path: Path) -> Lockfile | None:
    """None if there is no such file."""
    try:
        return parsed(path.read_text(encoding="utf-8"), str(path))
    except FileNotFoundError:
        return None


def write(path: Path, lockfile: Lockfile) -> None:
    """The whole file or, if the process dies, the one before."""
    beside = path.with_name(f"{path.name}.new")
    beside.write_text(rendered(lockfile), encoding="utf-8")
    beside.replace(path)


def _event(values: Mapping[str, Any]) -> LockedEvent:
    versions = {
        int(version): LockedVersion(one["topic"], tuple(one["written"])) for version, one in values["versions"].items()
    }
    return LockedEvent(frozenset(values["aliases"]), versions)


def _sorted(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _sorted(value[key]) for key in sorted(value)}
    return [_sorted(one) for one in value] if isinstance(value, list) else value
