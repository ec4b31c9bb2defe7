"""Identifiers that sort by the time they were made (UUID version 7, RFC 9562)."""

from __future__ import annotations

import os
import time
from struct import unpack
from typing import Protocol
from uuid import UUID, SafeUUID

_VERSION_AND_VARIANT = (0x7 << 76) | (0b10 << 62)
_RANDOM_BITS = (1 << 62) - 1
_IN_STORE = 128
_forks = 0
"""How many forks lie between the first process and this one: asking the system for its id takes longer."""


_new, _set = object.__new__, object.__setattr__


class IdFactory(Protocol):
    """Makes identifiers that no other process makes."""

    def __call__(self) -> UUID: ...


class Uuid7Factory:
    """UUIDv7, strictly ascending within one factory: 48 bits of milliseconds, 12 bits of sequence, 62 random bits.

    More than 4096 identifiers in one millisecond borrow from the next one, as RFC 9562 section 6.2 allows.
    """

    __slots__ = ("_forks", "_last", "_random")

    def __init__(self) -> None:
        self._last = 0
        self._forks = 0
        self._random: list[int] = []

    def __call__(self) -> UUID:
        # The sequence lives in the low 12 bits of one growing number of (millisecond << 12).
        tick = time.time_ns() // 1_000_000 << 12
        self._last = tick = tick if tick > self._last else self._last + 1
        # Of the system's generator, many at once: each read gives the thread away. A fork would repeat what its parent
        # has in store, so it reads its own.
        if not self._random or self._forks != _forks:
            self._random, self._forks = list(unpack(f"{_IN_STORE}Q", os.urandom(_IN_STORE * 8))), _forks
        random = self._random.pop() & _RANDOM_BITS
        return _uuid((tick >> 12 << 80) | ((tick & 0xFFF) << 64) | random | _VERSION_AND_VARIANT)


def _uuid(value: int) -> UUID:
    """As `UUID(int=value)`, without its checks."""
    made = _new(UUID)
    _set(made, "int", value)
    _set(made, "is_safe", SafeUUID.unknown)
    return made


def _count_fork() -> None:
    global _forks  # noqa: PLW0603  # there is one process
    _forks += 1


os.register_at_fork(after_in_child=_count_fork)
