"""That a command has been answered before, found out while its second attempt was about to commit."""

from __future__ import annotations

from cqrs_fastapi.errors import CqrsError
from cqrs_fastapi.eventstore.records import IdempotencyRecord


class RepeatedError(CqrsError):
    """Another attempt with the same idempotency key has committed; nothing of this one was written."""

    code = "repeated"

    def __init__(self, record: IdempotencyRecord) -> None:
        self.record = record
        super().__init__(f"{record.command} with the idempotency key {record.key!r} has been answered already")
