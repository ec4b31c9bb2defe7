"""A part of a unit of work that may fail by itself: `async with unit_of_work.savepoint():`."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any

from sqlalchemy.ext.asyncio import AsyncSession, AsyncSessionTransaction

from cqrs_fastapi.domain.aggregate import Aggregate
from cqrs_fastapi.storage.driver_errors import before_commit

if TYPE_CHECKING:
    from cqrs_fastapi.unit_of_work.unit_of_work import UnitOfWork

KEPT = (
    "_aggregates",
    "_appends",
    "_condition",
    "_drafts",
    "_joined",
    "_outgoing",
    "_published",
    "_record",
    "_seen",
    "_sends",
    "_unreacted",
    "spoiled",
)
"""The attributes of a unit of work that change while messages are handled, and go back to what they were."""


@dataclass(frozen=True, slots=True)
class Undone:
    """An aggregate that was first loaded, or added, in a block that was undone. The unit no longer knows it."""

    aggregate: Aggregate
    recorded: int

    def refuse_changes(self) -> None:
        """What it records now would be lost without a word."""
        lost = self.aggregate.recorded[self.recorded :]
        if lost:
            raise RuntimeError(
                f"{self.aggregate.stream} was loaded in a savepoint that was undone, and recorded "
                f"{type(lost[0]).__name__} afterwards; get it from its repository again, after the block"
            )


class Savepoint:
    """An error that leaves the block undoes what was recorded, appended, published, joined and written by the session
    inside, also by nested messages, and is raised further. Whoever catches it goes on with a unit that knows nothing
    of the block, and a nested message that failed inside does not hold back the commit. Without an error the block is
    as if there were no savepoint: its effects are committed with the unit, and undone with it. So is what a nested
    message has left behind whose error was caught inside.

    Aggregates that were loaded before have their earlier state again, in new objects: what was taken out of them
    before belongs to them no more. Those first loaded inside are unknown again, and are to be loaded anew. Objects of
    the session are as SQLAlchemy leaves them after `begin_nested`: new ones are out of it, changed ones expired.

    In-transaction handlers run when the outermost handler has ended, outside of the block. Blocks may be nested, but
    not overlap: one task after the other.
    """

    __slots__ = ("_session", "_states", "_transaction", "_unit", "_values")

    def __init__(self, unit: UnitOfWork) -> None:
        self._unit = unit
        self._values: Mapping[str, Any] = {}
        self._states: Mapping[str, dict[str, Any]] = {}
        self._session: AsyncSession | None = None
        self._transaction: AsyncSessionTransaction | None = None

    async def __aenter__(self) -> None:
        unit = self._unit
        self._values = {name: _copy(getattr(unit, name)) for name in KEPT}
        self._states = _states_of(unit._aggregates)  # noqa: SLF001  # a savepoint is a part of its unit
        self._session = unit._session  # noqa: SLF001  # as above
        if self._session is not None and _has_begun(self._session):
            self._transaction = await self._or_spoil(self._session.begin_nested().start())
        unit._savepoints = [*(unit._savepoints or ()), self]  # noqa: SLF001  # as above

    async def __aexit__(
        self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None
    ) -> None:
        self._leave()
        if error is None and self._transaction is not None:
            try:
                with before_commit():
                    await self._transaction.commit()  # it flushes, which may fail like any statement inside
            except BaseException:
                await self._undo()
                raise
        elif error is not None:
            await self._undo()

    def _leave(self) -> None:
        unit = self._unit
        innermost = unit._savepoints.pop() if unit._savepoints else None  # noqa: SLF001  # as above
        if innermost is not self:
            overlap = RuntimeError("savepoints of one unit of work overlap; let one end before the next one begins")
            unit.spoiled = unit.spoiled or overlap
            raise overlap

    async def _undo(self) -> None:
        """In memory first, which cannot fail; if the database does not follow, nothing of the unit is committed."""
        self._restore()
        if self._transaction is not None:
            await self._or_spoil(self._transaction.rollback())
        elif (session := self._unit._session) is not None:  # noqa: SLF001  # as above
            # Whatever the session has done was done inside of the block.
            await self._or_spoil(session.rollback())

    def _restore(self) -> None:
        unit = self._unit
        loaded = unit._aggregates  # noqa: SLF001  # as above
        undone = [Undone(one, len(one.recorded)) for stream, one in loaded.items() if stream not in self._states]
        unit._undone = [*(unit._undone or ()), *undone]  # noqa: SLF001  # as above
        for name, value in self._values.items():
            setattr(unit, name, value)
        for stream, state in self._states.items():
            held = vars(unit._aggregates[stream])  # noqa: SLF001  # as above
            held.clear()
            held.update(state)

    async def _or_spoil(self, step: Awaitable[Any]) -> Any:
        """A session whose savepoint failed is in no state to go on, whatever the handler makes of the error."""
        try:
            with before_commit():
                return await step
        except BaseException as error:
            self._unit.spoiled = self._unit.spoiled or error
            raise


def _copy(value: Any) -> Any:
    return value.copy() if isinstance(value, list | dict) else value


def _states_of(aggregates: Mapping[str, Aggregate]) -> dict[str, dict[str, Any]]:
    """Copies of what the aggregates hold. Events are never changed, and other aggregates are not part of a state."""
    shared: dict[int, Any] = {id(one): one for one in aggregates.values()}
    shared |= {id(event): event for one in aggregates.values() for event in one.recorded}
    return {stream: _state_of(one, shared) for stream, one in aggregates.items()}


def _state_of(aggregate: Aggregate, shared: dict[int, Any]) -> dict[str, Any]:
    try:
        return deepcopy(vars(aggregate), shared)
    except TypeError as error:
        raise TypeError(
            f"the state of {aggregate.stream} cannot be copied for a savepoint ({error}); let it hold plain values"
        ) from error


def _has_begun(session: AsyncSession) -> bool:
    """Whether there is anything of the session's that must outlast the block."""
    return session.in_transaction() or bool(session.new or session.dirty or session.deleted)
