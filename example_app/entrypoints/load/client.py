"""A small HTTP client that keeps its connections open."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

_TIMEOUT = 30.0
_LONGEST_BODY = 64 << 20


class NoAnswerError(Exception):
    """The connection failed, or the answer did not come: nobody knows what became of the request."""


@dataclass(frozen=True, slots=True)
class Response:
    """An answer, whatever its status. `body` is None where there is no JSON in it."""

    status: int
    body: Any

    @property
    def code(self) -> str:
        """What a problem is called; empty for anything else."""
        return str(self.body.get("code", "")) if isinstance(self.body, dict) else ""


@dataclass(slots=True)
class _Connection:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    is_last: bool = False
    """Whether the server said that it closes after this answer."""


@dataclass(slots=True)
class Client:
    """At most `at_once` requests are under way, each on a connection of its own."""

    url: str
    at_once: int
    _idle: list[_Connection] = field(default_factory=list)
    _room: asyncio.Semaphore = field(init=False)

    def __post_init__(self) -> None:
        self._room = asyncio.Semaphore(self.at_once)

    async def get(self, path: str) -> Response:
        """Tried once more on a fresh connection, since reading twice does no harm. Raises NoAnswerError."""
        try:
            return await self._request("GET", path, b"")
        except NoAnswerError:
            return await self._request("GET", path, b"")

    async def post(self, path: str, body: Mapping[str, object]) -> Response:
        """Sent once. Raises NoAnswerError, after which it may have happened or not."""
        return await self._request("POST", path, json.dumps(body).encode())

    async def close(self) -> None:
        while self._idle:
            self._idle.pop().writer.close()

    async def _request(self, method: str, path: str, content: bytes) -> Response:
        host = urlsplit(self.url).netloc
        head = (
            f"{method} {urlsplit(self.url).path.rstrip('/')}{path} HTTP/1.1\r\nHost: {host}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
        )
        try:
            async with self._room, asyncio.timeout(_TIMEOUT), self._connection() as connection:
                connection.writer.write(head.encode() + content)
                await connection.writer.drain()
                return await _response(connection)
        except (OSError, EOFError, TimeoutError, ValueError, asyncio.LimitOverrunError) as error:
            raise NoAnswerError(f"{method} {path}: {error!r}") from error

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[_Connection]:
        """One that is free or new; it is kept only if its answer was read to the end."""
        connection = self._free() or await self._connect()
        try:
            yield connection
        except BaseException:
            connection.writer.close()
            raise
        if connection.is_last:
            connection.writer.close()
        else:
            self._idle.append(connection)

    def _free(self) -> _Connection | None:
        """The server closes a connection that was idle for some seconds; such a one is dropped here."""
        while self._idle:
            connection = self._idle.pop()
            if not connection.reader.at_eof():
                return connection
            connection.writer.close()
        return None

    async def _connect(self) -> _Connection:
        parts = urlsplit(self.url)
        secure = parts.scheme == "https"
        port = parts.port or (443 if secure else 80)
        return _Connection(*await asyncio.open_connection(parts.hostname, port, ssl=secure or None))


async def _response(connection: _Connection) -> Response:
    """Understands bodies of a stated length, which is what the shop sends."""
    head = (await connection.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    status = int(head[0].split(" ")[1])
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
    if "transfer-encoding" in headers:
        raise ValueError("the answer has no stated length; is this address the shop's?")
    length = int(headers.get("content-length", "0"))
    if length > _LONGEST_BODY:
        raise ValueError(f"the answer has {length} bytes")
    content = await connection.reader.readexactly(length)
    is_json = "json" in headers.get("content-type", "")
    connection.is_last = headers.get("connection", "").lower() == "close"
    return Response(status, json.loads(content) if is_json and content else None)
