"""The command: one run, or with `--mutations` a hunt for the framework made wrong. Status 0 if all is as it must be."""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from tools.messaging_torture.campaign import hunt
from tools.messaging_torture.mutations import MUTATIONS
from tools.messaging_torture.plan import Plan
from tools.messaging_torture.report import conditions, mutation_lines, publish, run_lines
from tools.messaging_torture.run import end_by_signal, torture
from tools.messaging_torture.stage import servers_at
from tools.servers import Servers


def main() -> int:
    options = _options()
    end_by_signal()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="torture-"))
    plan = Plan(
        options.seed,
        options.seconds,
        folder / "run",
        options.every,
        options.rate,
        mutation=options.mutation,
    )
    began = time.monotonic()

    def tell(line: str) -> None:
        print(f"[{time.monotonic() - began:6.1f}] {line}", flush=True)

    with servers_at(folder) as servers:
        wrong = _hunt(options, plan, servers, tell) if options.mutations else _run(options, plan, servers, tell)
    if wrong:
        tell(f"logs and history: {plan.folder}")
    elif options.folder is None:
        shutil.rmtree(folder)
    return int(wrong)


def _run(options: argparse.Namespace, plan: Plan, servers: Servers, tell: Callable[[str], None]) -> bool:
    where = conditions(servers)
    outcome = torture(plan, servers, tell)
    print(outcome.said)
    tell(f"seed {plan.seed}: {outcome.seconds:.0f} s, drained after {outcome.drained_after:.1f} s")
    tell(f"faults: {outcome.faults}; ended by themselves: {outcome.ended_alone}")
    if options.publish:
        publish("run", run_lines(outcome, where))
    return outcome.is_broken


def _hunt(options: argparse.Namespace, plan: Plan, servers: Servers, tell: Callable[[str], None]) -> bool:
    names = [options.mutation] if options.mutation else list(MUTATIONS)
    where = conditions(servers)
    killed = hunt(replace(plan, mutation=""), names, servers, tell)
    for line in mutation_lines(killed, where):
        print(line)
    if options.publish:
        publish("mutations", mutation_lines(killed, where))
    return not all(one.by for one in killed)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tools.messaging_torture", description=__doc__)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1_000_000))
    parser.add_argument("--seconds", type=float, default=60.0, help="of load and faults, for each run")
    parser.add_argument("--every", type=float, default=0.8, help="mean seconds between two faults; 0: none")
    parser.add_argument("--rate", type=float, default=200.0, help="commands per second that clients try to send")
    parser.add_argument("--mutations", action="store_true", help="run the framework made wrong, seed after seed")
    parser.add_argument("--mutation", default="", choices=["", *MUTATIONS], help="only this one, or a run with it")
    parser.add_argument("--publish", action="store_true", help="write the results into docs/torture-messaging.md")
    parser.add_argument("--folder", type=Path, help="where history and logs go, and stay")
    return parser.parse_args()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)  # as a shell says it
