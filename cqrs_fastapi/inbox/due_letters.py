"""Replays the letters that are to be tried again by themselves, when their time has come."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import structlog

from cqrs_fastapi.dead_letters.changing import LetterTakenError, NotFirstError
from cqrs_fastapi.dead_letters.parking import Letter
from cqrs_fastapi.dead_letters.reading import Counts, counts, due
from cqrs_fastapi.errors import NotFoundError, UnavailableError, UnknownOutcomeError
from cqrs_fastapi.inbox.replaying import ReplayFailedError, Replaying
from cqrs_fastapi.inbox.settling import wait_for

log = structlog.get_logger("cqrs_fastapi")

_LOOK_EVERY, _REPORT_EVERY = 0.5, 5.0
"""Seconds."""
_AT_ONCE = 8


@dataclass(slots=True)
class DueLetters:
    """Several processes may do this at once: who takes a letter up has it for a while. `report` is told every five
    seconds how many letters there are.
    """

    replaying: Replaying
    report: Callable[[dict[str, Counts]], None]
    name: str = "letters"
    _reported_at: float = -_REPORT_EVERY

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop` is set; what is in the works is finished."""
        while not stop.is_set():
            try:
                more = await self._look(stop)
                await self._tell()
            except (UnavailableError, UnknownOutcomeError) as error:
                log.warning("database_unavailable", worker=self.name, error=str(error))
                more = False
            if not more:
                await wait_for(stop, _LOOK_EVERY)

    async def _look(self, stop: asyncio.Event) -> bool:
        """Whether there may be more that are due."""
        database = self.replaying.handlings.database
        found = await database.read(partial(due, tables=database.tables, limit=_AT_ONCE))
        if found and not stop.is_set():
            await asyncio.gather(*(self._replay(one, stop) for one in found))
        return len(found) == _AT_ONCE

    async def _replay(self, letter: Letter, stop: asyncio.Event) -> None:
        """With those behind it, as long as all goes well."""
        try:
            if letter.sequence is None:
                await self.replaying.replay(letter.id, by_itself=True)
            else:
                await self.replaying.replay_key(letter.consumer, letter.sequence, stop=stop)
        except (LetterTakenError, NotFirstError, NotFoundError) as error:
            log.info("letter_taken", consumer=letter.consumer, reason=str(error))
        except ReplayFailedError:
            return  # it was logged, and the letter knows it
        except (UnavailableError, UnknownOutcomeError) as error:
            log.warning("database_unavailable", worker=self.name, error=str(error))

    async def _tell(self) -> None:
        now = asyncio.get_running_loop().time()
        if now >= self._reported_at + _REPORT_EVERY:
            self._reported_at = now
            database = self.replaying.handlings.database
            self.report(await database.read(partial(counts, tables=database.tables)))
