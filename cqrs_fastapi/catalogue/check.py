"""Compares the code with what was locked: is all that was stored still read, and do consumers still get the same?"""

from __future__ import annotations

from collections.abc import Iterator

from cqrs_fastapi.catalogue.compatibility import lost, unreadable
from cqrs_fastapi.catalogue.lockfile import LockedVersion, Lockfile
from cqrs_fastapi.catalogue.schemas import schema_read, schema_written
from cqrs_fastapi.messages.registry import EventRegistry, RegisteredEvent


def breaks(locked: Lockfile, registry: EventRegistry) -> list[str]:
    """A sentence for each version that could not be read any more, and for each whose consumers would break."""
    return list(_breaks(locked, registry))


def not_locked(locked: Lockfile, registry: EventRegistry) -> list[str]:
    """A sentence for each version of the code that the file does not have as it is."""
    return [
        f"{name!r} version {version} is not locked as the code stores it now"
        for name, version, one in locked.with_code(registry)
        if name not in locked.events or locked.events[name].versions.get(version) != one
    ] + [
        f"{name!r} has other former names than those that are locked"
        for name, event in locked.with_code(registry).events.items()
        if name in locked.events and locked.events[name].aliases != event.aliases
    ]


def _breaks(locked: Lockfile, registry: EventRegistry) -> Iterator[str]:
    for name, event in locked.events.items():
        for version, one in event.versions.items():
            if dead := [called for called in (name, *sorted(event.aliases)) if not registry.reads(called, version)]:
                yield (
                    f"{' and '.join(map(repr, dead))} version {version} may be stored, and nothing reads it; register "
                    f"its class, keep the alias, or write @upcasts({dead[0]!r}, version={version})"
                )
            elif registry.as_it_is(name, version) is not None:
                yield from _changes(name, version, one, registry)


def _changes(name: str, version: int, locked: LockedVersion, registry: EventRegistry) -> Iterator[str]:
    """A class reads it, which may be another one than before."""
    registered = registry.named(name, version)
    now = schema_written(registered.event_type)
    reader = schema_read(registered.event_type)
    told = list(dict.fromkeys(reason for one in locked.written for reason in unreadable(one, reader, now)))
    if told:
        yield (
            f"{registered.event_type.__name__} may not read what is stored as {name!r} version {version} ("
            f"{'; '.join(told)}); give the class version {version + 1} and write @upcasts({name!r}, version={version})"
        )
    if locked.topic is not None:
        yield from _missed(name, version, locked, registered)


def _missed(name: str, version: int, locked: LockedVersion, registered: RegisteredEvent) -> Iterator[str]:
    definition, told = registered.definition, lost(locked.written[-1], schema_written(registered.event_type))
    if definition.name != name:
        told.append(f"it is called {definition.name!r} there now")
    if definition.topic != locked.topic:
        told.append(f"it is sent to {definition.topic!r} now" if definition.topic else "it is sent nowhere now")
    if told:
        yield (
            f"consumers of the topic {locked.topic!r} would break on {name!r} version {version} ({'; '.join(told)}); "
            f"keep it as it was, or give the event version {version + 1} and let its consumers learn it first"
        )
