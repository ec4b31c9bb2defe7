"""Testing: a stranger's project with the fixtures, run by pytest as its author would."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = """
import pytest

from cqrs_fastapi import CQRS
from shop import make_cqrs

pytest_plugins = ["cqrs_fastapi.testing.fixtures"]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def cqrs() -> CQRS:
    return make_cqrs()
"""
SHOP = """
from cqrs_fastapi import CQRS, Command, Event, UnitOfWork


class Mailer:
    async def send(self, text: str) -> None:
        raise RuntimeError("a test sent a real letter")


class Ordered(Event, topic="orders"):
    item: str


class Order(Command[None]):
    item: str


def make_cqrs() -> CQRS:
    from dependency_injector import providers

    from cqrs_fastapi import CqrsContainer, Provides

    class Container(CqrsContainer):
        mailer: Provides[Mailer] = providers.Singleton(Mailer)

    cqrs = CQRS(container=Container())

    @cqrs.handles(Order)
    async def order(command: Order, unit: UnitOfWork) -> None:
        unit.publish(Ordered(item=command.item))

    @cqrs.on(Ordered)
    async def write(event: Ordered, mailer: Mailer) -> None:
        await mailer.send(event.item)

    return cqrs
"""
TEST = """
import pytest

from cqrs_fastapi.testing import Harness
from shop import Mailer, Order, Ordered

pytestmark = pytest.mark.anyio


class Fake(Mailer):
    def __init__(self) -> None:
        self.sent: list[str] = []

    async def send(self, text: str) -> None:
        self.sent.append(text)


async def test_an_order_is_published_and_confirmed(harness: Harness) -> None:
    with harness.cqrs.override(Mailer).by(fake := Fake()):
        await harness.send(Order(item="tea"))
        await harness.settle()
    assert fake.sent == ["tea"]
    assert harness.published_events("orders") == [Ordered(item="tea")]


async def test_without_the_double_it_fails(harness: Harness) -> None:
    await harness.send(Order(item="tea"))
    await harness.settle()
"""


@pytest.mark.parametrize("on", ["sqlite", "postgresql"])
def test_testing_by_harness_and_fixtures_in_a_project_of_somebody_else(
    tmp_path: Path, on: str, request: pytest.FixtureRequest
) -> None:
    for name, text in (("conftest.py", CONFTEST), ("shop.py", SHOP), ("test_shop.py", TEST)):
        (tmp_path / name).write_text(text)
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join([str(tmp_path), *sys.path]), CQRS_HANDLER_ATTEMPTS="1")
    if on == "postgresql":
        environment["TEST_DATABASE_URL"] = str(request.getfixturevalue("postgres_server"))
    ended = subprocess.run(
        (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_shop.py"),
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert "1 failed, 1 passed" in ended.stdout, ended.stdout + ended.stderr
    assert "a test sent a real letter" in ended.stdout
    assert "FAILED test_shop.py::test_without_the_double_it_fails" in ended.stdout
    assert not list(tmp_path.glob("*.db"))
