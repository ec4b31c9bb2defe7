"""Waits until the shop has settled, and checks every order that was acknowledged."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from example_app.entrypoints.load.client import Client, NoAnswerError
from example_app.entrypoints.load.expectations import (
    Stored,
    stored,
    wrong_in_overview,
    wrong_in_store,
    wrong_on_topic,
)
from example_app.entrypoints.load.topic import TopicAwayError, read_topic

_PAUSE = 0.5


@dataclass(slots=True)
class Check:
    """Looks again at what is not as it must be, until all is well or `timeout` seconds are over.

    `settled` are the orders that were found right in the event store and in the read model.
    """

    client: Client
    acknowledged: Mapping[str, Sequence[str]]
    broker_url: str
    timeout: float
    settled: dict[str, Stored] = field(default_factory=dict)
    listed: int = 0
    on_topic: int = 0
    sent_again: int = 0

    @property
    def reads_topic(self) -> bool:
        return self.broker_url.startswith("kafka://")

    def statuses(self) -> Counter[str]:
        """How many of the settled orders have ended how."""
        return Counter(one.status for one in self.settled.values())

    async def run(self) -> list[str]:
        """What is still wrong in the end, a sentence each; nothing, if all is well."""
        deadline = time.monotonic() + self.timeout
        while True:
            wrong = await self._orders() or await self._list() or await self._topic()
            if not wrong or time.monotonic() > deadline:
                return wrong
            await asyncio.sleep(_PAUSE)

    async def _orders(self) -> list[str]:
        """Each order by itself. One that was found right is not asked for again: nothing happens to it any more."""
        pending = [order_id for order_id in self.acknowledged if order_id not in self.settled]
        found = await asyncio.gather(*(self._order(order_id) for order_id in pending))
        return _sentences(zip(pending, found, strict=True))

    async def _order(self, order_id: str) -> str | None:
        try:
            history = await self.client.get(f"/orders/{order_id}/history")
            summary = await self.client.get(f"/orders/{order_id}")
        except NoAnswerError as error:
            return f"the shop does not answer: {error}"
        answers = (("event store", history), ("read model", summary))
        for where, response in answers:
            if response.status != 200:  # noqa: PLR2004  # found
                return f"it is not in the {where}, which answers with {response.status}"
        wrong = wrong_in_store(self.acknowledged[order_id], history.body)
        wrong = wrong or wrong_in_overview(stored(history.body), summary.body)
        if wrong is None:
            self.settled[order_id] = stored(history.body)
        return wrong

    async def _list(self) -> list[str]:
        """The list of all orders, page by page."""
        rows: Counter[str] = Counter()
        summaries: dict[str, Mapping[str, Any]] = {}
        after, more = "", True
        while more:
            try:
                page = await self.client.get(f"/orders?limit=500{after}")
            except NoAnswerError as error:
                return [f"the list of orders does not come: {error}"]
            if page.status != 200:  # noqa: PLR2004  # found
                return [f"the list of orders is answered with {page.status}"]
            rows.update(row["order_id"] for row in page.body["orders"])
            summaries.update((row["order_id"], row) for row in page.body["orders"])
            more, after = page.body["next"] is not None, f"&after={page.body['next']}"
        self.listed = sum(order_id in rows for order_id in self.settled)
        return _sentences(
            (order_id, _wrong_in_list(expected, rows[order_id], summaries.get(order_id)))
            for order_id, expected in self.settled.items()
        )

    async def _topic(self) -> list[str]:
        """The messages of each order, where there is a topic to read."""
        if not self.reads_topic:
            return []
        try:
            messages = await read_topic(self.broker_url)
        except TopicAwayError as error:
            return [str(error)]
        of_orders = {order_id: messages.get(f"order-{order_id}", ()) for order_id in self.settled}
        self.on_topic = sum(len(set(ids)) for ids in of_orders.values())
        self.sent_again = sum(len(ids) - len(set(ids)) for ids in of_orders.values())
        return _sentences(
            (order_id, wrong_on_topic(expected, of_orders[order_id])) for order_id, expected in self.settled.items()
        )


def _wrong_in_list(expected: Stored, rows: int, summary: Mapping[str, Any] | None) -> str | None:
    if rows != 1 or summary is None:
        return f"it is {rows} times in the list of orders"
    return wrong_in_overview(expected, summary)


def _sentences(found: Iterable[tuple[str, str | None]]) -> list[str]:
    return [f"order {order_id}: {wrong}" for order_id, wrong in found if wrong is not None]
