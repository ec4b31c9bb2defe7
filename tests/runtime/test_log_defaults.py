"""Logs of an application that has said nothing about them."""

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import asyncio, structlog
from cqrs_fastapi import CQRS, Settings

async def main():
    {before}
    async with CQRS(settings=Settings(database_url="sqlite+aiosqlite:///./log.db")).running(workers=()):
        try:
            password = "hunter" + "-two"
            raise RuntimeError("planned")
        except RuntimeError:
            structlog.get_logger().exception("it_failed")

asyncio.run(main())
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def told(before: str = "pass") -> str:
    program = PROGRAM.format(before=before)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_traceback_shows_no_values_of_variables() -> None:
    text = told()
    assert "RuntimeError: planned" in text
    assert "it_failed" in text
    assert "hunter-two" not in text


def test_what_the_application_has_configured_stays() -> None:
    processors = "[structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]"
    text = told(f"structlog.configure(processors={processors})")
    assert text.startswith("{")
    assert '"event": "it_failed"' in text
