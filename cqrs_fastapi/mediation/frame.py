"""One message being handled: the current one of its context, with its scope and, when asked, its metadata."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

from cqrs_fastapi.messages.metadata import HoldsMetadata, Metadata

if TYPE_CHECKING:
    from cqrs_fastapi.mediation.kernel import Kernel


class Frame:
    """Made for every message, so it is as small as can be: identifiers and times are drawn on the first question."""

    __slots__ = ("_metadata", "kernel", "parent")

    def __init__(self, kernel: Kernel, parent: HoldsMetadata | None) -> None:
        self.kernel = kernel
        self.parent = parent
        self._metadata: Metadata | None = None

    @property
    def metadata(self) -> Metadata:
        if self._metadata is None:
            self._metadata = self._make()
        return self._metadata

    def next(self, message_id: UUID, time: datetime) -> Metadata:
        return self.metadata.caused(message_id, time)

    def _make(self) -> Metadata:
        message_id, time = self.kernel.ids(), self.kernel.clock.now()
        if self.parent is None:
            return Metadata(message_id=message_id, correlation_id=str(message_id), time=time)
        return self.parent.next(message_id, time)
