from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Annotated, Any, Literal

import pytest
from fastapi import Body, Depends, FastAPI, HTTPException, Request, Response, WebSocket
from fastapi.responses import StreamingResponse
from fastapi.testclient import TestClient
from pydantic import BaseModel, ConfigDict, Field, Json, field_validator
from starlette.websockets import WebSocketDisconnect

from cqrs_fastapi import CursorError, DeletedError, SearchError
from cqrs_fastapi.errors import (
    ConcurrencyError,
    CqrsError,
    DomainError,
    HandlerNotFoundError,
    MalformedMessageError,
    MessageTooLargeError,
    NotFoundError,
    OverloadedError,
    UnavailableError,
    UnknownOutcomeError,
)

CANARY = "CANARY-9f31"


class OutOfStockError(DomainError):
    code = "out_of_stock"


class SoldOutForeverError(OutOfStockError):
    code = "sold_out_forever"


class ClosedError(DomainError):
    code = "closed"


class Line(BaseModel):
    model_config = ConfigDict(extra="forbid")
    sku: str
    quantity: int


class Card(BaseModel):
    kind: Literal["card"]


class Cash(BaseModel):
    kind: Literal["cash"]


class Order(BaseModel):
    model_config = ConfigDict(extra="forbid")
    lines: list[Line] = []
    weight: float = 0
    note: str = ""
    payment: Annotated[Card | Cash, Field(discriminator="kind")] | None = None
    extra: Json[dict[str, int]] | None = None

    @field_validator("note")
    @classmethod
    def short(cls, note: str) -> str:
        if len(note) > 1000:
            raise ValueError("a note has at most 1000 characters")
        return note


def client_of(app: FastAPI) -> TestClient:
    """As a server sees the app: what is raised on is not raised into the test."""
    return TestClient(app, raise_server_exceptions=False)


def raising(app: FastAPI, error: BaseException) -> TestClient:
    @app.get("/raise")
    async def route() -> None:
        raise error

    return client_of(app)


def problem_of(response: Any) -> dict[str, Any]:
    assert response.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = response.json()
    assert body["type"] == "about:blank"
    assert body["status"] == response.status_code
    assert body["correlation_id"] == response.headers["x-correlation-id"]
    assert body["title"]
    assert body["detail"]
    return body


@pytest.fixture
def refusing(application: Any, install_on: Callable[..., None]) -> FastAPI:
    """An app that declares a status for one of its own refusals."""
    app = FastAPI()
    install_on(app, application, statuses={OutOfStockError: 409})
    return app


