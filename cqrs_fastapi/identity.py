"""Identifiers that sort by the time they were made (UUID version 7, RFC 9562)."""

from __future__ import annotations

import os
import time
from typing import Protocol
from uuid import UUID

_VERSION_AND_VARIANT = (0x7 << 76) | (0b10 << 62)
_RANDOM_BITS = (1 << 62) - 1


class IdFactory(Protocol):
    """Makes identifiers that no other process makes."""

    def __call__(self) -> UUID: ...


class Uuid7Factory:
    """UUIDv7, strictly ascending within one factory: 48 bits of milliseconds, 12 bits of sequence, 62 random bits.

    More than 4096 identifiers in one millisecond borrow from the next one, as RFC 9562 section 6.2 allows.
    """

    __slots__ = ("_last",)

    def __init__(self) -> None:
        self._last = 0

    def __call__(self) -> UUID:
        # The sequence lives in the low 12 bits of one growing number of (millisecond << 12).
        tick = time.time_ns() // 1_000_000 << 12
        self._last = tick = tick if tick > self._last else self._last + 1
        # The system's generator is read for each identifier: a fork therefore never repeats its parent's.
        random = int.from_bytes(os.urandom(8), "little") & _RANDOM_BITS
        return UUID(int=(tick >> 12 << 80) | ((tick & 0xFFF) << 64) | random | _VERSION_AND_VARIANT)
