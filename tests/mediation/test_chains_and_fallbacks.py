from datetime import timedelta

import pytest
from small_app import Unit, started

from cqrs_fastapi.mediation.fallback import CircuitBreaker, Fallback
from cqrs_fastapi.mediation.handlers import NextHandler, RequestHandler
from cqrs_fastapi.mediation.request_map import RequestMap
from cqrs_fastapi.mediation.request_mediator import RequestMediator
from cqrs_fastapi.messages.requests import Command

pytestmark = pytest.mark.anyio


class Refund(Command[str]):
    amount: int = 1


class Forget(Command[None]):
    pass


class Outer(Command[str]):
    pass


class SmallRefunds(RequestHandler[Refund, str]):
    def __init__(self, following: NextHandler[Refund, str], unit: Unit) -> None:
        self.following = following
        self.unit = unit

    async def handle(self, request: Refund, /) -> str:
        self.unit.note("small")
        return "small" if request.amount < 10 else await self.following(request)


async def medium(request: Refund, following: NextHandler[Refund, str]) -> str:
    return "medium" if request.amount < 100 else await following(Refund(amount=request.amount + 1))


async def large(request: Refund, unit: Unit) -> str:
    unit.note("large")
    return f"large {request.amount}"


@pytest.mark.parametrize(("amount", "answer"), [(1, "small"), (10, "medium"), (100, "large 101")])
async def test_each_of_a_chain_answers_or_asks_the_next(amount: int, answer: str) -> None:
    requests = RequestMap()
    requests.bind(Refund, [SmallRefunds, medium, large])
    app = await started(requests)
    assert await app.mediator.send(Refund(amount=amount)) == answer
    assert len(app.world.units) == 1
    assert app.world.committed == (["small", "large"] if amount == 100 else ["small"])


async def test_a_chain_whose_request_answers_nothing() -> None:
    reached = []

    async def first(request: Forget, following: NextHandler[Forget, None]) -> None:
        await following(request)

    async def last(request: Forget) -> None:
        reached.append(request)

    requests = RequestMap()
    requests.bind(Forget, [first, last])
    await (await started(requests)).mediator.send(Forget())
    assert reached == [Forget()]


class FarAway:
    """A primary that can be down, and how often it was tried."""

    def __init__(self) -> None:
        self.error: Exception | None = ConnectionError("down")
        self.tried = 0

    async def primary(self, request: Refund, unit: Unit) -> str:
        self.tried += 1
        unit.note("primary")
        if self.error is not None:
            raise self.error
        return "primary"

    async def fallback(self, request: Refund, unit: Unit) -> str:
        unit.note("fallback")
        return "fallback"

    def bound(self, breaker: CircuitBreaker | None = None) -> RequestMap:
        requests = RequestMap()
        requests.bind(Refund, Fallback(self.primary, self.fallback, on=(ConnectionError,), breaker=breaker))

        @requests.handles(Outer)
        async def outer(request: Outer, mediator: RequestMediator) -> str:
            return await mediator.send(Refund())

        return requests


async def test_the_fallback_answers_in_a_unit_of_its_own_after_the_primary_was_rolled_back() -> None:
    far = FarAway()
    app = await started(far.bound())
    assert await app.mediator.send(Refund()) == "fallback"
    assert app.world.endings == ["rolled back", "committed"]
    assert app.world.committed == ["fallback"]
    far.error = None
    assert await app.mediator.send(Refund()) == "primary"


async def test_an_error_that_was_not_named_is_the_callers() -> None:
    far = FarAway()
    far.error = ZeroDivisionError()
    app = await started(far.bound())
    with pytest.raises(ZeroDivisionError):
        await app.mediator.send(Refund())
    assert app.world.endings == ["rolled back"]


async def test_in_a_nested_send_the_error_of_the_primary_is_the_callers() -> None:
    far = FarAway()
    app = await started(far.bound())
    with pytest.raises(ConnectionError):
        await app.mediator.send(Outer())
    assert app.world.endings == ["rolled back"]


async def test_an_open_breaker_spares_the_primary_until_its_time_is_over() -> None:
    now = 100.0
    far = FarAway()
    breaker = CircuitBreaker(failures=2, reset_after=timedelta(seconds=30), monotonic=lambda: now)
    app = await started(far.bound(breaker))
    for _ in range(5):
        assert await app.mediator.send(Refund()) == "fallback"
    assert await app.mediator.send(Outer()) == "fallback"
    assert far.tried == 2
    now += 30
    assert [await app.mediator.send(Refund()) for _ in range(3)] == ["fallback"] * 3
    assert far.tried == 3
    now += 30
    far.error = None
    assert [await app.mediator.send(Refund()) for _ in range(3)] == ["primary"] * 3
    assert far.tried == 6


async def test_one_success_forgets_earlier_failures() -> None:
    far = FarAway()
    app = await started(far.bound(CircuitBreaker(failures=2)))
    for _ in range(3):
        far.error = ConnectionError()
        assert await app.mediator.send(Refund()) == "fallback"
        far.error = None
        assert await app.mediator.send(Refund()) == "primary"
    assert far.tried == 6


def test_of_many_callers_of_a_breaker_whose_time_is_over_one_goes_through() -> None:
    now = 0.0
    breaker = CircuitBreaker(failures=1, reset_after=timedelta(seconds=1), monotonic=lambda: now)
    breaker.failed()
    now = 1.0
    assert [breaker.lets_through() for _ in range(3)] == [True, False, False]


async def test_failures_in_nested_sends_open_the_breaker_too() -> None:
    far = FarAway()
    app = await started(far.bound(CircuitBreaker(failures=2)))
    for _ in range(2):
        with pytest.raises(ConnectionError):
            await app.mediator.send(Outer())
    assert await app.mediator.send(Refund()) == "fallback"
    assert far.tried == 2
