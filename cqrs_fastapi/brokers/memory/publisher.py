"""Publishing into the memory of this process."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from cqrs_fastapi.brokers.broker import Delivery, Outcome, OutgoingMessage
from cqrs_fastapi.brokers.memory.queues import Receipt
from cqrs_fastapi.errors import UnavailableError


class MemoryPublisher:
    """Acknowledges a message when every group that consumes its topic has settled it.

    A call waits until then, which is the whole back-pressure: nothing is buffered that no caller waits for. All its
    messages are queued at once and awaited together. Order is kept per topic and key.
    """

    def __init__(
        self,
        deliver: Callable[[Sequence[OutgoingMessage], Receipt], None],
        forget: Callable[[MemoryPublisher], None],
    ) -> None:
        self._deliver = deliver
        self._forget = forget
        self._receipts: set[Receipt] = set()
        self._closed = False

    async def publish(self, messages: Sequence[OutgoingMessage]) -> Sequence[Outcome]:
        """As the port says. If this call is cancelled, what no member has received yet is withdrawn."""
        if self._closed:
            raise UnavailableError("this memory publisher is closed; ask the broker for another one")
        receipt = Receipt(len(messages))
        self._deliver(messages, receipt)
        self._receipts.add(receipt)
        try:
            return _in_turn(messages, await receipt.outcomes())
        finally:
            self._receipts.discard(receipt)
            # Complete receipts have nothing left to give up; a cancelled call has.
            receipt.give_up("the publisher was cancelled before every group had settled the message")

    async def close(self) -> None:
        """Return at once: calls still waiting get HELD for what is not settled, so no stopped consumer blocks it."""
        self.give_up("the publisher was closed before every group had settled the message")
        self._forget(self)

    def give_up(self, reason: str) -> None:
        self._closed = True
        for receipt in list(self._receipts):
            receipt.give_up(reason)


def _in_turn(messages: Sequence[OutgoingMessage], outcomes: Sequence[Outcome]) -> list[Outcome]:
    """A refusal behind a message of its key that is held is held as well, for its turn has not come."""
    blocked: set[tuple[str, str]] = set()
    turned: list[Outcome] = []
    for message, outcome in zip(messages, outcomes, strict=True):
        key = None if message.key is None else (message.topic, message.key)
        waits = key in blocked and outcome.delivery is Delivery.REFUSED
        turned.append(Outcome(Delivery.HELD, "an earlier message of its key is held") if waits else outcome)
        if key is not None and outcome.delivery is not Delivery.ACKNOWLEDGED:
            blocked.add(key)
    return turned
