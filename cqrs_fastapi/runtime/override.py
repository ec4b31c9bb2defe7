"""Replaces what handlers get, in tests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Override(Generic[T]):
    """Half a sentence; `by` ends it."""

    wanted: Any
    _begin: Callable[[Any, object], AbstractContextManager[None]]

    def by(self, value: T) -> AbstractContextManager[None]:
        """While the block lasts, whoever asks for the type gets `value`. Blocks may be nested."""
        return self._begin(self.wanted, value)


@contextmanager
def overriding(overrides: dict[Any, Any], recompile: Callable[[], None], wanted: Any, value: object) -> Iterator[None]:
    """Within the block `value` stands for `wanted`; afterwards all is as before."""
    before = dict(overrides)
    overrides[wanted] = value
    try:
        recompile()
        yield
    finally:
        overrides.clear()
        overrides.update(before)
        recompile()


def is_running_here(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether this thread is the one in which the loop runs."""
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:
        return False
