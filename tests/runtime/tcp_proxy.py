"""A door in front of a server: open, shut (refused), or black (accepted, and never answered)."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from dataclasses import dataclass, field
from typing import Literal

Mode = Literal["open", "black"]


@dataclass
class TcpProxy:
    """Listens on a port of its own, which stays the same when it shuts and opens."""

    host: str
    target: int
    port: int = 0
    mode: Mode = "open"
    _server: asyncio.Server | None = None
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)

    def __post_init__(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", self.port))
            self.port = free.getsockname()[1]

    async def open(self, mode: Mode = "open") -> None:
        self.mode = mode
        if self._server is None:
            self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)

    async def shut(self) -> None:
        """New connections are refused, those there are cut."""
        self.mode = "open"
        server, self._server = self._server, None
        if server is not None:
            server.close()
        for writer in list(self._writers):
            writer.transport.abort()
        while self._writers:  # each ends by itself once its transport is gone
            await asyncio.sleep(0.01)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            there_reader, there_writer = await asyncio.open_connection(self.host, self.target)
            try:
                async with asyncio.TaskGroup() as both:
                    both.create_task(self._pump(reader, there_writer))
                    both.create_task(self._pump(there_reader, writer))
            finally:
                there_writer.close()
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                while self.mode == "black":  # nothing passes until the mode changes
                    await asyncio.sleep(0.01)
                writer.write(data)
                await writer.drain()
        writer.close()