@pytest.mark.parametrize(
    ("error", "status", "code", "retry_after"),
    [
        (DomainError("too little money"), 422, "domain", None),
        (NotFoundError(kind="Account", identifier="7"), 404, "not_found", None),
        (DeletedError(kind="Product", identifier="7", deleted_at=None), 410, "deleted", None),
        (SearchError("price is compared with NaN"), 422, "search", None),
        (CursorError("this cursor is of another search"), 422, "cursor", None),
        (OutOfStockError("no more chairs"), 409, "out_of_stock", None),
        (SoldOutForeverError("never again"), 409, "sold_out_forever", None),
        (ClosedError("closed on Sundays"), 422, "closed", None),
        (ConcurrencyError(stream="a-1", expected="3", actual=4), 409, "concurrency", "1"),
        (ConcurrencyError(stream="a-1", expected="3", actual=4, retryable=False), 409, "concurrency", None),
        (MessageTooLargeError(what="an event", size=9, limit=8), 413, "message_too_large", None),
        (UnavailableError("no route to 10.0.0.7"), 503, "unavailable", "1"),
        (OverloadedError("1000 units"), 503, "overloaded", "1"),
        (UnknownOutcomeError("connection lost"), 500, "unknown_outcome", None),
        (TimeoutError(), 504, "timeout", None),
        (HandlerNotFoundError(Order), 500, "internal", None),
        (MalformedMessageError("stored bytes"), 500, "internal", None),
        (CqrsError("anything"), 500, "internal", None),
        (KeyError("anything"), 500, "internal", None),
        (HTTPException(409, "taken"), 409, "conflict", None),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_every_kind_of_error_has_its_status_and_code(
    refusing: FastAPI, error: Exception, status: int, code: str, retry_after: str | None
) -> None:
    response = raising(refusing, error).get("/raise")
    problem = problem_of(response)
    assert (response.status_code, problem["code"]) == (status, code)
    assert response.headers.get("retry-after") == retry_after


def test_a_refusal_is_shown_in_its_own_words(app: FastAPI) -> None:
    assert problem_of(raising(app, OutOfStockError("no more chairs")).get("/raise"))["detail"] == "no more chairs"


def test_a_refusal_without_words_still_has_a_detail(app: FastAPI) -> None:
    assert problem_of(raising(app, OutOfStockError()).get("/raise"))["detail"] == "Unprocessable Content"


def test_a_refusal_that_repeats_a_lone_surrogate_can_still_be_sent(app: FastAPI) -> None:
    assert problem_of(raising(app, OutOfStockError("no more \ud800")).get("/raise"))["detail"] == "no more \ud800"


def test_an_unknown_outcome_says_that_it_may_have_happened(app: FastAPI) -> None:
    detail = problem_of(raising(app, UnknownOutcomeError("lost")).get("/raise"))["detail"]
    assert "may have happened" in detail
    assert "Idempotency-Key" in detail


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError(CANARY),
        UnavailableError(f"postgresql://user:{CANARY}@host"),
        UnknownOutcomeError(CANARY),
        TimeoutError(CANARY),
        MalformedMessageError(CANARY),
        OSError(5, CANARY),
        ExceptionGroup(CANARY, [ValueError(CANARY)]),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize(
    "where", ["endpoint", "dependency", "after a yield", "middleware inside", "middleware outside"]
)
@pytest.mark.parametrize("debug", [False, True])
def test_a_failure_of_ours_tells_the_client_nothing(
    application: Any, install_on: Callable[..., None], error: Exception, where: str, debug: bool
) -> None:
    app = FastAPI(debug=debug and where != "middleware outside")
    failing = failing_middleware(error)
    if where == "middleware inside":
        app.add_middleware(failing)
    install_on(app, application)
    if where == "middleware outside":
        app.add_middleware(failing)

    async def dependency() -> AsyncIterator[str]:
        secret = CANARY
        if where == "dependency":
            raise error
        yield secret
        if where == "after a yield":
            raise error

    @app.get("/")
    async def route(secret: str = Depends(dependency)) -> None:
        if where == "endpoint":
            raise error

    response = client_of(app).get("/")
    assert response.status_code in ({200, 500, 503, 504} if where == "after a yield" else {500, 503, 504})
    assert CANARY not in response.text
    assert CANARY not in str(response.headers)
    assert "Traceback" not in response.text
    if response.status_code != 200:
        assert response.headers["content-type"] == "application/problem+json"


def failing_middleware(error: Exception) -> Any:
    class Failing:
        def __init__(self, app: Any) -> None:
            self.app = app

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] == "http":
                raise error
            await self.app(scope, receive, send)

    return Failing


def test_an_unexpected_error_is_logged_once_with_its_traceback_under_the_clients_correlation_id(
    app: FastAPI, logged: Any
) -> None:
    response = raising(app, KeyError("colour")).get("/raise")
    assert len(logged) == 1
    entry = logged[0]
    assert entry["log_level"] == "error"
    assert entry["correlation_id"] == response.json()["correlation_id"]
    assert "Traceback (most recent call last)" in entry["exception"]
    assert "KeyError: 'colour'" in entry["exception"]


def test_the_log_does_not_show_local_variables(app: FastAPI, capfd: pytest.CaptureFixture[str]) -> None:
    @app.get("/")
    async def route() -> None:
        password = CANARY
        raise ValueError(len(password))

    client_of(app).get("/")
    printed = capfd.readouterr()
    assert "ValueError" in printed.out + printed.err
    assert CANARY not in printed.out + printed.err


@pytest.mark.parametrize("error", [UnknownOutcomeError("lost"), TimeoutError(), UnavailableError("away")])
def test_other_failures_are_logged_once_too(app: FastAPI, logged: Any, error: Exception) -> None:
    raising(app, error).get("/raise")
    assert len(logged) == 1


def test_a_refusal_is_not_logged_as_a_failure(app: FastAPI, logged: Any) -> None:
    raising(app, OutOfStockError("none left")).get("/raise")
    assert logged == []


def test_an_error_after_the_answer_has_been_sent_is_logged_and_goes_no_further(app: FastAPI, logged: Any) -> None:
    from fastapi import BackgroundTasks  # noqa: PLC0415  # only this route needs it

    def fail() -> None:
        raise ValueError("later")

    @app.get("/")
    async def route(response: Response) -> Response:
        tasks = BackgroundTasks()
        tasks.add_task(fail)
        return Response("done", background=tasks)

    assert TestClient(app).get("/").text == "done"
    assert len(logged) == 1


def test_an_answer_that_breaks_off_is_never_taken_for_the_whole(app: FastAPI) -> None:
    @app.get("/")
    async def route() -> StreamingResponse:
        def rows() -> Iterator[bytes]:
            yield b"one,"
            raise ValueError("two is missing")

        return StreamingResponse(rows())

    with pytest.raises(ValueError, match="two is missing"):
        TestClient(app).get("/")


def test_handlers_that_the_application_has_of_its_own_are_left_in_place(
    application: Any, install_on: Callable[..., None]
) -> None:
    app = FastAPI()

    @app.exception_handler(Exception)
    async def own(request: Request, error: Exception) -> Response:
        return Response("own", status_code=500)

    @app.exception_handler(HTTPException)
    async def own_http(request: Request, error: HTTPException) -> Response:
        return Response("own http", status_code=error.status_code)

    install_on(app, application)

    @app.get("/missing")
    async def missing() -> None:
        raise HTTPException(404)

    @app.exception_handler(OutOfStockError)
    async def own_refusal(request: Request, error: OutOfStockError) -> Response:
        return Response("own refusal", status_code=410)

    @app.get("/sold-out")
    async def sold_out() -> None:
        raise SoldOutForeverError

    client = raising(app, ValueError("x"))
    assert client.get("/raise").text == "own"
    assert client.get("/missing").text == "own http"
    assert client.get("/sold-out").text == "own refusal"


def test_what_the_framework_refuses_is_a_problem_too(app: FastAPI) -> None:
    client = raising(app, HTTPException(503, {"until": "noon"}, headers={"Retry-After": "60"}))
    assert problem_of(client.get("/nowhere"))["code"] == "not_found"
    refused = client.post("/raise")
    assert problem_of(refused)["code"] == "method_not_allowed"
    assert refused.headers["allow"] == "GET"
    busy = client.get("/raise")
    assert problem_of(busy)["info"] == {"until": "noon"}
    assert busy.headers["retry-after"] == "60"


@pytest.mark.parametrize("status", [204, 304])
def test_a_status_without_a_body_stays_without(app: FastAPI, status: int) -> None:
    response = raising(app, HTTPException(status)).get("/raise")
    assert (response.status_code, response.content) == (status, b"")


@pytest.fixture
def orders(app: FastAPI) -> TestClient:
    @app.post("/orders/{number}")
    async def order(number: int, order: Order) -> Order:
        return order

    @app.post("/any")
    async def anything(body: Annotated[dict[str, object], Body()]) -> int:
        return len(body)

    return client_of(app)


def test_a_wrong_field_is_named_and_its_value_is_not_repeated(orders: TestClient) -> None:
    response = orders.post(
        "/orders/x",
        json={
            "lines": [{"sku": "a", "quantity": 1}, {"sku": {"secret": CANARY}, "quantity": CANARY}],
            "payment": {"kind": CANARY},
            "extra": CANARY,
        },
    )
    problem = problem_of(response)
    assert (response.status_code, problem["code"]) == (422, "validation")
    assert [error["field"] for error in problem["errors"]] == [
        "path.number",
        "body.lines.1.sku",
        "body.lines.1.quantity",
        "body.payment",
        "body.extra",
    ]
    assert all(error["message"] and error["code"] for error in problem["errors"])
    assert CANARY not in response.text


def test_ten_thousand_wrong_fields_make_a_small_answer(orders: TestClient) -> None:
    response = orders.post("/orders/1", json={"lines": [0] * 10_000})
    assert len(problem_of(response)["errors"]) == 100
    assert len(orders.post("/orders/1", json={"x" * 100_000: 1}).content) < 1000


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"{'a': 1}",
        b"\xff\xfe\x00",
        b'{"note": "\xff"}',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"[" * 5_000 + b"]" * 5_000,
        b'{"weight": ' + b"9" * 5_000 + b"}",
        b"nul",
        b'{"note": "a\nb"}',
        b"\x00",
        b'{"note": "\\ud800"}',
        b'{"\\udfff": 1}',
        b'{"note": "\xed\xa0\x80"}',
        '{"note": "a"}'.encode("utf-16"),
        '{"note": "a"}'.encode("utf-32-le"),
    ],
    ids=range(16),
)
def test_what_is_no_json_is_400(orders: TestClient, body: bytes) -> None:
    response = orders.post("/orders/1", content=body, headers={"content-type": "application/json"})
    assert (response.status_code, problem_of(response)["code"]) == (400, "malformed_json")


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"", "application/json"),
        (b"null", "application/json"),
        (b"7", "application/json"),
        (b'"text"', "application/json"),
        (b"[]", "application/json"),
        (b"NaN", "application/json"),
        (b'{"weight": "heavy"}', "application/json"),
        (b'{"lines": [{"sku": "a", "quantity": NaN}]}', "application/json"),
        (b'{"lines": [{"sku": "a", "quantity": 1e400}]}', "application/json"),
        (b'{"lines": [{"sku": "a", "quantity": 1.5}]}', "application/json"),
        (b'{"lines": [{"sku": "a", "quantity": 1, "quantity": "x"}]}', "application/json"),
        (b'{"note": 3}', "application/json"),
        (b'{"unknown": 1}', "application/json"),
        (b'{"payment": {"kind": "shells"}}', "application/json"),
        (b'{"extra": "{"}', "application/json"),
        (b'{"note": "' + b"a" * 2000 + b'"}', "application/json"),
        (b'{"note": "ok"}', "text/plain"),
        (b'{"note": "ok"}', ""),
        (b"note=ok", "application/x-www-form-urlencoded"),
    ],
    ids=range(19),
)
def test_json_that_is_not_what_was_asked_for_is_422(orders: TestClient, body: bytes, content_type: str) -> None:
    response = orders.post("/orders/1", content=body, headers={"content-type": content_type})
    assert (response.status_code, problem_of(response)["code"]) == (422, "validation")


