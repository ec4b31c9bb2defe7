"""Where shipping differs from the shop: its name and its database. All else comes from the same `CQRS_*` variables."""

from __future__ import annotations

from pydantic_settings import BaseSettings, SettingsConfigDict

from cqrs_fastapi import Settings


class ShippingEnvironment(BaseSettings):
    """`SHIPPING_DATABASE_URL` and `SHIPPING_DATABASE_SCHEMA`."""

    model_config = SettingsConfigDict(env_prefix="SHIPPING_", frozen=True)

    database_url: str = "sqlite+aiosqlite:///./shipping.db"
    database_schema: str | None = None


def shipping_settings() -> Settings:
    """Reads the environment. The broker is the shop's, since that is where the two meet."""
    own = ShippingEnvironment()
    return Settings(service="shipping", database_url=own.database_url, database_schema=own.database_schema)
