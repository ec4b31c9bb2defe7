from __future__ import annotations

import asyncio
import time
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from cqrs_fastapi.runtime.health import Check, Readiness
from cqrs_fastapi.web.health import ReadinessProbe

pytestmark = pytest.mark.anyio

UNKNOWN = Check(name="readiness", ok=False, detail="no answer within 0.05 seconds")


def test_the_process_is_live_even_where_nothing_runs(app: FastAPI) -> None:
    response = TestClient(app).get("/health/live")
    assert (response.status_code, response.json()) == (200, {"status": "live"})


def test_readiness_lists_the_checks(app: FastAPI) -> None:
    response = TestClient(app).get("/health/ready")
    assert response.status_code == 200
    assert response.json() == {
        "status": "ready",
        "checks": [{"name": "database", "ok": True, "detail": "answers"}],
    }


def test_one_failing_check_is_503(app: FastAPI, application: Any) -> None:
    application.checks = (Check(name="broker", ok=False, detail="does not answer"),)
    response = TestClient(app).get("/health/ready")
    assert (response.status_code, response.json()["status"]) == (503, "not_ready")
    assert response.json()["checks"] == [{"name": "broker", "ok": False, "detail": "does not answer"}]


def test_checks_that_raise_are_503_and_tell_nothing(app: FastAPI, application: Any, logged: Any) -> None:
    async def readiness() -> Readiness:
        raise OSError("postgresql://user:CANARY@host")

    application.readiness = readiness
    response = TestClient(app).get("/health/ready")
    assert response.status_code == 503
    assert "CANARY" not in response.text
    assert [entry["event"] for entry in logged] == ["readiness_failed"]


class Stubborn:
    """Checks that hang and cannot be cancelled."""

    def __init__(self) -> None:
        self.runs = 0
        self.released = asyncio.Event()

    async def readiness(self) -> Readiness:
        self.runs += 1
        while not self.released.is_set():
            try:
                await self.released.wait()
            except asyncio.CancelledError:
                continue
        return Readiness(ready=True, checks=())


async def test_checks_that_hang_are_answered_for_and_never_pile_up() -> None:
    stubborn = Stubborn()
    app = FastAPI()
    app.add_route("/ready", ReadinessProbe(stubborn, seconds=0.05).ready)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        began = time.monotonic()
        answers = await asyncio.gather(*(client.get("/ready") for _ in range(20)))
        answers.append(await client.get("/ready"))
        assert time.monotonic() - began < 5
        assert {answer.status_code for answer in answers} == {503}
        assert answers[0].json()["checks"] == [{"name": UNKNOWN.name, "ok": UNKNOWN.ok, "detail": UNKNOWN.detail}]
        assert stubborn.runs == 1
        stubborn.released.set()
        await asyncio.sleep(0.01)
        assert (await client.get("/ready")).status_code == 200


def test_health_is_not_part_of_the_documented_interface(app: FastAPI) -> None:
    assert app.openapi()["paths"] == {}
