"""Runs of the framework made wrong, each next to a run of the same seed that is right."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from tools.messaging_torture.mutations import MUTATIONS, Mutation
from tools.messaging_torture.plan import Plan
from tools.messaging_torture.run import Outcome, torture
from tools.messaging_torture.workers import ROOT
from tools.servers import Servers


@dataclass(frozen=True, slots=True)
class Killed:
    """A mutation with the runs that it took. The last one broke a promise that was named before, or none did."""

    mutation: Mutation
    outcomes: tuple[Outcome, ...]

    @property
    def by(self) -> dict[str, int]:
        """How often the last run broke each of the promises that were named."""
        broken = self.outcomes[-1].broken if self.outcomes else {}
        return {name: broken[name] for name in self.mutation.breaks if broken[name]}


def hunt(plan: Plan, names: Iterable[str], servers: Servers, tell: Callable[[str], None]) -> list[Killed]:
    """Seed after seed from the plan's on, until each mutation is killed or has survived its number of seeds.

    A promise that the right framework breaks with that seed, too, kills nothing.
    """
    right: dict[int, Outcome] = {}
    killed = []
    for name in names:
        mutation = MUTATIONS[name]
        _check(name)
        one = _hunted(plan, mutation, servers, tell, right)
        tell(f"{name}: {'killed by ' + str(one.by) if one.by else 'SURVIVED'} after {len(one.outcomes)} seeds")
        killed.append(one)
    return killed


def _hunted(
    plan: Plan, mutation: Mutation, servers: Servers, tell: Callable[[str], None], right: dict[int, Outcome]
) -> Killed:
    outcomes: list[Outcome] = []
    for seed in range(plan.seed, plan.seed + mutation.seeds):
        if seed not in right:
            tell(f"seed {seed} without a mutation")
            right[seed] = torture(_at(plan, seed, ""), servers, tell)
        tell(f"seed {seed} with {mutation.name}")
        found = torture(_at(plan, seed, mutation.name), servers, tell)
        honest = right[seed].broken
        outcomes.append(replace(found, broken={one: 0 if honest[one] else n for one, n in found.broken.items()}))
        if Killed(mutation, tuple(outcomes)).by:
            break
    return Killed(mutation, tuple(outcomes))


def _at(plan: Plan, seed: int, mutation: str) -> Plan:
    return replace(plan, seed=seed, mutation=mutation, folder=plan.folder / f"{seed}-{mutation or 'right'}")


def _check(name: str) -> None:
    """In a process of its own, since it changes the framework: a target that is gone is told before anything runs."""
    program = f"from tools.messaging_torture.mutations import MUTATIONS; MUTATIONS[{name!r}].apply()"
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)