@pytest.mark.parametrize(
    "body",
    [
        b'{"weight": NaN}',
        b'{"weight": Infinity}',
        b'{"note": "a", "note": "b"}',
        b'{"lines": [{"sku": "a", "quantity": ' + b"9" * 4000 + b"}]}",
        b'{"note": "\\u0000"}',
        b'{"note": "\\ud83d\\ude00 \\\\ud800"}',
        b"{}",
    ],
)
def test_strange_but_acceptable_json_is_no_failure(orders: TestClient, body: bytes) -> None:
    assert orders.post("/orders/1", content=body, headers={"content-type": "application/json"}).status_code == 200


@pytest.mark.parametrize("path", ["/orders/" + "9" * 5000, "/orders/%00", "/orders/%ff", "/orders/1%20", "/orders/NaN"])
def test_a_strange_path_is_no_failure(orders: TestClient, path: str) -> None:
    assert orders.post(path, json={}).status_code in {200, 404, 422}


def test_a_refusal_closes_a_websocket_with_its_code(app: FastAPI) -> None:
    @app.websocket("/late")
    async def late(websocket: WebSocket) -> None:
        await websocket.accept()
        raise OutOfStockError

    @app.websocket("/failing")
    async def failing(websocket: WebSocket) -> None:
        await websocket.accept()
        raise ValueError(CANARY)

    @app.websocket("/wrong")
    async def wrong(websocket: WebSocket, number: int) -> None:
        await websocket.accept()

    client = TestClient(app)
    for path, code, reason in (
        ("/late", 1008, "out_of_stock"),
        ("/failing", 1011, "internal"),
        (f"/wrong?number={CANARY}", 1008, "validation"),
    ):
        with pytest.raises(WebSocketDisconnect) as closed, client.websocket_connect(path) as session:
            session.receive_text()
        assert (closed.value.code, closed.value.reason) == (code, reason)


