"""One firing of a periodic job."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Tick:
    """What a job is given. All times are timezone-aware and in UTC.

    `scheduled_at` follows from the job's rule alone, so it is the same in every process: use it as a key for effects
    outside the database. `fired_at` is the database's clock at this attempt. `previous` is the last tick before this
    one whose effect was committed, None if there was none: a job that collects what happened since goes by it.
    """

    scheduled_at: datetime
    fired_at: datetime
    previous: datetime | None
