"""What the drivers raise, in the words of this library.

UnavailableError means that nothing was written, so an error is mapped to it only where that is certain: before COMMIT
is sent, or when the server itself refused. What a lost connection answers to COMMIT is an UnknownOutcomeError.
Everything else (IntegrityError, deadlocks, wrong SQL) passes unchanged.
"""

from __future__ import annotations

import socket
import sqlite3
from collections.abc import Callable

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from cqrs_fastapi.errors import CqrsError, ReadOnlyError, UnavailableError, UnknownOutcomeError

_LOST = ("08", "57P01", "57P02", "25P03")
"""The server ended the connection: connection exceptions, shutdown, crash, idle in transaction too long."""
_REFUSED = ("57P03", "53", "28", "3D000", "25006", "55P03")
"""The server answers that it cannot: starting, too many connections, no disk or memory, no such login, a standby, a row
that somebody else kept locked for too long.
"""
_REFUSED_SQLITE = frozenset(
    {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN}
)
_FAILED_SQLITE = frozenset({sqlite3.SQLITE_IOERR, sqlite3.SQLITE_PROTOCOL})
_PRIMARY = 0xFF


class Translating:
    """A block whose errors are told in other words. A class, since a generator takes three times as long, and these
    surround every statement.
    """

    __slots__ = ("_translate",)

    def __init__(self, translate: Callable[[Exception], CqrsError | None]) -> None:
        self._translate = translate

    def __enter__(self) -> None:
        return

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if isinstance(error, Exception) and not isinstance(error, CqrsError):
            told = self._translate(error)
            if told is not None:
                raise told from error


def before_commit() -> Translating:
    """Around everything but COMMIT: a database that does not answer is an UnavailableError, nothing was written."""
    return _BEFORE_COMMIT


def at_commit() -> Translating:
    """Around COMMIT alone: UnknownOutcomeError if its answer was lost, UnavailableError if the server refused it."""
    return _AT_COMMIT


def reading(*, write_instead: str) -> Translating:
    """Around what was promised to read only, inside `before_commit`: a ReadOnlyError if it writes."""

    def translate(error: Exception) -> CqrsError | None:
        driver_error = _driver_error(error)
        if _sqlstate(driver_error) == "25006" or _sqlite_code(driver_error) == sqlite3.SQLITE_READONLY:
            return ReadOnlyError(f"a statement wrote where only reading was promised; {write_instead}")
        return None

    return Translating(translate)


async def commit(session: AsyncSession, work: Callable[[Connection], object] | None = None) -> None:
    """Flushes a session, runs `work` in its transaction, commits and closes it. COMMIT raises by `at_commit`, the rest
    is mapped as any statement's is.
    """
    await session.run_sync(_commit, work)  # all at once: each step by itself is a greenlet of its own


def _commit(session: Session, work: Callable[[Connection], object] | None) -> None:
    with before_commit():
        # The flush comes first: an application's own error must not be hidden behind a conflict of versions.
        session.flush()
        if work is not None:
            work(session.connection())
    with at_commit():
        session.commit()
    session.close()


def is_lost_connection(error: Exception) -> bool:
    """Whether the connection was found dead, which says nothing about the next one."""
    return isinstance(error, DBAPIError) and error.connection_invalidated


def is_passing(error: Exception) -> bool:
    """Whether a statement of somebody's own failed for what passes by itself: a database that is away, a deadlock."""
    if not isinstance(error, DBAPIError | PoolTimeoutError):
        return False
    return _is_refused(error) or _is_lost(error) or _sqlstate(_driver_error(error)).startswith("40")


def is_lock_timeout(error: UnavailableError) -> bool:
    """Whether it was a lock of somebody else's that was in the way, and not the database."""
    cause = error.__cause__
    return isinstance(cause, Exception) and _sqlstate(_driver_error(cause)) == "55P03"


def _is_lost(error: Exception) -> bool:
    """The connection broke, so that whatever was under way on it is unknown here."""
    driver_error = _driver_error(error)
    if is_lost_connection(error) or _is_network(driver_error) or _is_confused(driver_error):
        return True
    return _sqlstate(driver_error).startswith(_LOST) or _sqlite_code(driver_error) in _FAILED_SQLITE


def _is_refused(error: Exception) -> bool:
    """There was never a connection, or the server said no: nothing has happened."""
    driver_error = _driver_error(error)
    if isinstance(error, PoolTimeoutError) or isinstance(driver_error, ConnectionRefusedError):
        return True
    return _sqlstate(driver_error).startswith(_REFUSED) or _sqlite_code(driver_error) in _REFUSED_SQLITE


def _is_network(error: BaseException) -> bool:
    """A plain OSError is what asyncio makes of several addresses that all failed; its other kinds are about files."""
    return isinstance(error, ConnectionError | TimeoutError | socket.gaierror) or type(error) is OSError


def _is_confused(error: BaseException) -> bool:
    """What asyncpg says, without a code of the server's, of a connection that ended while it was being used."""
    if not type(error).__module__.startswith("asyncpg"):
        return False
    name = type(error).__name__
    return name == "InternalClientError" or (name == "InterfaceError" and "closed" in str(error))


def _driver_error(error: Exception) -> BaseException:
    """The driver's own error below SQLAlchemy's; connecting raises it bare."""
    return error.orig if isinstance(error, DBAPIError) and error.orig is not None else error


def _told_before_commit(error: Exception) -> CqrsError | None:
    if _is_refused(error) or _is_lost(error):
        return UnavailableError(f"the database does not answer: {_said(error)}; try again")
    return None


def _told_at_commit(error: Exception) -> CqrsError | None:
    if _is_refused(error):
        return UnavailableError(f"the database refused the commit: {_said(error)}; try again")
    if _is_lost(error):
        return UnknownOutcomeError(
            f"the answer to COMMIT was lost: {_said(error)}; it may have happened, look before you repeat it"
        )
    return None


_BEFORE_COMMIT = Translating(_told_before_commit)
_AT_COMMIT = Translating(_told_at_commit)


def _sqlstate(error: BaseException) -> str:
    return str(getattr(error, "sqlstate", None) or "")


def _sqlite_code(error: BaseException) -> int | None:
    code: int | None = getattr(error, "sqlite_errorcode", None) if isinstance(error, sqlite3.Error) else None
    return None if code is None else code & _PRIMARY


def _said(error: Exception) -> str:
    """The driver's sentence without the statement and its parameters, which may be secret."""
    driver_error = _driver_error(error)
    return str(driver_error) or type(driver_error).__name__
