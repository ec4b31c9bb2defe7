"""The services of the compose file, run as processes: its commands, its environment, its order, its health check.

Hosts and ports alone are rewritten, to the PostgreSQL and the Kafka of the tests. The library is the unpacked wheel of
the first stage, and the working directory has what the last stage copies, so that nothing else of the checkout helps.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import subprocess
import sys
import time
import tomllib
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from aiokafka.admin import AIOKafkaAdminClient
from container_files import PORT, ROOT, environment, health_check, in_order_of_start, of_ours, services
from sqlalchemy import make_url

from tools.servers.ports import LOOPBACK, free_port, listening
from tools.servers.sql import create_database, drop_database, with_driver

HEALTHY_WITHIN = 60.0
SHIPPED_WITHIN = 60.0
TOPICS = ("shop.orders", "shipping.shipments")

pytestmark = pytest.mark.timeout(300)


@dataclass(slots=True)
class Stack:
    """The services of ours. `databases` are URLs by the name that the compose file knows them by."""

    image: Path
    site: Path
    databases: Mapping[str, str]
    kafka: str
    service: str
    ports: dict[str, int] = field(default_factory=dict)
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def up(self) -> None:
        """Start everything in the order of its conditions."""
        for name in in_order_of_start():
            described = services()[name]
            if not of_ours(described):
                continue
            if "service_completed_successfully" in self._waits_for(name):
                assert self._spawn(name).wait(timeout=60) == 0, self.log(name)
                del self.running[name]
            else:
                self.ports[name] = free_port()
                self._spawn(name)
        for name in self.running:
            self.eventually(partial(self.is_healthy, name), HEALTHY_WITHIN)

    def down(self) -> dict[str, int]:
        """SIGTERM to all, as an engine sends it; how each ended."""
        for process in self.running.values():
            process.send_signal(signal.SIGTERM)
        return {name: process.wait(timeout=30) for name, process in self.running.items()}

    def is_healthy(self, name: str) -> bool:
        """Whether the image's HEALTHCHECK succeeds in this container."""
        assert self.running[name].poll() is None, f"{name} has ended:\n{self.log(name)}"
        command = [sys.executable, *(word.replace(f":{PORT}/", f":{self.ports[name]}/") for word in health_check()[1:])]
        return subprocess.run(command, check=False, capture_output=True).returncode == 0

    def execute(self, name: str, command: list[str]) -> str:
        """A further command in a container, with its environment."""
        done = subprocess.run(
            self._rewritten(name, command), cwd=self.image, env=self._environment(name), check=True, capture_output=True
        )
        return done.stdout.decode()

    def call(self, name: str, method: str, path: str, body: object = None) -> Any:
        request = urllib.request.Request(  # an address of ours
            f"http://{LOOPBACK}:{self.ports[name]}{path}",
            None if body is None else json.dumps(body).encode(),
            {"Content-Type": "application/json"},
            method=method,
        )
        with urllib.request.urlopen(request, timeout=15) as answer:  # noqa: S310  # see above
            content = answer.read()
        return json.loads(content) if content else None

    def eventually(self, condition: Callable[[], bool], seconds: float) -> None:
        end = time.monotonic() + seconds
        while not _holds(condition):
            logs = "\n".join(f"--- {name}\n{self.log(name)}" for name in self.running)
            assert time.monotonic() < end, f"not within {seconds:g} s\n{logs}"
            time.sleep(0.2)

    def log(self, name: str) -> str:
        return self._log_file(name).read_text()[-4000:]

    def _waits_for(self, name: str) -> set[str]:
        """The conditions by which others wait for this one."""
        needs = (service.get("depends_on", {}) for service in services().values())
        return {found[name]["condition"] for found in needs if name in found}

    def _spawn(self, name: str) -> subprocess.Popen[bytes]:
        with self._log_file(name).open("wb") as log:
            self.running[name] = process = subprocess.Popen(
                self._rewritten(name, services()[name]["command"]),
                cwd=self.image,
                env=self._environment(name),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        return process

    def _log_file(self, name: str) -> Path:
        return self.image.parent / f"{name}.log"

    def _rewritten(self, name: str, command: list[str]) -> list[str]:
        places = {"0.0.0.0": LOOPBACK, str(PORT): str(self.ports.get(name, PORT))}  # noqa: S104  # replaced, not bound
        return [*_program(command[0]), *(places.get(word, word) for word in command[1:])]

    def _environment(self, name: str) -> dict[str, str]:
        """What the compose file says, and nothing else of this process but the paths."""
        said = {key: self._place(key, value) for key, value in environment(services()[name]).items()}
        return {"PATH": os.environ["PATH"], "PYTHONPATH": str(self.site), "PYTHONDONTWRITEBYTECODE": "1", **said}

    def _place(self, key: str, value: str) -> str:
        if value.startswith("postgresql") and (url := make_url(value)).host == "postgres":
            return self.databases[url.database or ""]
        if value == "kafka://kafka:9092":
            return f"kafka://{self.kafka}"
        return self.service if key == "CQRS_SERVICE" else value


def _program(name: str) -> list[str]:
    """A command of the image: that of the project by its entry point, others from beside this Python."""
    scripts: dict[str, str] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    if name not in scripts:
        return [str(Path(sys.executable).with_name(name))]
    module, _, function = scripts[name].partition(":")
    return [sys.executable, "-c", f"from {module} import {function}; {function}()"]


def _holds(condition: Callable[[], bool]) -> bool:
    try:
        return condition()
    except (OSError, urllib.error.URLError):  # not there yet
        return False


async def _delete_what_others_left(bootstrap: str) -> None:
    """The topics have fixed names and the broker is shared: those of other tests go, with their messages."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        while left := sorted(set(TOPICS) & set(await admin.list_topics())):
            await admin.delete_topics(left)
            await asyncio.sleep(0.2)
    finally:
        await admin.close()


@contextmanager
def _databases(server: str) -> Iterator[dict[str, str]]:
    made = {name: create_database(server) for name in ("shop", "shipping")}
    try:
        yield {name: with_driver(url) for name, url in made.items()}
    finally:
        for url in made.values():
            drop_database(server, url)


@pytest.fixture
def stack(image: Path, installed: Path, postgres_server: str, real_kafka: str) -> Iterator[Stack]:
    service = f"shop-{secrets.token_hex(4)}"
    asyncio.run(_delete_what_others_left(real_kafka))
    with _databases(postgres_server) as databases:
        made = Stack(image, installed, databases, real_kafka, service)
        try:
            yield made
        finally:
            for process in made.running.values():
                process.kill()
                process.wait(timeout=10)


def test_the_wheel_holds_what_the_services_need(installed: Path) -> None:
    package = installed / "cqrs_fastapi"
    assert (package / "py.typed").exists()
    assert list((package / "storage" / "migrations" / "versions").glob("r0001_*.py"))
    assert not list(installed.glob("tests*")) + list(installed.glob("example_app*"))


def test_containers_run_as_processes_until_an_order_has_shipped_and_all_of_them_stop(stack: Stack) -> None:
    stack.up()
    order = _place_and_pay(stack)

    stack.eventually(lambda: stack.call("app", "GET", f"/orders/{order}")["status"] == "shipped", SHIPPED_WITHIN)
    overview = stack.call("app", "GET", f"/orders/{order}")
    shipment = stack.call("shipping", "GET", f"/shipments/{order}")
    history = stack.call("app", "GET", f"/orders/{order}/history")
    letters = json.loads(stack.execute("app", ["cqrs", "dead-letters", "list", "app:cqrs", "--json"]))
    workers = {name: _workers(stack, name) for name in stack.running}
    ended = stack.down()

    assert overview["changes"] == 3  # placed, paid, shipped: each was projected once
    assert overview["tracking"] == shipment["tracking"]
    assert [entry["event"] for entry in history] == ["order.placed", "order.paid", "order.shipped"]
    assert letters == []
    assert workers == {
        "app": {"dead letters"},
        "relay": {"relay", "outbox", "dead letters"},
        "consumer": {"consumer", "offsets", "dead letters"},
        "scheduler": {"scheduler", "dead letters"},
        "shipping": {"relay", "outbox", "consumer", "offsets", "scheduler", "dead letters"},
    }
    # uvicorn ends by the signal itself once it has drained, the commands with status 0.
    web, command = -signal.SIGTERM, 0
    assert ended == {"app": web, "shipping": web, "relay": command, "consumer": command, "scheduler": command}
    assert not [name for name, port in stack.ports.items() if listening(LOOPBACK, port)]
    assert not [name for name in stack.running if "Traceback" in stack.log(name)]


def _place_and_pay(stack: Stack) -> UUID:
    address = {"recipient": "Ada Lovelace", "street": "1 Main Street", "city": "London", "country": "GB"}
    customer = stack.call("app", "POST", "/customers", {"name": "Ada", "email": "ada@example.org", "address": address})
    product = stack.call(
        "app", "POST", "/products", {"sku": "ENGINE-1", "title": "Engine", "price": {"cents": 1250}, "stock": 3}
    )
    items = [{"product_id": product["product_id"], "quantity": 2}]
    made = stack.call("app", "POST", "/orders", {"customer_id": customer["customer_id"], "items": items})
    stack.call("app", "POST", f"/orders/{made['order_id']}/payment", {})
    return UUID(made["order_id"])


def _workers(stack: Stack, name: str) -> set[str]:
    """Those that the readiness of a process tells of."""
    checks = stack.call(name, "GET", "/health/ready")["checks"]
    return {check["name"] for check in checks} - {"database", "broker", "topics", "subscriptions"}
