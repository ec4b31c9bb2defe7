"""The torture of the messaging as a command, without faults: everything starts, is judged, and ends."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tools.messaging_checker.verdict import PROMISES
from tools.servers import ServerUnavailableError
from tools.servers.kafka_apache import VERSION
from tools.servers.kafka_jars import find_java, jars

ROOT = Path(__file__).parents[2]


@pytest.mark.timeout(400)
def test_torture_of_the_messaging_breaks_nothing_and_repeats_nothing_where_nothing_is_done(tmp_path: Path) -> None:
    try:
        assert find_java()
        assert jars(VERSION)
    except ServerUnavailableError as missing:
        pytest.skip(str(missing))
    calm = ("--seed", "1", "--seconds", "5", "--every", "0", "--rate", "50")
    done = subprocess.run(
        [sys.executable, "-m", "tools.messaging_torture", "--folder", tmp_path, *calm],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    verdict = json.loads((tmp_path / "run" / "verdict.json").read_text())
    assert verdict["broken"] == dict.fromkeys(PROMISES, 0)
    figures = verdict["figures"]
    assert figures["messages acknowledged"] > 0
    assert figures["records on the topic"] == figures["events stored"] == figures["messages acknowledged"]
    assert figures["duplicates on the topic"] == figures["calls repeated"] == 0
    assert list((tmp_path / "servers").glob("*.json")) == [], "a server was left running"
