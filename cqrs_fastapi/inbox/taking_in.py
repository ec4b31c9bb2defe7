"""Takes in an event that came from elsewhere by somebody's own consumer: through the inbox, to all durable handlers."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from uuid import UUID

from cqrs_fastapi.inbox.claims import settled
from cqrs_fastapi.inbox.envelope import Envelope
from cqrs_fastapi.inbox.handling import Handlings
from cqrs_fastapi.messages.events import AnyEvent
from cqrs_fastapi.messages.metadata import Metadata


async def take_in(handlings: Handlings, event: AnyEvent, message_id: UUID, metadata: Metadata | None) -> None:
    """See EventMediator.handle: one attempt for each handler; the first error is raised when all have been tried."""
    kernel, database = handlings.kernel, handlings.database
    given = metadata or Metadata(message_id=message_id, correlation_id=str(message_id), time=kernel.clock.now())
    envelope, errors = Envelope(event, replace(given, message_id=message_id)), []
    durable = kernel.pipelines.durable.get(type(event), ())
    names = [handling.consumer for handling in durable]
    done = await database.read(partial(settled, tables=database.tables, consumers=names, message_ids=[message_id]))
    for handling in durable:
        if (handling.consumer, message_id) in done:
            continue
        try:
            await handlings.take_in(handling, envelope)
        except Exception as error:  # noqa: BLE001  # it is raised when the others have been tried
            errors.append(error)
    if errors:
        raise errors[0]
