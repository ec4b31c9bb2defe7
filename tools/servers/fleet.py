"""The servers of one state folder: started once, shared by whoever needs them, gone with the last user."""

from __future__ import annotations

import os
import signal
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from tools.servers import kafka, postgres
from tools.servers.errors import ServerError
from tools.servers.outside import from_environment
from tools.servers.processes import Launch, Process
from tools.servers.state import Name, Record, Server, Started, StateFolder

_STOP_SECONDS = 30.0
_POLITE = {"postgres": signal.SIGINT, "kafka": signal.SIGTERM}  # SIGINT is PostgreSQL's `fast` shutdown

_KINDS = {"postgres": ("system", "wheel"), "kafka": ("apache", "mock")}


def _default_folder() -> Path:
    return Path(os.environ.get("CQRS_SERVERS") or Path(__file__).parents[2] / ".servers")


@dataclass(frozen=True, slots=True)
class Servers:
    """Starts, shares and stops servers. Safe to use from several processes at once: each step holds a file lock.

    A server named by the environment (`POSTGRES_URL`, `KAFKA_BOOTSTRAP`) is used as it is and never stopped.
    """

    folder: Path = field(default_factory=_default_folder)
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))

    def start(self, name: Name) -> Server:
        """Returns a server that answers and stays until `stop`. Does nothing more if it already runs."""
        return self._enter(name, kept=True, user=None)

    @contextmanager
    def use(self, name: Name) -> Iterator[Server]:
        """A server for the time of the block: started if none runs, stopped with its last user unless it was kept."""
        token = uuid.uuid4().hex
        server = self._enter(name, kept=False, user=token)
        try:
            yield server
        finally:
            self._leave(name, token)

    def running(self, name: Name) -> Server | None:
        """What runs already, without starting anything."""
        with self._state.locked(name):
            record = self._living(name)
            return from_environment(name, self.environment, record) or (record.started.server if record else None)

    def stop(self, name: Name) -> bool:
        """Stops the server and removes its data, whoever uses it. False if there was nothing to stop."""
        with self._state.locked(name):
            record = self._state.load(name)
            if record is not None:
                self._end(name, record)
            return record is not None

    def restart(self, name: Name, *, crash: bool = False) -> Server:
        """Stops the server and starts it again with the same data on the same port; `crash` kills it instead."""
        with self._state.locked(name):
            record = self._living(name)
            if record is None or not record.started.server.real:
                what = "the mock keeps nothing over a restart" if record else "it does not run"
                raise ServerError(f"{name} cannot be restarted: {what}")
            self._halt(name, record, crash=crash)
            process = self._spawn_ready(name, record.started.launch, record.started.server.url)
            self._state.save(name, replace(record, started=replace(record.started, process=process)))
            return record.started.server

    @property
    def _state(self) -> StateFolder:
        return StateFolder(self.folder)

    def _enter(self, name: Name, *, kept: bool, user: str | None) -> Server:
        with self._state.locked(name):
            record = self._living(name)
            outside = from_environment(name, self.environment, record)
            if outside is not None:
                return outside
            record = record or Record(self._start(name), kept=False, users={})
            users = {**record.users, **({user: Process.of(os.getpid())} if user else {})}
            self._state.save(name, replace(record, kept=record.kept or kept, users=users))
            return record.started.server

    def _leave(self, name: Name, token: str) -> None:
        with self._state.locked(name):
            record = self._living(name)
            if record is None or token not in record.users:
                return
            record = replace(record, users={key: user for key, user in record.users.items() if key != token})
            if record.users or record.kept:
                self._state.save(name, record)
            else:
                self._end(name, record)

    def _living(self, name: Name) -> Record | None:
        """The record of a server that runs. What is left of one that died is cleared away."""
        record = self._state.load(name)
        if record is not None and not record.started.process.alive():
            self._end(name, record)
            return None
        return record.with_living_users() if record else None

    def _start(self, name: Name) -> Started:
        data = self._state.data(name)
        log = self._state.log(name)
        self._state.remove_data(name)
        log.write_text("")
        try:
            if name == "postgres":
                return postgres.start(data, log, only=self._only(name))
            return kafka.start(data, log, only=self._only(name))
        except BaseException:
            self._state.remove_data(name)
            raise

    def _only(self, name: Name) -> str | None:
        variable = f"CQRS_SERVERS_{name.upper()}"
        chosen = self.environment.get(variable) or None
        if chosen not in (None, *_KINDS[name]):
            raise ServerError(f"{variable} is {chosen!r}; write {' or '.join(_KINDS[name])}, or unset it")
        return chosen

    def _spawn_ready(self, name: Name, launch: Launch, url: str) -> Process:
        return postgres.spawn_ready(launch, url) if name == "postgres" else kafka.spawn_ready(launch, url)

    def _halt(self, name: Name, record: Record, *, crash: bool) -> None:
        process = record.started.process
        if not crash:
            process.stop(_POLITE[name], grace=_STOP_SECONDS)
            return
        process.crash()
        if name == "postgres":
            postgres.forget_crash(self._state.data(name))

    def _end(self, name: Name, record: Record) -> None:
        """The data is thrown away, so there is nothing for the server to save first."""
        record.started.process.crash()
        self._state.remove_data(name)
        self._state.forget(name)
