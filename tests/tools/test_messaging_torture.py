"""The torture of the messaging itself: its mutations still have their targets, and its results get into the page."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tools.messaging_checker.verdict import PROMISES
from tools.messaging_torture.campaign import Killed
from tools.messaging_torture.mutations import MUTATIONS, MutationTargetGoneError, target
from tools.messaging_torture.plan import Plan
from tools.messaging_torture.report import mutation_lines, publish, run_lines
from tools.messaging_torture.run import Outcome

ROOT = Path(__file__).parents[2]


def outcome(folder: Path, **broken: int) -> Outcome:
    figures = {"messages acknowledged": 3_000, "faults": 40}
    return Outcome(
        Plan(1, 30.0, folder), figures, {**dict.fromkeys(PROMISES, 0), **broken}, "", 30.0, 2.0, {"kill relay": 40}
    )


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_mutation_still_has_its_target(name: str) -> None:
    program = f"from tools.messaging_torture.mutations import MUTATIONS; MUTATIONS[{name!r}].apply()"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_five_mutations_are_there_and_break_what_is_judged() -> None:
    assert set(MUTATIONS) == {
        "mark-before-send",
        "offset-before-inbox",
        "no-fencing",
        "skip-locked-without-buckets",
        "attempt-cap",
    }
    assert {promise for one in MUTATIONS.values() for promise in one.breaks} <= set(PROMISES)


class Rewritten:
    def step(self) -> str:
        return "another way"


def test_a_mutation_whose_target_was_rewritten_says_so() -> None:
    assert target(Rewritten, "step", "another way") is Rewritten.step
    with pytest.raises(MutationTargetGoneError, match="no claim"):
        target(Rewritten, "claim")
    with pytest.raises(MutationTargetGoneError, match="'the old way'"):
        target(Rewritten, "step", "another", "the old way")


def test_a_mutation_is_killed_by_the_promises_that_were_named_and_by_no_other(tmp_path: Path) -> None:
    mutation = MUTATIONS["mark-before-send"]
    assert Killed(mutation, (outcome(tmp_path, lost=3, repeats=1),)).by == {"lost": 3}
    assert Killed(mutation, (outcome(tmp_path, repeats=1),)).by == {}


def test_results_replace_what_stood_in_their_place(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n\n<!-- run -->\n\nold\n\n<!-- end of run -->\n\nafter\n")
    publish("run", run_lines(outcome(tmp_path), "Today."), page)
    publish("run", run_lines(outcome(tmp_path), "Tomorrow."), page)
    text = page.read_text()
    assert text.startswith("before\n\n<!-- run -->\n\nTomorrow.")
    assert text.endswith("<!-- end of run -->\n\nafter\n")
    assert "| kill relay | 40 |" in text
    assert "fewer than 1,000 in a million" in text
    with pytest.raises(ValueError, match="no place for mutations"):
        publish("mutations", [], page)


def test_a_mutation_that_survived_is_told(tmp_path: Path) -> None:
    killed = Killed(MUTATIONS["no-fencing"], (outcome(tmp_path, duplicates=2),))
    survived = Killed(MUTATIONS["attempt-cap"], (outcome(tmp_path),) * 5)
    lines = "\n".join(mutation_lines([killed, survived], "Today."))
    assert "| duplicates 2 | 1 of 5 | 40 |" in lines
    assert "| **survived** | 5 of 5 | 200 |" in lines
