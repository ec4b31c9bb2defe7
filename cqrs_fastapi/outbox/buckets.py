"""Buckets of keys, and the shares of them that relays lease.

A row is in the bucket of its key. Rows that a claim shall not come by have another number: what waits behind a key that
is held for long, and what is delayed for long. So a claim looks at rows that may be sent, and at few others.
"""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import Connection, select

from cqrs_fastapi.errors import ConfigurationError
from cqrs_fastapi.outbox.routing import BUCKETS
from cqrs_fastapi.storage.dialects import upsert
from cqrs_fastapi.storage.tables import Tables

SHARES = 16
"""Leased as one each; more relays than this leave some with nothing to do."""
ASIDE = -1
"""Bucket 0 of the rows that wait behind a held key; bucket 1 is one less, and so on."""
DELAYED = -1001
"""The same for rows that are not due for some time."""

_FACT = "outbox_buckets"
_SPREAD = f"{BUCKETS} by crc32"


def share_of(bucket: int) -> int:
    """The share that a bucket belongs to, also for a row that was put aside."""
    if bucket <= DELAYED:
        bucket = DELAYED - bucket
    elif bucket <= ASIDE:
        bucket = ASIDE - bucket
    return bucket % SHARES


def buckets_of(shares: Iterable[int]) -> list[int]:
    """All buckets of these shares."""
    return [bucket for share in shares for bucket in range(share, BUCKETS, SHARES)]


def require_same_buckets(connection: Connection, tables: Tables) -> None:
    """The first process writes down how keys are spread over buckets. ConfigurationError if this code does otherwise:
    rows of one key would be in two buckets, and two relays would send them at once.
    """
    facts = tables.facts
    query = select(facts.c.value).where(facts.c.name == _FACT)
    found = connection.execute(query).scalar()
    if found is None:
        statement = upsert(connection, facts).values(name=_FACT, value=_SPREAD).on_conflict_do_nothing()
        connection.execute(statement)
        found = connection.execute(query).scalar_one()
    if found != _SPREAD:
        raise ConfigurationError(
            f"the outbox of this database is spread over {found}, and this code spreads it over {_SPREAD}; send what "
            f"is left with the code that has written it (cqrs relay --once), then delete the row {_FACT!r} of "
            f"{facts.name}"
        )
