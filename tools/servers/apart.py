"""Asynchronous calls for synchronous code that may itself stand inside a running event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def run_apart(call: Callable[[], Coroutine[object, object, T]]) -> T:
    """Runs the coroutine to its end on an event loop and a thread of its own, while the caller's thread waits."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        return pool.submit(lambda: asyncio.run(call())).result()
