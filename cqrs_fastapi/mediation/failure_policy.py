"""What becomes of a message that a durable handler has failed with."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from enum import Enum

from cqrs_fastapi.errors import ConcurrencyError, MessageError

TRANSIENT: tuple[type[Exception], ...] = (TimeoutError, ConnectionError)
"""What passes by itself. UnavailableError always does, whatever a policy says: it may be the own database."""
BAD_PAYLOAD: tuple[type[Exception], ...] = (MessageError,)
"""What stays as it is however often the message is handled."""


class Failure(Enum):
    """What an error means for the message. TRANSIENT: try again until it works. BAD_PAYLOAD: park it at once. BUG: try
    it so many times, then park it.
    """

    TRANSIENT = "transient"
    BAD_PAYLOAD = "bad payload"
    BUG = "bug"


@dataclass(frozen=True, slots=True)
class FailurePolicy:
    """`events.bind(Paid, Ship, on_failure=FailurePolicy(attempts=10))`.

    `transient` errors are tried again without a cap, and count as no attempt; `bad_payload` parks at once; any other
    error is taken for a bug and parks after `attempts` (`settings.handler_attempts` if it is None). The pauses between
    them grow from `settings.retry_backoff` to `longest_pause`.

    `ordered`: the message is tried in place, and nothing of its key overtakes it; once it is parked, what follows in
    its key parks behind it. With `ordered=False` it waits in the database instead, alone, and later ones overtake it.
    """

    attempts: int | None = None
    transient: tuple[type[Exception], ...] = TRANSIENT
    bad_payload: tuple[type[Exception], ...] = BAD_PAYLOAD
    ordered: bool = True
    longest_pause: timedelta = timedelta(seconds=10)

    def __post_init__(self) -> None:
        if self.attempts is not None and self.attempts < 1:
            raise ValueError(
                f"a handler has at least one attempt, not {self.attempts}; to park at once use bad_payload"
            )

    def judge(self, error: BaseException) -> Failure:
        """`bad_payload` goes before `transient`. A race that was lost for a whole command's time is load, no bug."""
        if isinstance(error, self.bad_payload):
            return Failure.BAD_PAYLOAD
        if isinstance(error, self.transient) or (isinstance(error, ConcurrencyError) and error.retryable):
            return Failure.TRANSIENT
        return Failure.BUG
