"""What a durable handler raises to say itself what becomes of its message. What it has written is rolled back."""

from __future__ import annotations

from datetime import timedelta

from cqrs_fastapi.errors import CqrsError


class RetryLater(CqrsError):  # noqa: N818  # it is an order, not an error
    """Handle the message again `after` that long, however often. It waits in the database and keeps its place: later
    messages of its key wait behind it, and other keys go on. With `FailurePolicy(ordered=False)` it waits alone.
    """

    code = "retry_later"

    def __init__(self, after: timedelta) -> None:
        if after < timedelta(0):
            raise ValueError(f"a message cannot be handled again after {after}; give a time that is not negative")
        self.after = after
        super().__init__(f"the handler asked to be given the message again after {after}")


class Discard(CqrsError):  # noqa: N818  # it is an order, not an error
    """The message is done with, and has no effect. Its inbox row says `discarded`, and the log says so too."""

    code = "discarded"

    def __init__(self, reason: str = "") -> None:
        self.reason = reason
        super().__init__(reason or "the handler discarded the message")


class DeadLetter(CqrsError):  # noqa: N818  # it is an order, not an error
    """Park the message at once, for this reason; trying again would not help."""

    code = "dead_letter"

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)