@pytest.mark.parametrize(("error", "status"), [(OutOfStockError("none"), 422), (ValueError(CANARY), 500)])
def test_a_handshake_is_refused_with_a_problem(app: FastAPI, error: Exception, status: int) -> None:
    @app.websocket("/")
    async def route(websocket: WebSocket) -> None:
        raise error

    from starlette.testclient import WebSocketDenialResponse  # noqa: PLC0415  # named by this test alone

    with pytest.raises(WebSocketDenialResponse) as denied, TestClient(app).websocket_connect("/"):
        pass
    assert denied.value.status_code == status
    assert json.loads(denied.value.content)["status"] == status
    assert CANARY not in denied.value.text


def test_the_interface_declares_problems(app: FastAPI, orders: TestClient) -> None:
    document = orders.get("/openapi.json").json()
    responses = document["paths"]["/orders/{number}"]["post"]["responses"]
    reference = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    assert responses["422"]["content"] == reference
    assert responses["default"]["content"] == reference
    assert set(document["components"]["schemas"]["Problem"]["properties"]) >= {"code", "correlation_id", "errors"}
    assert "HTTPValidationError" not in json.dumps(document)
    assert orders.get("/openapi.json").json() == document


def test_routes_that_come_later_are_declared_too(app: FastAPI, orders: TestClient) -> None:
    orders.get("/openapi.json")

    @app.get("/later/{number}")
    async def later(number: int) -> None:
        return

    responses = orders.get("/openapi.json").json()["paths"]["/later/{number}"]["get"]["responses"]
    assert set(responses) == {"200", "422", "default"}


