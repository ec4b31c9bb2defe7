"""Headers that a handler gives the reply to the message it is handling."""

from __future__ import annotations

import re
from collections.abc import Iterator, MutableMapping
from contextvars import ContextVar, Token

from cqrs_fastapi.messages.headers import OURS

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_LONGEST_VALUE = 1024
_MOST = 16

_CURRENT: ContextVar[ReplyHeaders | None] = ContextVar("cqrs_reply_headers", default=None)


class ReplyHeaders(MutableMapping[str, str]):
    """A parameter of this type is the reply's headers: `headers["etag"] = "7"`. At most 16, in small letters, with
    printable values of 1,024 characters. Where no reply is given, as over HTTP, they go nowhere.
    """

    __slots__ = ("_given",)

    def __init__(self) -> None:
        self._given: dict[str, str] = {}

    def __setitem__(self, name: str, value: str) -> None:
        if not _NAME.fullmatch(name) or name in OURS:
            raise ValueError(f"{name!r} is no name for a header of a reply; use up to 64 small letters and digits")
        if len(value) > _LONGEST_VALUE or not value.isprintable():
            raise ValueError(f"the header {name!r} is longer than {_LONGEST_VALUE} or not printable")
        if name not in self._given and len(self._given) >= _MOST:
            raise ValueError(f"a reply has {_MOST} headers at most")
        self._given[name] = value

    def __getitem__(self, name: str) -> str:
        return self._given[name]

    def __delitem__(self, name: str) -> None:
        del self._given[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._given)

    def __len__(self) -> int:
        return len(self._given)

    @staticmethod
    def current() -> ReplyHeaders:
        """Those of the message being handled."""
        current = _CURRENT.get()
        return ReplyHeaders() if current is None else current

    def enter(self) -> Token[ReplyHeaders | None]:
        """Make these the current ones in this context."""
        return _CURRENT.set(self)

    @staticmethod
    def leave(token: Token[ReplyHeaders | None]) -> None:
        """Make current again what was so before."""
        _CURRENT.reset(token)
