"""What is known about a started server, kept in a folder so that another process can find, use and stop it."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

from pydantic import TypeAdapter

from tools.servers.processes import Launch, Process

Name = Literal["postgres", "kafka"]
NAMES: Final[tuple[Name, ...]] = ("postgres", "kafka")
ELSEWHERE: Final = "elsewhere"
"""A link of this name in a server's folder leads to data that had to be put somewhere else."""


@dataclass(frozen=True, slots=True)
class Server:
    """A server that answered. `how` tells where it came from; `url` is an SQLAlchemy URL or a `host:port`.

    `version` is empty where `how` names it already, or where nobody can tell. `real` is false for an imitation.
    `note` tells why nothing better was started.
    """

    name: Name
    how: str
    version: str
    url: str
    real: bool = True
    note: str = ""

    def __str__(self) -> str:
        version = f", version {self.version}" if self.version else ""
        return f"{self.name}: {self.how}{version}" + (f" ({self.note})" if self.note else "")


@dataclass(frozen=True, slots=True)
class Started:
    """A server of ours: its process, and how to start it again."""

    server: Server
    process: Process
    launch: Launch


@dataclass(frozen=True, slots=True)
class Record:
    """A started server with its users. It is stopped with its last user, unless somebody asked to keep it."""

    started: Started
    kept: bool
    users: dict[str, Process]

    def with_living_users(self) -> Record:
        return replace(self, users={key: user for key, user in self.users.items() if user.alive()})


_RECORD = TypeAdapter(Record)


@dataclass(frozen=True, slots=True)
class StateFolder:
    """One file and one lock per server. The files may hold a password, so only their owner can read them."""

    path: Path

    @contextmanager
    def locked(self, name: Name) -> Iterator[None]:
        """At most one process at a time looks at or changes what is known about this server."""
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def log(self, name: Name) -> Path:
        return self.path / f"{name}.log"

    def data(self, name: Name) -> Path:
        return self.path / name

    def remove_data(self, name: Name) -> None:
        """Removes the data, also where it lives elsewhere for the sake of another user."""
        elsewhere = self.data(name) / ELSEWHERE
        if elsewhere.is_symlink():
            shutil.rmtree(elsewhere.readlink(), ignore_errors=True)
        shutil.rmtree(self.data(name), ignore_errors=True)

    def load(self, name: Name) -> Record | None:
        file = self._file(name)
        return _RECORD.validate_json(file.read_bytes()) if file.exists() else None

    def save(self, name: Name, record: Record) -> None:
        new = self.path / f"{name}.new"
        new.unlink(missing_ok=True)
        new.touch(mode=0o600)
        new.write_bytes(_RECORD.dump_json(record, indent=2) + b"\n")
        new.replace(self._file(name))

    def forget(self, name: Name) -> None:
        self._file(name).unlink(missing_ok=True)

    def _file(self, name: Name) -> Path:
        return self.path / f"{name}.json"
