"""What operators do about personal data: say where it is kept, and forget a person."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from sqlalchemy import ColumnElement, Table

from cqrs_fastapi.errors import ConfigurationError
from cqrs_fastapi.messages.metadata import holder
from cqrs_fastapi.personal_data.cipher import require_crypto
from cqrs_fastapi.personal_data.events import PersonalEvents
from cqrs_fastapi.personal_data.forgetting import Forgotten, ReadModels, forget
from cqrs_fastapi.personal_data.key_provider import KeyProvider
from cqrs_fastapi.personal_data.key_ring import KeyRing

if TYPE_CHECKING:
    from cqrs_fastapi.runtime.engine import Engine


class DataSubjects:
    """`cqrs.personal_data`."""

    __slots__ = ("_engine", "_read_models")

    def __init__(self, read_models: ReadModels, engine: Callable[[], Engine]) -> None:
        self._read_models = read_models
        self._engine = engine

    def purge(self, table: Table, *, subject: ColumnElement[Any], tenant: ColumnElement[str] | None = None) -> None:
        """Say that a table of the application's database holds personal data: `forget` deletes its rows with the
        subject in the column `subject`, and with its tenant in the column `tenant` if there is one.

        Call it where the table's projection is bound. TypeError for a column of another table.
        """
        self._read_models.purge(table, subject=subject, tenant=tenant)

    async def forget(self, subject: object, *, tenant: str | None = None) -> Forgotten:
        """Destroy the key of a data subject, and delete its snapshots and its rows of the tables named by `purge`: all
        of it in one transaction of its own, or nothing. Then nothing that was encrypted of it can be read, and nothing
        of it is recorded again, also if it was not known so far.

        It is not undone by anybody, and harmless to repeat, as after an UnknownOutcomeError. Cancelling the caller does
        not stop it. `tenant` is that of the message being handled, or none, unless it is given. A handler that holds a
        session on SQLite must not wait for it.
        """
        engine = self._engine()
        if engine.personal is None:
            raise ConfigurationError(f"nothing is encrypted in this application, so nobody is forgotten; {_WRITE}")
        return await engine.kernel.own(self._forget(engine, str(subject), _tenant(tenant)))

    async def _forget(self, engine: Engine, subject: str, tenant: str) -> Forgotten:
        work = partial(
            forget,
            tables=engine.database.tables,
            read_models=tuple(self._read_models.known),
            tenant=tenant,
            subject=subject,
            key_id=engine.ids(),
            now=engine.clock.now(),
        )
        destroyed = await engine.database.write(work)
        if engine.personal is not None:
            engine.personal.ring.drop([destroyed.key_id])
        return destroyed.report(tenant, subject, engine.clock.now())


def personal_events(provider: KeyProvider | None, engine: Engine) -> PersonalEvents | None:
    """What encrypts and decrypts; None where there is no key and nothing is personal. ConfigurationError where
    something is, and MissingExtraError without the means to encrypt it.
    """
    if provider is not None:
        require_crypto()
        return PersonalEvents(KeyRing(engine.database, provider, engine.clock, engine.ids), engine.registry)
    for registered in engine.registry:
        if registered.personal:
            field = f"{registered.event_type.__name__}.{registered.personal[0].name}"
            raise ConfigurationError(f"{field} is personal, and there is no key to encrypt it with; {_WRITE}")
    return None


_WRITE = (
    "set CQRS_PERSONAL_DATA_KEYS=main:$(openssl rand -base64 32), and keep that key outside of the database, or give "
    "CQRS(key_provider=...)"
)


def _tenant(given: str | None) -> str:
    if given is not None:
        return given
    current = holder()
    return (current.metadata.tenant or "") if current is not None else ""
