"""How the table of peers counts."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.peers.rows import told_of
from tools.peers.systems.numbers import FailsError, Handler, fault, texts


def test_what_was_sent_is_told_as_lost_repeated_and_out_of_order() -> None:
    assert told_of([(0, 1), (1, 1), (0, 2)], 3) == "0 lost, 0 repeated, 0 streams out of order"
    assert told_of([(0, 1), (0, 1)], 3) == "**2 lost**, **1 repeated**, 0 streams out of order"
    assert told_of([(0, 2), (0, 1), (1, 1)], 3) == "0 lost, 0 repeated, **1 streams out of order**"


def test_a_late_repetition_puts_nothing_out_of_order() -> None:
    assert told_of([(0, 1), (0, 2), (0, 1)], 2) == "0 lost, **1 repeated**, 0 streams out of order"


def test_streams_take_turns() -> None:
    assert list(texts(5, 2)) == [(0, "n1of0"), (1, "n1of1"), (0, "n2of0"), (1, "n2of1"), (0, "n3of0")]


def test_a_handler_fails_as_often_as_it_was_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PEERS_FAILS", "second:2")
    monkeypatch.setenv("PEERS_OUT", str(tmp_path / "handled"))
    handler = Handler()
    handler("n1of0")
    for _ in range(2):
        with pytest.raises(FailsError):
            handler("n2of0")
    handler("n2of0")
    assert (tmp_path / "handled").read_text().split() == ["n1of0", "n2of0"]


def test_a_fault_is_done_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PEERS_FAULT", "kill-after-ack")
    monkeypatch.setenv("PEERS_MARK", str(tmp_path / "done"))
    assert fault() == "kill-after-ack"
    (tmp_path / "done").touch()
    assert fault() == ""
