"""The command."""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tools.messaging_torture.plan import Plan
from tools.messaging_torture.run import Outcome, end_by_signal, torture
from tools.messaging_torture.stage import servers_at


def main() -> int:
    options = _options()
    end_by_signal()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="torture-"))
    began = time.monotonic()

    def tell(line: str) -> None:
        print(f"[{time.monotonic() - began:6.1f}] {line}", flush=True)

    with servers_at(folder) as servers:
        plan = Plan(
            seed=options.seed,
            seconds=options.seconds,
            folder=folder / "run",
            every=options.every,
            rate=options.rate,
            mutation=options.mutation,
        )
        outcome = torture(plan, servers, tell)
    _tell(outcome, tell)
    return int(outcome.is_broken)


def _tell(outcome: Outcome, tell: Callable[[str], None]) -> None:
    print(outcome.said)
    tell(f"{outcome.seconds:.0f} s, drained after {outcome.drained_after:.1f} s")
    tell(f"faults {outcome.faults}, ended by themselves {outcome.ended_alone}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tools.messaging_torture", description=__doc__)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1_000_000))
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--every", type=float, default=1.0, help="mean seconds between two faults; 0: none")
    parser.add_argument("--rate", type=float, default=200.0, help="commands per second")
    parser.add_argument("--mutation", default="")
    parser.add_argument("--folder", type=Path, default=None)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
