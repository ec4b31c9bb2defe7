"""The kinds of writers, each as one attempt. Every kind of transaction that the event store allows is among them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from functools import partial

from sqlalchemy import Connection

from cqrs_fastapi.errors import UnavailableError
from cqrs_fastapi.eventstore.append import append
from cqrs_fastapi.eventstore.decisions import read_matching
from cqrs_fastapi.eventstore.records import AppendUnit, Matching
from cqrs_fastapi.storage.driver_errors import commit
from cqrs_fastapi.testing.torture.field import DRIVER_ERRORS, Hand, RolledBackError, attempt, ids_of
from cqrs_fastapi.testing.torture.plan import SEATS

Kind = Callable[[Hand], Awaitable[None]]

_THINK = 0.03
"""The longest pause of a writer between two attempts, in seconds, so that the reader gets its turn."""


async def grouped(hand: Hand) -> None:
    """Group commit, any version."""
    await attempt(hand, hand.unit(streams=hand.field.random.choice((1, 1, 2, 3))), hand.appender.append)


async def grouped_exact(hand: Hand) -> None:
    """Group commit at the version that was heard of last: the losers of a race conflict inside of their group."""
    await attempt(hand, hand.unit(exact=True), hand.appender.append)


async def single(hand: Hand) -> None:
    """A transaction of its own."""
    await attempt(hand, hand.unit(exact=hand.field.random.random() < 0.5), partial(_write, hand))  # noqa: PLR2004  # half of them


async def several_streams(hand: Hand) -> None:
    await attempt(hand, hand.unit(streams=4), partial(_write, hand))


async def rolled_back(hand: Hand) -> None:
    """Positions are drawn and given up, which leaves gaps."""

    def work(connection: Connection, *, unit: AppendUnit) -> Mapping[str, int]:
        append(connection, hand.database.tables, unit)
        raise RolledBackError

    async def write(unit: AppendUnit) -> Mapping[str, int]:
        return await hand.database.write(partial(work, unit=unit))

    await attempt(hand, hand.unit(streams=2), write)


async def slow(hand: Hand) -> None:
    """Draws positions, and commits long after others that drew later ones."""

    async def write(unit: AppendUnit) -> Mapping[str, int]:
        async with hand.database.session() as session:
            versions = await hand.database.run(session, _appending(hand, unit))
            await hand.field.pause(hand.field.slow)
            await commit(session)
            return versions

    await attempt(hand, hand.unit(private=hand.field.random.random() < 0.9), write)  # noqa: PLR2004  # most of them


async def savepoints(hand: Hand) -> None:
    """Appends, appends in a savepoint and rolls back to it, waits, and appends again: only the middle one is gone."""
    given_up = hand.unit()

    async def write(unit: AppendUnit) -> Mapping[str, int]:
        first, last = replace(unit, appends=unit.appends[:1]), replace(unit, appends=unit.appends[1:])
        async with hand.database.session() as session:
            versions = dict(await hand.database.run(session, _appending(hand, first)))
            async with session.begin_nested() as savepoint:
                await hand.database.run(session, _appending(hand, given_up))
                await savepoint.rollback()
            await hand.field.pause(hand.field.slow / 10)
            async with session.begin_nested():
                versions |= await hand.database.run(session, _appending(hand, last))
            await hand.field.pause(hand.field.slow / 10)
            await commit(session)
            return versions

    await attempt(hand, hand.unit(streams=2, private=True), write)
    hand.field.ledger.refuse(ids_of(given_up))


async def decision(hand: Hand) -> None:
    """Takes a seat of the present course if one is free, on the condition that nobody has taken one since it looked."""
    field = hand.field
    course = field.course
    tag = f"course:{course}"
    wanted = [Matching((), (tag,))]
    try:
        taken, condition = await hand.database.read(
            partial(read_matching, tables=hand.database.tables, tenant="", wanted=wanted)
        )
    except (UnavailableError, *DRIVER_ERRORS):
        field.ledger.outcomes["unread"] += 1
        return
    if len(taken) >= SEATS:
        field.course = max(field.course, course + 1)
        return
    unit = hand.unit(private=True, tags=(tag,), condition=condition)
    await attempt(hand, unit, hand.appender.append if field.random.random() < 0.5 else partial(_write, hand))  # noqa: PLR2004  # half of them


GROUPED: tuple[Kind, ...] = (grouped, grouped_exact)
BY_THEMSELVES: tuple[Kind, ...] = (single, several_streams, rolled_back, slow, savepoints)
"""Those that every database takes; a transaction each."""


def kinds(*, group_commit: bool) -> tuple[Kind, ...]:
    """What every database takes."""
    return GROUPED + BY_THEMSELVES if group_commit else BY_THEMSELVES


async def write_on(hand: Hand, kind: Kind) -> None:
    """One attempt after the other, until the field is stopped."""
    while not hand.field.stop.is_set():
        await kind(hand)
        await hand.field.pause(_THINK)


async def _write(hand: Hand, unit: AppendUnit) -> Mapping[str, int]:
    return await hand.database.write(_appending(hand, unit))


def _appending(hand: Hand, unit: AppendUnit) -> Callable[[Connection], Mapping[str, int]]:
    def work(connection: Connection) -> Mapping[str, int]:
        return append(connection, hand.database.tables, unit)

    return work
