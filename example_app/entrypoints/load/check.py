"""Waits until the shop has settled, and checks every order that was acknowledged."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from example_app.entrypoints.load.client import Client, NoAnswerError
from example_app.entrypoints.load.expectations import (
    Stored,
    has_ended,
    stored,
    wrong_in_overview,
    wrong_in_store,
    wrong_on_topic,
)
from example_app.entrypoints.load.topic import TopicAwayError, read_topic

_PAUSE = 1.0


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
            is_last = time.monotonic() > deadline
            wrong = await self._orders(ask_all=is_last) or await self._list() or await self._topic()
            if not wrong or is_last:
                return wrong
            await asyncio.sleep(_PAUSE)

    async def _orders(self, *, ask_all: bool) -> list[str]:
        """Each order by itself, as soon as the list says that it has come to its end; in the last round, all of them.

        So waiting costs the shop a few pages, and not two questions for every order. One that was found right is not
        asked for again: nothing happens to it any more.
        """
        rows = await self._rows()
        if isinstance(rows, str):
            return [rows]
        pending = [order_id for order_id in self.acknowledged if order_id not in self.settled]
        asked = [one for one in pending if ask_all or has_ended(self.acknowledged[one], _status(rows.get(one)))]
        found = await asyncio.gather(*(self._order(order_id) for order_id in asked))
        waiting = [(one, "it has not come to its end in the list of orders") for one in set(pending) - set(asked)]
        return _sentences([*zip(asked, found, strict=True), *waiting])

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
        rows = await self._rows()
        if isinstance(rows, str):
            return [rows]
        self.listed = sum(order_id in rows for order_id in self.settled)
        return _sentences(
            (order_id, _wrong_in_list(expected, rows.get(order_id, []))) for order_id, expected in self.settled.items()
        )

    async def _rows(self) -> Mapping[str, Sequence[Mapping[str, Any]]] | str:
        """The rows of the list by order, of which each should have one; or a sentence, if the list does not come."""
        rows: defaultdict[str, list[Mapping[str, Any]]] = defaultdict(list)
        after, more = "", True
        while more:
            try:
                page = await self.client.get(f"/orders?limit=500{after}")
            except NoAnswerError as error:
                return f"the list of orders does not come: {error}"
            if page.status != 200:  # noqa: PLR2004  # found
                return f"the list of orders is answered with {page.status}"
            for row in page.body["orders"]:
                rows[row["order_id"]].append(row)
            more, after = page.body["next"] is not None, f"&after={page.body['next']}"
        return dict(rows)

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


def _wrong_in_list(expected: Stored, rows: Sequence[Mapping[str, Any]]) -> str | None:
    if len(rows) != 1:
        return f"it is {len(rows)} times in the list of orders"
    return wrong_in_overview(expected, rows[0])


def _status(rows: Sequence[Mapping[str, Any]] | None) -> str | None:
    return str(rows[0]["status"]) if rows else None


def _sentences(found: Iterable[tuple[str, str | None]]) -> list[str]:
    return [f"order {order_id}: {wrong}" for order_id, wrong in found if wrong is not None]
