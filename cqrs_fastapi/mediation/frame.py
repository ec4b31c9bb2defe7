"""One message being handled: the current one of its context, with its scope and, when asked, its metadata."""

from __future__ import annotations

from contextvars import Token
from datetime import datetime
from typing import TYPE_CHECKING, ClassVar
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
        return _metadata_after(self.parent, self.kernel)


class RootFrame:
    """What a Frame is, for the outermost of a send, where every nanosecond counts: its class holds the kernel and the
    token of its entry the frame before it, so that making one runs no Python.
    """

    __slots__ = ("_metadata", "token")

    kernel: ClassVar[Kernel]
    token: Token[HoldsMetadata]
    _metadata: Metadata

    @property
    def metadata(self) -> Metadata:
        try:
            return self._metadata
        except AttributeError:
            before = self.token.old_value
            self._metadata = _metadata_after(None if before is Token.MISSING else before, self.kernel)
            return self._metadata

    def next(self, message_id: UUID, time: datetime) -> Metadata:
        return self.metadata.caused(message_id, time)


def root_frame_of(kernel: Kernel) -> type[RootFrame]:
    """The class of this kernel's own root frames."""
    return type("RootFrame", (RootFrame,), {"__slots__": (), "kernel": kernel})


def _metadata_after(parent: HoldsMetadata | None, kernel: Kernel) -> Metadata:
    message_id, time = kernel.ids(), kernel.clock.now()
    if parent is None:
        return Metadata(message_id=message_id, correlation_id=str(message_id), time=time)
    return parent.next(message_id, time)
