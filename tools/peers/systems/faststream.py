"""FastStream 0.7 as a consumer, as its documentation begins: a broker, a subscriber, an application."""

from __future__ import annotations

import asyncio
import os
import sys

from faststream import AckPolicy, FastStream
from faststream.kafka import KafkaBroker

from tools.peers.systems.numbers import Handler

broker = KafkaBroker(os.environ["PEERS_KAFKA"], logger=None)
handler = Handler()
policy = os.environ.get("PEERS_POLICY", "")
options = {"ack_policy": AckPolicy[policy]} if policy else {}


@broker.subscriber(os.environ["PEERS_TOPIC"], group_id="peers", auto_offset_reset="earliest", **options)
async def handle(message: dict[str, str]) -> None:
    handler(message["text"])


if __name__ == "__main__":
    assert sys.argv[1] == "consume"
    asyncio.run(FastStream(broker).run())
