"""Behaviors wrap the handling of every kind of message, outside its unit of work."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Protocol


class Next(Protocol):
    """The rest of the pipeline. For a stream it returns when the stream has ended."""

    def __call__(self, message: object, /) -> Awaitable[object]: ...


class Behavior(Protocol):
    """One layer around a handler. It may look at the message, refuse it by raising, time it, or answer by itself.

    An error raised by `call_next` means that nothing was committed, unless it is an UnknownOutcomeError. In a nested
    `send` the behavior runs inside the outer unit of work.
    """

    async def __call__(self, message: object, call_next: Next, /) -> object: ...
