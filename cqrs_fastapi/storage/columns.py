"""Columns that many of the framework's tables have, each in one form."""

from __future__ import annotations

from sqlalchemy import Column, Identity, Text

from cqrs_fastapi.storage.column_types import POSITION, UtcDateTime


def text(name: str) -> Column[str]:
    return Column(name, Text, nullable=False)


def moment(name: str) -> Column[object]:
    return Column(name, UtcDateTime, nullable=False)


def tenant() -> Column[str]:
    """Part of every key of user data; empty where there is none."""
    return Column("tenant", Text, nullable=False, server_default="")


def position() -> Column[int]:
    """A key that the database draws, ascending."""
    return Column("position", POSITION, Identity(), nullable=False)


def storable(text: str) -> str:
    """As every database takes it: what strangers and errors say may hold NUL, or be no Unicode."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")