def test_a_model_named_problem_keeps_its_name(app: FastAPI) -> None:
    class Problem(BaseModel):
        chess: str

    @app.get("/", response_model=Problem)
    async def route() -> object:
        return {"chess": "mate in two"}

    schemas = app.openapi()["components"]["schemas"]
    assert set(schemas["Problem"]["properties"]) == {"chess"}
    assert "correlation_id" in schemas["CqrsProblem"]["properties"]


def test_a_mounted_application_with_the_same_extension_answers_with_problems(
    app: FastAPI, application: Any, install_on: Callable[..., None], logged: Any
) -> None:
    mounted = FastAPI()
    install_on(mounted, application)
    app.mount("/sub", mounted)

    @mounted.get("/refuse")
    async def refuse() -> None:
        raise OutOfStockError

    raising(mounted, ValueError(CANARY))
    client = client_of(app)
    assert problem_of(client.get("/sub/refuse"))["code"] == "out_of_stock"
    assert problem_of(client.get("/sub/raise"))["code"] == "internal"
    assert len(logged) == 1


def test_a_mounted_application_without_it_leaks_nothing_and_is_logged_once(app: FastAPI, logged: Any) -> None:
    mounted = FastAPI()
    app.mount("/sub", mounted)
    raising(mounted, ValueError(CANARY))
    response = TestClient(app).get("/sub/raise")
    assert response.status_code == 500
    assert CANARY not in response.text
    assert len(logged) == 1
