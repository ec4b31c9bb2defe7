"""Publishes events, and takes in those that came from elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

from cqrs_fastapi.messages.events import AnyEvent
from cqrs_fastapi.messages.metadata import Metadata

if TYPE_CHECKING:
    from cqrs_fastapi.mediation.kernel import Kernel
    from cqrs_fastapi.mediation.scope import Scope


class EventMediator:
    """The application's own opens a unit of work for each call; the one injected into a handler joins its own."""

    __slots__ = ("_kernel", "_scope")

    def __init__(self, kernel: Kernel, scope: Scope | None) -> None:
        self._kernel = kernel
        self._scope = scope

    async def publish(self, event: AnyEvent, /) -> None:
        """Make an event known: in-transaction handlers now, durable ones and its topic after the commit.

        In a handler this joins its unit of work and happens with its commit; elsewhere it returns after a commit.
        """
        if self._scope is None:
            await self._kernel.run(_publish, event, read_only=False)
        else:
            self._scope.require_open()
            await _publish(self._scope, event)

    async def handle(self, event: AnyEvent, /, *, message_id: UUID, metadata: Metadata | None = None) -> None:
        """Give an event that came from elsewhere to its durable handlers, through the inbox.

        Each handler's database effect happens once for one `message_id`, however often this is called with it. The
        first error of a handler is raised after all have been tried; calling again runs only those that failed.
        """
        await self._kernel.pipelines.take_in(event, message_id, metadata)


async def _publish(scope: Scope, event: AnyEvent) -> None:
    scope.require_writable("published an event")
    scope.unit_of_work.publish(event)
