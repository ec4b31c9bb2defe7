"""A system outside: what is called there cannot be rolled back, and nobody there deduplicates."""

from __future__ import annotations

import asyncio
import json
import os
from uuid import UUID

from tools.messaging_torture.apps.entries import Entered

_SECONDS = 5.0


class RefusedOutsideError(Exception):
    """It has taken the call down, and says that it failed."""


async def call(handler: str, message_id: UUID, event: Entered) -> None:
    """One line there, one line back. Raises RefusedOutsideError, OSError or TimeoutError."""
    line = {"handler": handler, "message_id": str(message_id), "entry": event.model_dump(), "process": os.getpid()}
    async with asyncio.timeout(_SECONDS):
        reader, writer = await asyncio.open_connection("127.0.0.1", int(os.environ["TORTURE_OUTSIDE"]))
        try:
            writer.write(json.dumps(line).encode() + b"\n")
            answer = await reader.readline()
        finally:
            writer.close()
    if answer.strip() != b"ok":
        raise RefusedOutsideError(answer.decode())
