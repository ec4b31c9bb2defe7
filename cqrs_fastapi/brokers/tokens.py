"""Tokens for brokers that ask for one instead of a password."""

from __future__ import annotations

from typing import Protocol


class TokenProvider(Protocol):
    """The provider `broker_tokens` of the container; asked for each new connection, which waits for the answer."""

    async def token(self) -> str:
        """A token that is valid now, by a request or from a cache of your own. An error is one of the connection, which
        is tried again later; of it only the class is told.
        """
        ...
