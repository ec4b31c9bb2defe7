"""From what a handler raised to what becomes of its message."""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeAlias

from cqrs_fastapi.errors import MessageError, UnavailableError, UnknownOutcomeError
from cqrs_fastapi.inbox.attempts import HandlerCrashedError
from cqrs_fastapi.mediation.failure_policy import Failure, FailurePolicy
from cqrs_fastapi.mediation.steering import DeadLetter, Discard, RetryLater
from cqrs_fastapi.settings import Settings
from cqrs_fastapi.storage.driver_errors import is_passing


class RefusedByValidatorError(MessageError):
    """The `validate` of a binding refused the message."""

    code = "refused_by_validator"


@dataclass(frozen=True, slots=True)
class Again:
    """Try it again after a pause, in place. `counts` if the attempt was one of the handler's own."""

    pause: float
    counts: bool


@dataclass(frozen=True, slots=True)
class Park:
    """Keep it as a letter: dead, or to be tried again by itself `after` that long."""

    after: timedelta | None = None


@dataclass(frozen=True, slots=True)
class Drop:
    """It is done with."""


Verdict: TypeAlias = Again | Park | Drop


@dataclass(frozen=True, slots=True)
class Judge:
    """The policy of one handler, with the settings for what it leaves open."""

    policy: FailurePolicy
    settings: Settings

    @property
    def limit(self) -> int:
        return self.policy.attempts or self.settings.handler_attempts

    def verdict(self, error: Exception, *, counted: int, tries: int) -> Verdict:
        """`counted` attempts of the handler have failed, this one left out, and `tries` were made, this one too."""
        if isinstance(error, Discard):
            return Drop()
        if isinstance(error, RetryLater):
            return Park(error.after)
        if isinstance(error, DeadLetter | RefusedByValidatorError | HandlerCrashedError):
            return Park()
        failure = self._judged(error)
        if failure is Failure.BAD_PAYLOAD or (failure is Failure.BUG and counted + 1 >= self.limit):
            return Park()
        pause = self.pause_after(tries)
        return Again(pause, failure is Failure.BUG) if self.policy.ordered else Park(timedelta(seconds=pause))

    def pause_after(self, tries: int) -> float:
        """Seconds, growing with the tries that have failed."""
        longest = self.settings.retry_backoff.total_seconds() * float(2 ** min(tries - 1, 10))
        jitter = random.uniform(0.5, 1.0)  # noqa: S311  # jitter, not a secret
        return min(self.policy.longest_pause.total_seconds(), longest) * jitter

    def _judged(self, error: Exception) -> Failure:
        if isinstance(error, UnavailableError | UnknownOutcomeError) or is_passing(error):
            return Failure.TRANSIENT  # whatever else the policy says: it may be our own database
        return self.policy.judge(error)
