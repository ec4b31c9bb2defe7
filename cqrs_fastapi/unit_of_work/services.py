"""What every unit of work of an application shares."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cqrs_fastapi.eventstore.appender import Appender
from cqrs_fastapi.messages.registry import EventRegistry
from cqrs_fastapi.outbox.routing import Routing
from cqrs_fastapi.personal_data.events import PersonalEvents
from cqrs_fastapi.storage.database import Database
from cqrs_fastapi.unit_of_work.drafts import Limits


@dataclass(frozen=True, slots=True)
class Services:
    """`wake` tells the relay that there is something to send;
    `personal` is None where nothing is encrypted.
    """

    database: Database
    appender: Appender
    registry: EventRegistry
    routing: Routing
    limits: Limits
    wake: Callable[[], None]
    personal: PersonalEvents | None = None
