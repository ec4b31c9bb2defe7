"""Which database a URL means, and whether SQLite can keep its promises on that file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from cqrs_fastapi.errors import ConfigurationError

Dialect = Literal["sqlite", "postgresql"]

_SUPPORTED = "postgresql+asyncpg://user:password@host/database or sqlite+aiosqlite:///./file.db"
_DIALECTS: dict[str, Dialect] = {"postgresql+asyncpg": "postgresql", "sqlite+aiosqlite": "sqlite"}
_WRITE_INSTEAD = {"postgresql": "postgresql+asyncpg", "postgres": "postgresql+asyncpg", "sqlite": "sqlite+aiosqlite"}
_NETWORKS = re.compile(r"(fuse\.)?(nfs|nfs4|cifs|smb\w*|sshfs|afs|ceph|glusterfs|lustre|beegfs|davfs\w*|ncpfs)")


def checked_url(text: str) -> URL:
    """The URL with SQLite's path made absolute; a ConfigurationError says what to write instead of a wrong one."""
    try:
        url = make_url(text)
    except ArgumentError as error:
        raise ConfigurationError(f"database_url is no URL; write {_SUPPORTED}") from error
    if url.drivername not in _DIALECTS:
        raise ConfigurationError(_unsupported(url))
    if dialect_of(url) == "sqlite":
        return url.set(database=str(_checked_file(url)))
    return url


def dialect_of(url: URL) -> Dialect:
    return _DIALECTS[url.drivername]


def require_usable_file(url: URL, mounts: Path = Path("/proc/mounts")) -> None:
    """ConfigurationError if the folder of a SQLite file is missing or on a network, where locks do not work."""
    folder = Path(url.database or "").parent
    if not folder.is_dir():
        raise ConfigurationError(f"the folder of database_url does not exist: {folder}; run: mkdir -p {folder}")
    if mounts.exists():
        kind = file_system(folder.resolve(), mounts.read_text())
        if kind is not None and _NETWORKS.fullmatch(kind):
            raise ConfigurationError(
                f"{folder} is on a network file system ({kind}), where SQLite's locks and its write-ahead log "
                "do not work; put the file on a local disk, or use PostgreSQL"
            )


def file_system(path: Path, mounts: str) -> str | None:
    """The kind of file system that holds `path`, by the longest mount point above it; the later of two equal ones."""
    best, kind = -1, None
    for line in mounts.splitlines():
        columns = line.split()
        if len(columns) < 3:  # noqa: PLR2004  # device, mount point, kind
            continue
        point = Path(re.sub(r"\\(\d{3})", lambda octal: chr(int(octal[1], 8)), columns[1]))
        if path.is_relative_to(point) and len(point.parts) >= best:
            best, kind = len(point.parts), columns[2]
    return kind


def _unsupported(url: URL) -> str:
    """The password, if any, is not repeated."""
    instead = _WRITE_INSTEAD.get(url.get_backend_name())
    if instead is None:
        return f"database_url begins with {url.drivername}://, which is not supported; write {_SUPPORTED}"
    return f"database_url begins with {url.drivername}://; write {instead}://"


def _checked_file(url: URL) -> Path:
    database = url.database or ":memory:"
    if database.startswith("file:"):
        raise ConfigurationError(
            "database_url is a file: URI; write the path alone, as in sqlite+aiosqlite:///./file.db"
        )
    if ":memory:" in database:
        raise ConfigurationError(
            "database_url is an in-memory database, which each connection would have for itself; "
            "write a file, as in sqlite+aiosqlite:///./file.db"
        )
    return Path(database).absolute()
