"""A unit of work in its caller's hands."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from cqrs_fastapi.mediation.frame import Frame
from cqrs_fastapi.mediation.kernel import Kernel
from cqrs_fastapi.mediation.scope import Scope
from cqrs_fastapi.messages.metadata import enter, holder, leave
from cqrs_fastapi.unit_of_work.unit_of_work import UnitOfWork


@asynccontextmanager
async def own_scope(kernel: Kernel, begin: Callable[[Scope], UnitOfWork]) -> AsyncIterator[Scope]:
    """Committed at the end of the block, in a task that the caller's cancellation spares; rolled back on an error."""
    scope = Scope(kernel, begin, read_only=False)
    token = enter(Frame(kernel, holder()))
    try:
        try:
            yield scope
            await scope.unit_of_work.prepare(scope)
            scope.require_unspoiled()
        except BaseException:
            await scope.unit_of_work.rollback()
            raise
        await kernel.own(_commit(scope))
    except BaseException as error:
        await scope.close(error)
        raise
    finally:
        leave(token)
    await scope.close(None)


async def _commit(scope: Scope) -> None:
    """Runs in a task of the kernel's: a caller who leaves meanwhile must not end the session under its own commit."""
    try:
        await scope.unit_of_work.commit()
    except BaseException:
        await scope.unit_of_work.rollback()
        raise
