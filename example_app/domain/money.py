"""Amounts of money."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated

from pydantic import Field


@dataclass(frozen=True, slots=True)
class Money:
    """A whole number of cents in one currency (ISO 4217). Amounts of different currencies are never added."""

    cents: Annotated[int, Field(ge=0, le=10**12)]
    currency: Annotated[str, Field(pattern=r"^[A-Z]{3}$")] = "EUR"

    def __add__(self, other: Money) -> Money:
        if other.currency != self.currency:
            raise ValueError(f"{other.currency} cannot be added to {self.currency}; convert it first")
        return replace(self, cents=self.cents + other.cents)

    def __mul__(self, times: int) -> Money:
        return replace(self, cents=self.cents * times)
