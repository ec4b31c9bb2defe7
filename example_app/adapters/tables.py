"""The application's own tables, which the migrations in `alembic/versions` make."""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import (
    BigInteger,
    Column,
    DateTime,
    Dialect,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    TypeDecorator,
    Uuid,
)

metadata = MetaData()


class UtcDateTime(TypeDecorator[datetime]):
    """A moment. SQLite keeps no time zone, so it is UTC on the way in, and said to be UTC on the way out."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002  # the method is overridden
        return value if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002  # see above
        return value if value is None or value.tzinfo is not None else value.replace(tzinfo=UTC)


products = Table(
    "shop_products",
    metadata,
    Column("product_id", Uuid, primary_key=True),
    Column("sku", String(40), nullable=False, unique=True),
    Column("title", String(200), nullable=False),
    Column("price_cents", BigInteger, nullable=False),
    Column("currency", String(3), nullable=False),
)

order_overviews = Table(
    "shop_order_overviews",
    metadata,
    Column("order_id", Uuid, primary_key=True),
    Column("customer_id", Uuid, nullable=False),
    Column("status", String(10), nullable=False),
    Column("total_cents", BigInteger, nullable=False),
    Column("currency", String(3), nullable=False),
    Column("pieces", Integer, nullable=False),
    Column("placed_at", UtcDateTime, nullable=False),
    Column("changed_at", UtcDateTime, nullable=False),
    Column("tracking", String(40)),
    Column("changes", Integer, nullable=False),
    # Pages of one status go by the identifier, the search for unpaid orders by the time.
    Index("ix_shop_order_overviews_status_order_id", "status", "order_id"),
    Index("ix_shop_order_overviews_status_placed_at", "status", "placed_at"),
)
