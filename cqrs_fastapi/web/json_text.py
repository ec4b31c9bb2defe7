"""JSON that decodes to text which nothing behind it can store is refused where it arrives.

Python's json accepts what RFC 8259 does not: lone surrogates, escaped or raw, and UTF-16 and UTF-32. A lone surrogate
passes through pydantic too, and would fail as late as the database driver, as an error of the server.
"""

from __future__ import annotations

import re
from typing import Final

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# Escapes are read one after the other, so that an escaped backslash never starts one: a pair of surrogates is a
# character, one alone is caught by the first group. The second is the same in raw bytes. `$` is a cut at a chunk's end.
_ESCAPE: Final = re.compile(
    rb"""\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.|$)"""
    rb"""|\xed(?:([\xa0-\xbf])|$)""",
    re.DOTALL,
)
_LONGEST: Final = 12
"""Bytes of an escaped pair: no escape that begins further from a chunk's end is cut."""


class MalformedTextError(HTTPException):
    """An HTTPException, because FastAPI lets those alone pass through its parsing of a body."""

    def __init__(self) -> None:
        super().__init__(400, detail="The body is not JSON in well-formed UTF-8.")


class JsonTextMiddleware:
    """Answers 400 to JSON with a lone surrogate or a NUL byte, which UTF-8 JSON never holds; reads nothing ahead."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, _checked(scope, receive) if scope["type"] == "http" else receive, send)


class TextCheck:
    """Takes a body in chunks, cut anywhere."""

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = b""

    def is_sound(self, chunk: bytes, *, more: bool) -> bool:
        if b"\x00" in chunk:
            return False
        text = self._rest + chunk
        self._rest = b""
        for escape in _ESCAPE.finditer(text):
            if more and escape.start() > len(text) - _LONGEST:
                self._rest = text[escape.start() :]
                break
            if escape.lastindex is not None:
                return False
        return True


def _checked(scope: Scope, receive: Receive) -> Receive:
    check: TextCheck | None = None

    async def checked() -> Message:
        nonlocal check
        message = await receive()
        if message["type"] == "http.request":
            chunk = message.get("body", b"")
            # Most bodies have none of these bytes, and need not even be asked whether they are JSON.
            if check is None and (b"\\" in chunk or b"\xed" in chunk or b"\x00" in chunk) and _is_json(scope):
                check = TextCheck()
            if check is not None and not check.is_sound(chunk, more=message.get("more_body", False)):
                raise MalformedTextError
        return message

    return checked


def _is_json(scope: Scope) -> bool:
    """Also where nothing is said: an app may be told to take that for JSON."""
    for name, value in scope["headers"]:
        if name == b"content-type":
            return b"json" in value.lower()
    return True
