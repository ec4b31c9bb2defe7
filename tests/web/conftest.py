"""An application that does nothing but say what was asked of it, and apps that it is installed in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import structlog
from fastapi import FastAPI
from structlog.testing import LogCapture

from cqrs_fastapi.errors import NotRunningError
from cqrs_fastapi.runtime.health import Check, Readiness
from cqrs_fastapi.settings import Settings
from cqrs_fastapi.web.installation import install


class FakeApplication:
    """Keeps the face of the real one. `fail` names the step that raises, and with what."""

    def __init__(self, *, name: str = "", max_body_bytes: int = 1 << 20) -> None:
        self.settings = Settings(max_body_bytes=max_body_bytes)
        self.name = name
        self.happened: list[str] = []
        self.fail: dict[str, BaseException] = {}
        self.is_open = False
        self.checks: tuple[Check, ...] = (Check(name="database", ok=True, detail="answers"),)

    async def open(self) -> None:
        self._step("open")
        self.is_open = True

    async def start_workers(self) -> None:
        self._step("workers start")

    async def stop_workers(self) -> None:
        self._step("workers stop")

    async def close(self) -> None:
        if self.is_open:
            self.is_open = False
            self._step("close")

    async def readiness(self) -> Readiness:
        return Readiness(ready=all(check.ok for check in self.checks), checks=self.checks)

    @property
    def mediator(self) -> object:
        return self._mediator("mediator")

    @property
    def event_mediator(self) -> object:
        return self._mediator("event mediator")

    def _mediator(self, kind: str) -> str:
        if not self.is_open:
            raise NotRunningError("not running")
        return f"{kind} of {self.name}"

    def _step(self, name: str) -> None:
        self.happened.append(name)
        if name in self.fail:
            raise self.fail[name]


Make = Callable[..., FakeApplication]


@pytest.fixture
def application() -> FakeApplication:
    return FakeApplication(name="orders")


@pytest.fixture
def make_application() -> Make:
    return FakeApplication


@pytest.fixture
def install_on() -> Callable[..., None]:
    def install_on(app: FastAPI, application: Any, *, identify: Any = None, statuses: Any = None) -> None:
        install(app, application, identify=identify, statuses=statuses)

    return install_on


@pytest.fixture
def app(application: FakeApplication, install_on: Callable[..., None]) -> FastAPI:
    """An app that has the extension and no routes yet."""
    app = FastAPI()
    install_on(app, application)
    return app


@pytest.fixture
def logged() -> Any:
    """What is logged during the test."""
    capture = LogCapture()
    before = structlog.get_config()
    structlog.configure(processors=[capture])
    yield capture.entries
    structlog.configure(**before)
