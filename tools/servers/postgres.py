"""A private PostgreSQL cluster on 127.0.0.1, with the durability that PostgreSQL ships with."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import tempfile
from pathlib import Path

from sqlalchemy import make_url

from tools.servers.errors import ServerError, ServerUnavailableError
from tools.servers.ports import LOOPBACK, free_port, listening
from tools.servers.postgres_binaries import Binaries, find, runnable_by
from tools.servers.processes import Launch, Process, run, spawn, wait_until
from tools.servers.sql import version_at
from tools.servers.state import ELSEWHERE, Server, Started

_START_SECONDS = 60.0
_INITDB_SECONDS = 120.0
_SETTINGS = {
    "listen_addresses": LOOPBACK,
    "unix_socket_directories": "",  # the path of a socket may be 107 characters long, which a temporary folder exceeds
    "max_connections": "200",
    "max_prepared_transactions": "16",  # none by default; a prepared transaction holds its floor without a process
}


def start(folder: Path, log: Path, *, only: str | None = None) -> Started:
    """Makes a cluster in a new folder and starts it; the caller removes the folder, also after an error."""
    binaries = find(only)
    user = _unprivileged_user()
    home = _home(folder, user)
    binaries = runnable_by(user, binaries, home)
    password = secrets.token_urlsafe(12)
    _make_cluster(binaries, home, user, password)
    port = free_port()
    url = f"postgresql+asyncpg://postgres:{password}@{LOOPBACK}:{port}/postgres"
    launch = Launch(_command(binaries, home, port), str(log), user)
    server = Server(name="postgres", how=binaries.how, version=binaries.version, url=url)
    return Started(server, spawn_ready(launch, url), launch)


def spawn_ready(launch: Launch, url: str) -> Process:
    """Starts the server and returns when it answers a query; a server that does not is stopped again."""
    process = spawn(launch)
    try:
        wait_until(lambda: _answers(url), process, what="PostgreSQL", log=launch.log, seconds=_START_SECONDS)
    except BaseException:
        process.crash()
        raise
    return process


def forget_crash(folder: Path) -> None:
    """Lets a cluster start again whose processes the caller killed and saw gone.

    PostgreSQL looks for the process named in this file, and takes one that nobody has reaped yet for a running server.
    """
    elsewhere = folder / ELSEWHERE
    home = elsewhere.readlink() if elsewhere.is_symlink() else folder
    (home / "data" / "postmaster.pid").unlink(missing_ok=True)


def _answers(url: str) -> bool:
    port = make_url(url).port or 0
    try:
        return listening(LOOPBACK, port) and bool(version_at(url))
    except ServerError:
        return False  # it listens before it has recovered


def _make_cluster(binaries: Binaries, home: Path, user: str | None, password: str) -> None:
    """A password, since anybody on the machine can reach the port, and a superuser may run programs."""
    secret = home / "password"
    secret.touch(mode=0o600)
    secret.write_text(password + "\n")
    _give(secret, user)
    options = ("--username=postgres", f"--pwfile={secret}", "--auth=password", "--encoding=UTF8", "--locale=C")
    initdb = str(binaries.folder / "initdb")
    run((initdb, "--pgdata", str(home / "data"), "--no-sync", *options), user=user, seconds=_INITDB_SECONDS)
    secret.unlink()


def _command(binaries: Binaries, home: Path, port: int) -> tuple[str, ...]:
    settings = {**_SETTINGS, "port": str(port)}
    options = tuple(part for key, value in settings.items() for part in ("-c", f"{key}={value}"))
    return (str(binaries.folder / "postgres"), "-D", str(home / "data"), *options)


def _unprivileged_user() -> str | None:
    """PostgreSQL refuses to run as root; None means that the present user will do."""
    if os.geteuid() != 0:
        return None
    known = {entry.pw_name for entry in pwd.getpwall()}
    for name in ("postgres", "nobody"):
        if name in known:
            return name
    raise ServerUnavailableError("PostgreSQL does not run as root, and there is neither a user postgres nor nobody")


def _home(folder: Path, user: str | None) -> Path:
    """Where the cluster lives: beside our state, or in a temporary folder if another user must reach it."""
    folder.mkdir(parents=True)
    if user is None:
        return folder
    home = Path(tempfile.mkdtemp(prefix="cqrs-postgres-"))
    (folder / ELSEWHERE).symlink_to(home)
    _give(home, user)
    return home


def _give(path: Path, user: str | None) -> None:
    if user is not None:
        shutil.chown(path, user, pwd.getpwnam(user).pw_gid)
