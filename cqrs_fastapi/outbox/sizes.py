"""How large a message will be for its broker, known before it is committed."""

from __future__ import annotations

from cqrs_fastapi.errors import MessageTooLargeError

_AROUND = 512
"""What a broker and the relay add: the frame of a record and its batch, `message-id`, `content-type`, `outbox-position`
and the names of headers that columns become.
"""


def require_sendable(
    what: str, *, payload: bytes, key: str, headers: str, words: tuple[str, ...], limit: int | None
) -> None:
    """MessageTooLargeError if the broker would refuse it: payload, key and headers together are over its limit.

    `headers` is their JSON text, which is longer than they are, and `words` what the relay makes headers of: so this
    refuses some hundred bytes early, and nothing that it lets pass is too large later.
    """
    if limit is None:
        return
    size = len(payload) + len(key.encode()) + len(headers.encode()) + sum(len(word.encode()) for word in words)
    if size + _AROUND > limit:
        raise MessageTooLargeError(what=f"{what} with its key and headers", size=size + _AROUND, limit=limit)
