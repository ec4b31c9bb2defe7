"""The outbox as a handler has it: what is added is written with the commit of its unit of work."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cqrs_fastapi.errors import ReadOnlyError
from cqrs_fastapi.mediation.kernel import Kernel
from cqrs_fastapi.messages.events import AnyEvent
from cqrs_fastapi.messages.metadata import Metadata
from cqrs_fastapi.outbox.outbox import Desk, Outbox
from cqrs_fastapi.personal_data.key_cache import SubjectKey
from cqrs_fastapi.unit_of_work.causes import next_metadata

if TYPE_CHECKING:
    from cqrs_fastapi.unit_of_work.unit_of_work import UnitOfWork


class UnitOutbox(Outbox):
    """See `Outbox`. A query has none that takes anything."""

    __slots__ = ("_kernel", "_unit")

    def __init__(self, unit: UnitOfWork, kernel: Kernel, desk: Desk) -> None:
        super().__init__(desk)
        self._unit = unit
        self._kernel = kernel

    def _next_metadata(self) -> Metadata:
        if self._unit.is_read_only:
            raise ReadOnlyError("a query sends a message; queries change nothing: make it a command")
        return next_metadata(self._kernel)

    async def _keys_for(self, event: AnyEvent, tenant: str) -> Mapping[str, SubjectKey]:  # noqa: ARG002  # the unit's
        return await self._unit.keys_for(event)

    def _put(self, row: Mapping[str, Any]) -> None:
        self._unit._outgoing.append(row)  # noqa: SLF001  # it is a part of its unit
