"""Replaces what handlers get, in tests."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
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
