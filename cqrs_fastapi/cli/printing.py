"""How a command prints what strangers wrote."""

from __future__ import annotations

import base64
from datetime import datetime


def plain(text: str) -> str:
    """What a terminal would obey is shown as an escape."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def bytes_told(data: bytes) -> str:
    """Text as it is, anything else in base64."""
    try:
        return "\n".join(plain(line) for line in data.decode().split("\n"))
    except UnicodeDecodeError:
        return f"base64 {base64.b64encode(data).decode()}"


def moment_told(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds")
