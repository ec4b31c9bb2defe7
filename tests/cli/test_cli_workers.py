"""Workers as processes: they refuse what cannot work in one sentence, and end cleanly when asked to."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cqrs_fastapi.cli.main import app

Start = Callable[..., "subprocess.Popen[str]"]


def line_with(process: subprocess.Popen[str], text: str) -> str:
    assert process.stdout is not None
    for line in process.stdout:
        if text in line:
            return line
    raise AssertionError(f"the process ended without {text!r}: {process.stderr and process.stderr.read()}")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def test_a_signal_lets_the_run_under_way_finish_and_ends_with_status_0(start: Start) -> None:
    process = start("schedule", "shop:cqrs")
    line_with(process, "slow begins")
    process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=30)

    assert process.returncode == 0
    assert "slow ends" in output
    assert "Traceback" not in output + errors


def test_a_second_signal_ends_the_process_at_once_with_status_1(start: Start) -> None:
    process = start("schedule", "shop:cqrs")
    line_with(process, "slow begins")
    process.send_signal(signal.SIGTERM)
    line_with(process, "stopping")
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=30)

    assert process.returncode == 1
    assert "slow ends" not in output


def test_the_scheduler_tells_its_health_while_it_runs(start: Start) -> None:
    port = free_port()
    process = start("schedule", "shop:cqrs", "--port", str(port))
    line_with(process, "beat")

    ready = json.load(urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=10))
    live = json.load(urllib.request.urlopen(f"http://127.0.0.1:{port}/health/live", timeout=10))
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)

    assert ready["status"] == "ready"
    assert {"database", "scheduler"} <= {check["name"] for check in ready["checks"]}
    assert live == {"status": "live"}
    assert process.returncode == 0


def test_a_relay_serves_until_it_is_stopped_though_its_broker_is_away(start: Start) -> None:
    nobody, port = free_port(), free_port()
    process = start("relay", "shop:cqrs", "--port", str(port), CQRS_BROKER_URL=f"kafka://127.0.0.1:{nobody}")
    answer = _answer_within(30, f"http://127.0.0.1:{port}/health")
    process.terminate()
    output, errors = process.communicate(timeout=30)

    assert answer["status"] == "not_ready"
    assert process.returncode == 0, output + errors


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["relay", "shop:cqrs"], "a relay on memory:// in its own process would send to nobody"),
        (["schedule", "shop:wrong"], "asks for Rates, which nothing provides"),
    ],
)
def test_what_cannot_run_is_refused_in_one_message_without_a_traceback(
    start: Start, arguments: list[str], says: str
) -> None:
    process = start(*arguments)
    output, errors = process.communicate(timeout=30)

    assert process.returncode == 2
    assert errors.startswith("cqrs: ")
    assert says in errors
    assert "Traceback" not in output + errors


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["consume", "shop:cqrs"], "a consumer on memory:// in its own process would receive nothing"),
        (["schedule", "shop"], "write MODULE:ATTRIBUTE"),
        (["schedule", "shope:cqrs"], "there is no module 'shope'"),
        (["schedule", "shop:app"], "'shop' has no 'app'"),
        (["schedule", "shop:numbers"], "is of type list and not a CQRS object"),
    ],
)
def test_a_target_that_is_no_application_is_refused(project: Path, arguments: list[str], says: str) -> None:
    result = CliRunner().invoke(app, arguments)

    assert result.exit_code == 2
    assert result.stderr.startswith("cqrs: ")
    assert says in result.stderr


def test_a_database_behind_the_code_is_refused(
    project: Path, monkeypatch: pytest.MonkeyPatch, postgres_url: str
) -> None:
    monkeypatch.setenv("CQRS_DATABASE_URL", postgres_url)
    result = CliRunner().invoke(app, ["schedule", "shop:cqrs"])

    assert result.exit_code == 2
    assert "run: alembic upgrade head" in result.stderr


def test_a_port_that_is_taken_is_refused(project: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        result = CliRunner().invoke(app, ["schedule", "shop:cqrs", "--port", str(port)])

    assert result.exit_code == 2
    assert f"port {port}" in result.stderr
    assert "another --port" in result.stderr


def test_a_module_that_fails_by_itself_keeps_its_traceback(start: Start, project: Path) -> None:
    process = start("schedule", "broken:cqrs")
    _, errors = process.communicate(timeout=30)

    assert process.returncode == 1
    assert "a_library_that_is_missing" in errors
    assert "Traceback" in errors


def _answer_within(seconds: float, url: str) -> dict[str, object]:
    end = time.monotonic() + seconds
    while True:
        try:
            body: dict[str, object] = json.load(urllib.request.urlopen(url, timeout=10))  # noqa: S310  # an address of ours
        except urllib.error.HTTPError as refusal:
            body = json.load(refusal)
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.1)
            continue
        return body
