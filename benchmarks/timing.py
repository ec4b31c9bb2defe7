"""Two pieces of work, in turns, so that a machine that slows down slows both."""

from __future__ import annotations

import statistics
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

Work = Callable[[int], Awaitable[None]]
"""Does its thing so many times."""


@dataclass(frozen=True, slots=True)
class Ratio:
    """Seconds per operation of the subject and of its reference. Minima are the least disturbed."""

    name: str
    limit: float
    best: float
    reference_best: float
    median: float
    """The median of the ratios, round by round."""
    at_least: bool = False

    @property
    def value(self) -> float:
        """The ratio to quote: of the two least disturbed rounds."""
        return self.best / self.reference_best

    @property
    def kept(self) -> bool:
        return self.value >= self.limit if self.at_least else self.value <= self.limit


@dataclass(frozen=True, slots=True)
class Figure:
    """What has no reference; with a limit where one was set."""

    name: str
    value: float
    limit: float | None = None
    at_least: bool = True

    @property
    def kept(self) -> bool:
        if self.limit is None:
            return True
        return self.value >= self.limit if self.at_least else self.value <= self.limit


async def compare(
    name: str, subject: Work, reference: Work, *, limit: float, count: int, rounds: int, at_least: bool = False
) -> Ratio:
    """Time both in turns. `limit` is what the ratio of seconds should not exceed, or not fall below."""
    subjects, references = [], []
    for work in (subject, reference):
        await work(count)
    for _ in range(rounds):
        references.append(await _seconds(reference, count))
        subjects.append(await _seconds(subject, count))
    ratios = [one / other for one, other in zip(subjects, references, strict=True)]
    return Ratio(name, limit, min(subjects), min(references), statistics.median(ratios), at_least)


async def _seconds(work: Work, count: int) -> float:
    begin = time.perf_counter()
    await work(count)
    return (time.perf_counter() - begin) / count
