"""Customers, and where their orders go."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from cqrs_fastapi import Aggregate, Event, applies

Text = Annotated[str, Field(min_length=1, max_length=200)]


@dataclass(frozen=True, slots=True)
class Address:
    """Where a parcel is sent."""

    recipient: Text
    street: Text
    city: Text
    country: Annotated[str, Field(pattern=r"^[A-Z]{2}$")]


class CustomerRegistered(Event, name="customer.registered", version=3, aliases=("CustomerSignedUp",)):
    name: str
    email: str
    address: Address


class CustomerMoved(Event, name="customer.moved"):
    address: Address


class Customer(Aggregate, category="customer"):
    name: str = ""
    email: str = ""
    address: Address | None = None

    def register(self, name: str, email: str, address: Address) -> None:
        self.record(CustomerRegistered(name=name, email=email, address=address))

    def move(self, address: Address) -> None:
        """Orders that were placed still go to the old address."""
        if address != self.address:
            self.record(CustomerMoved(address=address))

    @applies
    def on_registered(self, event: CustomerRegistered) -> None:
        self.name, self.email, self.address = event.name, event.email, event.address

    @applies
    def on_moved(self, event: CustomerMoved) -> None:
        self.address = event.address
