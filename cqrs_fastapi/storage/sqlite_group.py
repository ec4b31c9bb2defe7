"""Works that are committed together.

1. BEGIN IMMEDIATE; each work in a savepoint of its own, so that an error undoes only its own work.
2. One COMMIT. Only then does any member hear that it has written.
If SQLite itself ended the transaction in between (a full disk), or the COMMIT was refused because of what one of them
wrote, each is run again in a transaction of its own.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from sqlalchemy import Connection, Engine, event
from sqlalchemy.exc import IntegrityError

from cqrs_fastapi.errors import ConfigurationError
from cqrs_fastapi.storage.driver_errors import at_commit, before_commit
from cqrs_fastapi.storage.sqlite_members import Member, forget_transaction


class GroupTransaction:
    """`engine` must leave BEGIN to this class, and works must leave it COMMIT and ROLLBACK."""

    def __init__(self, engine: Engine) -> None:
        self._working = False
        event.listen(engine, "commit", self._refuse)
        event.listen(engine, "rollback", self._refuse)

    def commit_group(self, connection: Connection, group: Sequence[Member]) -> None:
        """Commit them together, or one by one where that cannot be; each member then has its result or its error."""
        if len(group) == 1 or not self._commit_together(connection, group):
            for member in group:
                self._commit_alone(connection, member)
        forget_transaction(connection)

    def _commit_together(self, connection: Connection, group: Sequence[Member]) -> bool:
        """False, with nothing written, if they must be run one by one."""
        driver = driver_of(connection)
        driver.execute("BEGIN IMMEDIATE")
        try:
            return self.run_all(connection, group) and self.commit_all(driver)
        finally:
            roll_back(driver)

    def run_all(self, connection: Connection, group: Sequence[Member]) -> bool:
        """Run them in the transaction that has begun; False if one of them ended it."""
        driver = driver_of(connection)
        for member in group:
            driver.execute("SAVEPOINT member")
            self._work(connection, member)
            if not driver.in_transaction:
                return False
            if member.error is not None:
                driver.execute("ROLLBACK TO member")
            driver.execute("RELEASE member")
        return True

    def commit_all(self, driver: sqlite3.Connection) -> bool:
        """False, with nothing written, if what one of them wrote may not be committed."""
        try:
            with at_commit():
                driver.execute("COMMIT")
        except sqlite3.IntegrityError:
            return False  # a deferred constraint: one of them broke it, and only running each alone tells which
        return True

    def _commit_alone(self, connection: Connection, member: Member) -> None:
        driver = driver_of(connection)
        try:
            driver.execute("BEGIN IMMEDIATE")
            self._work(connection, member)
            if member.error is None:
                with at_commit():
                    driver.execute("COMMIT")
        except sqlite3.IntegrityError as error:
            member.error = IntegrityError("COMMIT", None, error)
        except Exception as error:  # noqa: BLE001  # it is this member's, the next is run all the same
            member.error = error
        finally:
            roll_back(driver)

    def _work(self, connection: Connection, member: Member) -> None:
        member.result, member.error = None, None
        self._working = True
        try:
            with before_commit():
                member.result = member.work(connection)
        except StopIteration as error:
            member.error = RuntimeError(f"the work raised {error!r}, which no future can carry")
        except BaseException as error:  # noqa: BLE001  # it is raised again where the caller waits
            member.error = error
        finally:
            while (nested := connection.get_nested_transaction()) is not None and driver_of(connection).in_transaction:
                nested.rollback()
            self._working = False
            self._forget_transaction(connection)

    def _forget_transaction(self, connection: Connection) -> None:
        """What SQLAlchemy thinks of a transaction after a refused `commit()`; the real one is the driver's."""
        transaction = connection.get_transaction()
        if transaction is not None and not transaction.is_active:
            transaction.close()

    def _refuse(self, _: Connection) -> None:
        if self._working:
            raise ConfigurationError(
                "a work given to Database.write ended its transaction; leave out commit() and rollback(): "
                "it is committed when the work returns and rolled back when it raises"
            )


def roll_back(driver: sqlite3.Connection) -> None:
    """Whatever is still open."""
    if driver.in_transaction:
        driver.execute("ROLLBACK")


def driver_of(connection: Connection) -> sqlite3.Connection:
    driver = connection.connection.driver_connection
    if not isinstance(driver, sqlite3.Connection):
        raise TypeError(f"the writer needs sqlite3 and was given {type(driver).__name__}")
    return driver
