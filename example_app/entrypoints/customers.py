"""Routes of customers."""

from __future__ import annotations

from uuid import UUID

from fastapi import APIRouter

from cqrs_fastapi import MediatorDep
from example_app.application.customers import GetCustomer, MoveCustomer, RegisterCustomer
from example_app.application.views import CustomerDetails
from example_app.entrypoints.bodies import CustomerMade, NewAddress

router = APIRouter(prefix="/customers", tags=["customers"])


@router.post("", status_code=201)
async def register_customer(command: RegisterCustomer, mediator: MediatorDep) -> CustomerMade:
    return CustomerMade(customer_id=await mediator.send(command))


@router.get("/{customer_id}")
async def get_customer(customer_id: UUID, mediator: MediatorDep) -> CustomerDetails:
    return await mediator.send(GetCustomer(customer_id=customer_id))


@router.put("/{customer_id}/address", status_code=204)
async def move_customer(customer_id: UUID, body: NewAddress, mediator: MediatorDep) -> None:
    await mediator.send(MoveCustomer(customer_id=customer_id, address=body.address))
