"""The models of the protocols: which searches there are, and how what spin's `pan` prints is judged.

The searches themselves are run by `python -m tools.models`. What `pan` prints was captured and shortened here.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tools import models
from tools.models import CONFIGURATIONS, Configuration, Outcome, judge, main

HEAD = """
(Spin Version 6.5.2 -- 6 December 2019)
"""
TAIL = """
Full statespace search for:
	never claim         	- (none specified)
	assertion violations	+
	cycle checks       	- (disabled by -DSAFETY)
	invalid end states	+

State-vector 88 byte, depth reached 51, errors: {errors}
{states} states, stored
       22 states, matched
"""
STOPPED = HEAD + "Warning: Search not completed\n" + TAIL
RIGHT = HEAD + TAIL.format(errors=0, states="   574113")
BROKEN = """pan:1: assertion violated  !(skipped) (at depth 47)
pan: wrote reader.pml.trail
""" + STOPPED.format(errors=1, states="      136")
DEADLOCK = """pan:1: invalid end state (at depth 43)
pan: wrote conditions.pml.trail
""" + STOPPED.format(errors=1, states="   132343")
OUT_OF_BOUNDS = """pan:1: assertion violated - invalid array index (at depth 28)
pan: wrote reader.pml.trail
""" + STOPPED.format(errors=1, states="       17")
TOO_DEEP = "error: max search depth too small\n" + RIGHT
OUT_OF_MEMORY = """pan: reached -DMEMLIM bound
	1.57258e+08 bytes used
	102400 bytes more needed
""" + STOPPED.format(errors=0, states="   561506")

A_RIGHT_ONE = Configuration("reader", ("BATCH",))
A_WRONG_ONE = Configuration("reader", ("WRONG_NO_FLOOR",), breaks="skipped")


def mutations_in(model: Path) -> set[str]:
    """The names in its conditions that make a protocol wrong."""
    conditions = re.findall(r"^#(?:if|ifdef|ifndef|elif)\b.*$", model.read_text(), re.MULTILINE)
    return set(re.findall(r"\b(?:WRONG|P)_\w+", " ".join(conditions))) - {"P_SET"}


@pytest.mark.parametrize("model", sorted(models.MODELS.glob("*.pml")), ids=lambda model: model.stem)
def test_every_mutation_in_a_model_must_be_caught_by_a_search(model: Path) -> None:
    caught = {name for one in CONFIGURATIONS if one.model == model.stem and one.breaks for name in one.names}
    mutations = mutations_in(model)
    assert mutations
    assert mutations <= caught


@pytest.mark.parametrize("model", sorted(models.MODELS.glob("*.pml")), ids=lambda model: model.stem)
def test_the_protocol_of_every_model_is_also_searched_as_it_is(model: Path) -> None:
    assert [one for one in CONFIGURATIONS if one.model == model.stem and one.breaks is None and not one.large]


@pytest.mark.parametrize("configuration", CONFIGURATIONS, ids=str)
def test_a_configuration_uses_names_and_promises_that_its_model_has(configuration: Configuration) -> None:
    text = (models.MODELS / f"{configuration.model}.pml").read_text()
    for name in configuration.names:
        assert re.search(rf"\b{name.partition('=')[0]}\b", text)
    if configuration.breaks not in (None, "invalid end state"):
        assert f"assert(!{configuration.breaks})" in text


def test_a_protocol_is_expected_to_be_right_unless_a_rule_is_taken_out() -> None:
    wrong = [one for one in CONFIGURATIONS if {"P_MAX", "P_W"} & set(one.names) or "WRONG" in str(one)]
    assert [one for one in CONFIGURATIONS if one.breaks is not None] == wrong


@pytest.mark.parametrize(
    ("printed", "outcome"),
    [
        (RIGHT, Outcome(574113)),
        (RIGHT.replace("   574113", "1.3100000e+08"), Outcome(131_000_000)),
        (BROKEN, Outcome(136, error="skipped")),
        (DEADLOCK, Outcome(132343, error="invalid end state")),
        (OUT_OF_BOUNDS, Outcome(17, error="invalid array index")),
        ("error: max search depth too small\n" + BROKEN, Outcome(136, error="skipped")),
    ],
)
def test_a_search_that_ended_is_judged_by_its_error(printed: str, outcome: Outcome) -> None:
    assert judge(printed) == outcome


@pytest.mark.parametrize(
    ("printed", "reason"),
    [
        (TOO_DEEP, "error: max search depth too small"),
        (OUT_OF_MEMORY, "pan: reached -DMEMLIM bound"),
        ("", "nothing was printed"),
        ("Segmentation fault", "Segmentation fault"),
        (RIGHT.partition("State-vector")[0], "invalid end states	+"),
    ],
)
def test_a_search_that_did_not_end_is_neither_right_nor_broken(printed: str, reason: str) -> None:
    outcome = judge(printed)
    assert (outcome.error, outcome.unfinished) == (None, reason)
    assert not outcome.is_expected(A_RIGHT_ONE)
    assert not outcome.is_expected(A_WRONG_ONE)
    assert str(outcome) == f"not finished: {reason}"


def test_a_right_protocol_must_have_no_error_and_a_wrong_one_its_own() -> None:
    right, skipped, bounds = judge(RIGHT), judge(BROKEN), judge(OUT_OF_BOUNDS)
    assert [one.is_expected(A_RIGHT_ONE) for one in (right, skipped, bounds)] == [True, False, False]
    assert [one.is_expected(A_WRONG_ONE) for one in (right, skipped, bounds)] == [False, True, False]


@pytest.mark.parametrize(("outcome", "status"), [(Outcome(1), 0), (Outcome(1, error="skipped"), 1)])
def test_one_unexpected_outcome_makes_the_command_fail(
    outcome: Outcome, status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(models, "CONFIGURATIONS", (A_WRONG_ONE, A_RIGHT_ONE))
    monkeypatch.setattr(models, "PROGRAMS", ())
    monkeypatch.setattr(models, "search", {A_WRONG_ONE: Outcome(2, error="skipped"), A_RIGHT_ONE: outcome}.__getitem__)
    assert main([]) == status
    printed = capsys.readouterr().out
    assert printed.splitlines()[1].endswith("broken: skipped")
    assert ("UNEXPECTED, should be right" in printed) is bool(status)


def test_missing_programs_are_named_with_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["--quick"]) == 1
    assert capsys.readouterr().err == "spin and gcc and cc cannot be found; run: apt-get install spin gcc\n"
