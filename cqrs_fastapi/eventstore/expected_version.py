"""What an append expects of its stream: the promise of optimistic concurrency."""

from __future__ import annotations

from enum import Enum
from typing import Final, Literal, TypeAlias


class StreamState(Enum):
    """Expectations that name no version."""

    NO_STREAM = "no stream"
    STREAM_EXISTS = "an existing stream"
    ANY = "any version"


NO_STREAM: Final = StreamState.NO_STREAM
STREAM_EXISTS: Final = StreamState.STREAM_EXISTS
ANY: Final = StreamState.ANY

ExpectedVersion: TypeAlias = Literal[StreamState.NO_STREAM, StreamState.STREAM_EXISTS, StreamState.ANY] | int
"""A number is the version of the last event in the stream, from 1; 0 means the same as NO_STREAM."""


LAST: Final = (1 << 63) - 1
"""The highest version and position that a database can hold."""


def checked(expected: ExpectedVersion) -> ExpectedVersion:
    """The expectation in its one form; a version that no stream can have is a ValueError."""
    if isinstance(expected, StreamState):
        return expected
    if not 0 <= expected <= LAST:
        raise ValueError(f"an expected version is a number from 0 to {LAST}, not {expected}")
    return expected or NO_STREAM


def describe(expected: ExpectedVersion) -> str:
    """For messages: `version 3`, `no stream`."""
    return expected.value if isinstance(expected, StreamState) else f"version {expected}"
