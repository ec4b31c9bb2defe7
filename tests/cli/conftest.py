from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAM = """
import asyncio
import dataclasses
from datetime import timedelta
from typing import Protocol
from uuid import UUID

from dependency_injector import providers

from cqrs_fastapi import (
    CQRS, Aggregate, Command, CqrsContainer, DomainError, Event, Provides, Query, Repository, StreamRequest, Tick,
    applies,
)


class Deposited(Event):
    amount: int


class Account(Aggregate):
    balance: int = 0

    @applies
    def on_deposited(self, event: Deposited) -> None:
        self.balance += event.amount


class Deposit(Command[int]):
    account_id: UUID
    amount: int


class Rate(Query[dict[str, float]]):
    currency: str


class Refuse(Command[None]):
    pass


class Rows(StreamRequest[int]):
    pass


class Rates:
    def of(self, currency: str) -> float:
        return 1.5


class NotAllowedError(DomainError):
    code = "not_allowed"


class Container(CqrsContainer):
    rates: Provides[Rates] = providers.Singleton(Rates)


cqrs = CQRS(container=Container())
numbers = [1, 2]


@cqrs.handles(Deposit)
async def deposit(command: Deposit, accounts: Repository[Account]) -> int:
    account = await accounts.get_or_new(command.account_id)
    account.record(Deposited(amount=command.amount))
    return account.balance


@cqrs.handles(Rate)
async def rate(query: Rate, rates: Rates) -> dict[str, float]:
    return {query.currency: rates.of(query.currency)}


@cqrs.handles(Refuse)
async def refuse(command: Refuse) -> None:
    raise NotAllowedError("the shop is closed")


@cqrs.job(every=timedelta(milliseconds=200), name="beat")
async def beat(tick: Tick) -> None:
    print("beat", flush=True)


@cqrs.job(every=timedelta(milliseconds=200), name="slow")
async def slow(tick: Tick) -> None:
    print("slow begins", flush=True)
    await asyncio.sleep(0.5)
    print("slow ends", flush=True)


wrong = CQRS()


@wrong.handles(Deposit)
async def deposit_without_bank(command: Deposit, rates: Rates) -> int:
    return 0
"""

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory with the module `shop`, to work in."""
    (tmp_path / "shop.py").write_text(PROGRAM)
    (tmp_path / "broken.py").write_text("import a_library_that_is_missing\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path
    sys.modules.pop("shop", None)


@pytest.fixture
def start(project: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts `cqrs` with these arguments; what still runs at the end of the test is killed."""
    running: list[subprocess.Popen[str]] = []

    def begin(*arguments: str, **environment: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "cqrs_fastapi.cli", *arguments],
            cwd=project,
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        running.append(process)
        return process

    yield begin
    for process in running:
        process.kill()
        process.communicate()
