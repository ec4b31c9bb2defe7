"""Gzip for large payloads, and its bounds: what a stranger's bytes inflate to is never taken from their word."""

from __future__ import annotations

import zlib

from cqrs_fastapi.errors import MalformedMessageError, MessageTooLargeError

GZIP = "gzip"
MAX_RATIO = 200
"""A payload that shrinks more than this is sent as it is, and one that claims to is refused."""
_FREE = 64 << 10
# So little may inflate by any ratio; a short bomb is a small one.
_GZIP_HEADER = 31
_LEVEL = 6


def deflated(payload: bytes) -> bytes | None:
    """Smaller, and the same bytes each time; None where it would not become smaller, or could not be read again."""
    compressor = zlib.compressobj(_LEVEL, zlib.DEFLATED, _GZIP_HEADER)
    small = compressor.compress(payload) + compressor.flush()
    return small if len(small) < len(payload) <= _allowed(len(small)) else None


def inflated(data: bytes, *, max_bytes: int) -> bytes:
    """MessageTooLargeError beyond `max_bytes` or the ratio, before more than that is in memory; MalformedMessageError
    for what is no gzip, is cut off, or goes on after its end.
    """
    limit = min(max_bytes, _allowed(len(data)))
    inflating = zlib.decompressobj(_GZIP_HEADER)
    try:
        payload = inflating.decompress(data, limit + 1)
    except zlib.error:
        raise MalformedMessageError("the payload is no gzip, and its header 'content-encoding' says so") from None
    if len(payload) > limit:
        raise MessageTooLargeError(what="the inflated payload", size=len(payload), limit=limit)
    if not inflating.eof or inflating.unused_data:
        raise MalformedMessageError("the gzip of the payload is cut off, or something follows it")
    return payload


def _allowed(size: int) -> int:
    return max(_FREE, MAX_RATIO * size)
