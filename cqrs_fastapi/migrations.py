"""The schema of the framework's tables, for an application's `alembic/env.py` and for operators."""

from __future__ import annotations

from cqrs_fastapi.storage.schema import check, current, downgrade, head, is_framework_table, lock, upgrade

__all__ = ["check", "current", "downgrade", "head", "is_framework_table", "lock", "upgrade"]
