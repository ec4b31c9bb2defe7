"""Column types that behave alike on both databases."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, ColumnElement, DateTime, Dialect, Integer, Text, cast
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.types import TypeDecorator, TypeEngine, UserDefinedType

POSITION = BigInteger().with_variant(Integer(), "sqlite")
"""A growing 64-bit number. SQLite generates numbers for a key of exactly the type INTEGER only."""

Document = JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")
"""JSON that is searched by its fields: `jsonb` on PostgreSQL, text on SQLite. Python values go in and come out."""


class _PostgresJson(UserDefinedType[str]):
    """`json` whose text nobody parses or renders on the way: the codec has done it.

    It is read as text, since SQLAlchemy makes each asyncpg connection parse `json`. SQL by hand writes `data::text`.
    """

    cache_ok = True
    render_bind_cast = True

    def get_col_spec(self, **_: Any) -> str:
        return "JSON"

    def column_expression(self, colexpr: ColumnElement[Any]) -> ColumnElement[Any]:
        return cast(colexpr, Text)


class JsonText(TypeDecorator[str]):
    """JSON as the text it was rendered to: `json` on PostgreSQL, which checks it; TEXT on SQLite."""

    impl = Text
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return dialect.type_descriptor(_PostgresJson() if dialect.name == "postgresql" else Text())


class UtcDateTime(TypeDecorator[datetime]):
    """A moment, timezone-aware in and out. SQLite keeps it as text of one width in UTC, so that it sorts by time."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return dialect.type_descriptor(DateTime(timezone=True) if dialect.name == "postgresql" else Text())

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> Any:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"{value!r} has no time zone; write datetime.now(UTC) or value.replace(tzinfo=UTC)")
        return value if dialect.name == "postgresql" else utc_text(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:  # noqa: ARG002  # the base names it
        if value is None:
            return None
        moment: datetime = value if isinstance(value, datetime) else datetime.fromisoformat(value)
        return moment.astimezone(UTC)

    def result_processor(self, dialect: Dialect, coltype: object) -> Any:
        """None on PostgreSQL, whose driver gives moments in UTC: nothing is called for each row."""
        return None if dialect.name == "postgresql" else super().result_processor(dialect, coltype)


def utc_text(moment: datetime) -> str:
    """A moment as SQLite's columns hold it, for statements that bypass the types: microseconds, `+00:00`."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds")
