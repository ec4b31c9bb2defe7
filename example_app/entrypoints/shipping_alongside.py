"""Runs shipping in the shop's process, where the broker cannot be reached from another one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.routing import Mount

from cqrs_fastapi import CQRS, Settings
from example_app.shipping.app import make_app, make_cqrs

PATH = "/shipping"


@asynccontextmanager
async def shipping_alongside(app: FastAPI, shop: CQRS, settings: Settings | None) -> AsyncIterator[bool]:
    """On `memory://`, mount and run shipping while the block lasts; on a real broker do nothing. Gives whether it runs.

    Shipping has a container and a database of its own. All it shares with the shop is the broker.
    """
    if not shop.broker.in_process:
        yield False
        return
    shipping = make_cqrs(settings=settings, broker=shop.broker)
    mounted = Mount(PATH, make_app(shipping))
    app.router.routes.append(mounted)
    try:
        async with shipping.running():
            yield True
    finally:
        app.router.routes.remove(mounted)
