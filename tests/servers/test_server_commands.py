"""The command `python -m tools.servers`, as a person uses it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tools.servers.__main__ import main


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    for variable in ("POSTGRES_URL", "KAFKA_BOOTSTRAP", "CQRS_SERVERS_POSTGRES"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("CQRS_SERVERS_KAFKA", "mock")
    folder = str(tmp_path / "state")
    yield folder
    main(["stop", "--state", folder])


def test_the_life_of_both_servers(state: str, capsys: pytest.CaptureFixture[str]) -> None:
    def said(*arguments: str) -> str:
        assert main([*arguments, "--state", state]) == 0
        return capsys.readouterr().out

    assert said("status") == "postgres: not running\nkafka: not running\n"
    started = said("start")
    assert "kafka: librdkafka mock, version" in started
    assert said("start") == started
    assert said("restart", "postgres", "--crash").startswith("postgres: ")
    assert "not running" not in said("status")
    postgres, kafka = said("env").splitlines()
    assert postgres.startswith("export POSTGRES_URL=postgresql+asyncpg://postgres:")
    assert kafka.startswith("export KAFKA_BOOTSTRAP=127.0.0.1:")
    assert said("stop") == "postgres is stopped\nkafka is stopped\n"
    assert said("stop") == "postgres was not running\nkafka was not running\n"


def test_only_the_named_server_is_started(state: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["start", "kafka", "--state", state]) == 0
    assert main(["env", "--state", state]) == 1
    printed = capsys.readouterr()
    assert "export KAFKA_BOOTSTRAP=" in printed.out
    assert "postgres is not running: python -m tools.servers start postgres" in printed.err


def test_a_failure_is_one_sentence_and_status_one(
    state: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KAFKA_BOOTSTRAP", "127.0.0.1:1")
    assert main(["start", "kafka", "--state", state]) == 1
    assert capsys.readouterr().err.startswith("KAFKA_BOOTSTRAP names 127.0.0.1:1, which gives no answer")


def test_an_unknown_server_is_refused(state: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["start", "redis", "--state", state])
    assert "'redis' is no server; write postgres or kafka" in capsys.readouterr().err
