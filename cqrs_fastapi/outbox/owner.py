"""Who sends what is in the outbox: our relays or Debezium, never both.

The row `outbox` of the leases says it. Besides, Debezium holds the leases of all relays, without an end, so that none
can take one; a relay that was stopped and goes on finds its lease at another epoch.
"""

from __future__ import annotations

from datetime import UTC, datetime
from enum import Enum
from uuid import UUID

from sqlalchemy import Connection, func, select, update

from cqrs_fastapi.errors import ConfigurationError, CqrsError
from cqrs_fastapi.outbox.buckets import DELAYED
from cqrs_fastapi.storage.dialects import database_now, is_postgres
from cqrs_fastapi.storage.tables import Tables

LEASE = "outbox"
RELAYS = "relay:"
"""What the names of the relays' leases begin with."""
DEBEZIUM_ID = UUID(int=0xDEBE21)
"""The owner of leases that Debezium holds."""
_FOR_EVER = datetime(9999, 1, 1, tzinfo=UTC)


class Owner(Enum):
    """Who sends what is in the outbox."""

    RELAY = "relay"
    DEBEZIUM = "debezium"


class OutboxTakenError(ConfigurationError):
    """The outbox of this database belongs to Debezium, and a relay would send everything a second time."""

    code = "outbox_taken"


class OutboxInUseError(CqrsError):
    """The outbox cannot change hands now. Nothing was changed."""

    code = "outbox_in_use"


def owner_of(connection: Connection, tables: Tables) -> Owner:
    """Who sends what is in the outbox."""
    leases = tables.leases
    found = connection.execute(select(leases.c.owner).where(leases.c.name == LEASE)).scalar()
    return Owner.DEBEZIUM if found == DEBEZIUM_ID else Owner.RELAY


def require_relay(connection: Connection, tables: Tables) -> None:
    """OutboxTakenError if Debezium is the owner."""
    if owner_of(connection, tables) is Owner.DEBEZIUM:
        raise OutboxTakenError(
            "the outbox of this database is Debezium's, and a relay would send everything a second time; let no relay "
            "run (CQRS_RUN_IN_APP without relay), or give it back: cqrs outbox owner MODULE:CQRS relay"
        )


def give_to_debezium(connection: Connection, tables: Tables) -> None:
    """Relays refuse from now on. OutboxInUseError while one is at work, or while a message waits for its time, which
    Debezium would not wait for.
    """
    leases, outbox = tables.leases, tables.outbox
    if not is_postgres(connection):
        raise ConfigurationError("Debezium reads no SQLite; let relays send what is in the outbox")
    connection.execute(select(leases.c.name).where(leases.c.name == LEASE).with_for_update()).all()
    relays = leases.c.name.startswith(RELAYS, autoescape=True)
    at_work = (
        (leases.c.owner.is_not(None))
        & (leases.c.owner != DEBEZIUM_ID)
        & (leases.c.expires_at > database_now(connection))
    )
    locked = connection.execute(
        select(leases.c.name, at_work.label("at_work")).where(relays).order_by(leases.c.name).with_for_update()
    ).all()
    if busy := [row.name for row in locked if row.at_work]:
        raise OutboxInUseError(f"a relay is at work ({busy[0]}); stop all relays, and try again")
    delayed = connection.execute(
        select(func.count()).select_from(outbox).where(outbox.c.bucket <= DELAYED)
    ).scalar_one()
    if delayed:
        raise OutboxInUseError(
            f"{delayed} messages wait for their time, and Debezium sends at once; let a relay send them first"
        )
    taken = {"owner": DEBEZIUM_ID, "epoch": leases.c.epoch + 1, "expires_at": _FOR_EVER}
    connection.execute(update(leases).where(relays | (leases.c.name == LEASE)).values(**taken))


def give_to_relays(connection: Connection, tables: Tables) -> int:
    """Relays may start again. They send all that is there, with the ids under which Debezium may have sent it; how many
    messages that are.
    """
    leases = tables.leases
    freed = {"owner": None, "epoch": leases.c.epoch + 1, "expires_at": database_now(connection)}
    connection.execute(update(leases).where(leases.c.owner == DEBEZIUM_ID).values(**freed))
    return connection.execute(select(func.count()).select_from(tables.outbox)).scalar_one()
