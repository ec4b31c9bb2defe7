"""Customers."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from pydantic import Field

from cqrs_fastapi import Command, NotFoundError, Query, Repository, RequestMap
from cqrs_fastapi.identity import IdFactory
from example_app.application.views import CustomerDetails
from example_app.domain.customer import Address, Customer

requests = RequestMap()


class RegisterCustomer(Command[UUID]):
    """Answered with the customer's identifier."""

    name: Annotated[str, Field(min_length=1, max_length=200)]
    email: Annotated[str, Field(pattern=r"^[^@\s]+@[^@\s]+$", max_length=320)]
    address: Address


class MoveCustomer(Command[None]):
    customer_id: UUID
    address: Address


class GetCustomer(Query[CustomerDetails]):
    customer_id: UUID


@requests.handles(RegisterCustomer)
async def register_customer(command: RegisterCustomer, customers: Repository[Customer], ids: IdFactory) -> UUID:
    customer = Customer(ids())
    customer.register(command.name, command.email, command.address)
    customers.add(customer)
    return customer.id


@requests.handles(MoveCustomer)
async def move_customer(command: MoveCustomer, customers: Repository[Customer]) -> None:
    customer = await customers.get(command.customer_id)
    customer.move(command.address)


@requests.handles(GetCustomer)
async def get_customer(query: GetCustomer, customers: Repository[Customer]) -> CustomerDetails:
    customer = await customers.get(query.customer_id)
    if customer.address is None:
        raise NotFoundError(kind="Customer", identifier=str(query.customer_id))
    return CustomerDetails(customer_id=customer.id, name=customer.name, email=customer.email, address=customer.address)
