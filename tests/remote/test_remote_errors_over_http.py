"""What a client of ours is told when another service does not answer as it should."""

from pathlib import Path
from uuid import uuid4

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from cqrs_fastapi import CQRS, RemoteFailedError, RemoteRefusedError, RemoteUnknownOutcomeError, Settings
from cqrs_fastapi.remote.errors import NoReplyError


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (RemoteRefusedError("Reserve", "sold_out", "none left"), 422, "remote_refused"),
        (RemoteFailedError("Reserve", "internal", "see the log"), 502, "remote_failed"),
        (RemoteUnknownOutcomeError("Reserve", uuid4(), "no reply came in time"), 500, "remote_unknown"),
        (NoReplyError("Stock", "no reply came in time"), 503, "no_reply"),
    ],
    ids=lambda value: getattr(value, "code", None),
)
def test_each_has_its_status_and_code(tmp_path: Path, error: Exception, status: int, code: str) -> None:
    app = FastAPI()
    CQRS(settings=Settings(database_url=f"sqlite+aiosqlite:///{tmp_path / 'web.db'}", run_in_app=())).install(app)

    @app.get("/")
    async def fail() -> None:
        raise error

    with TestClient(app, raise_server_exceptions=False) as client:
        answer = client.get("/")

    assert (answer.status_code, answer.json()["code"]) == (status, code)
