"""What the framework's tables and functions are called in one database."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Names:
    """What the settings call the tables. Constraints are named too, since each database would invent its own names."""

    prefix: str = "cqrs_"
    schema: str | None = None

    def of(self, name: str) -> str:
        return f"{self.prefix}{name}"

    def written(self, statement: str) -> str:
        """A statement with `{schema}` and `{prefix}` as these names have them."""
        schema = f'"{self.schema}".' if self.schema else ""
        return statement.replace("{schema}", schema).replace("{prefix}", self.prefix)

    @property
    def version_table(self) -> str:
        """Where the revision of these tables is written."""
        return self.of("alembic_version")
