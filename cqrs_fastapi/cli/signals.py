"""The first signal asks for a clean end, the second one gets a hard one."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import structlog

log = structlog.get_logger("cqrs_fastapi")

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def stop_by_signal() -> Iterator[asyncio.Event]:
    """Within the block SIGTERM and SIGINT set the event; another one ends the process at once, with status 1.

    That is safe by design: what was not committed is done again by whoever comes next.
    """
    stop, loop = asyncio.Event(), asyncio.get_running_loop()

    def received(number: signal.Signals) -> None:
        if stop.is_set():
            os._exit(1)
        log.info("stopping", signal=number.name)
        stop.set()

    for number in _SIGNALS:
        loop.add_signal_handler(number, received, number)
    try:
        yield stop
    finally:
        for number in _SIGNALS:
            loop.remove_signal_handler(number)
