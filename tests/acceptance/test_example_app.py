"""The shop as a stranger runs it: real processes, the load command, and kills in the middle."""

import contextlib
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.programs import BIN, Program, Stage, free_port, until_ready
from tools.servers.sql import create_database, drop_database

LOAD = (sys.executable, "-m", "example_app.entrypoints.load")
SERVE = (sys.executable, "-m", "example_app.entrypoints.serve")


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(
        tmp_path,
        {
            "CQRS_DATABASE_URL": f"sqlite+aiosqlite:///{tmp_path / 'shop.db'}",
            "SHIPPING_DATABASE_URL": f"sqlite+aiosqlite:///{tmp_path / 'shipping.db'}",
        },
    )


@pytest.fixture
def shipping_postgres_url(postgres_server: str) -> Iterator[str]:
    url = create_database(postgres_server)
    yield url
    drop_database(postgres_server, url)


def url(port: int) -> str:
    return f"http://127.0.0.1:{port}"


def acknowledged(journal: Path) -> int:
    return len(journal.read_text().splitlines()) if journal.exists() else 0


def until_acknowledged(journal: Path, count: int, load: Program, *, seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while acknowledged(journal) < count:
        assert time.monotonic() < deadline, f"{acknowledged(journal)} of {count} orders:\n{load.printed()}"
        time.sleep(0.02)


def test_example_app_is_served_loaded_checked_and_stopped(stage: Stage) -> None:
    port = free_port()
    with stage.running(*SERVE, "--port", str(port)) as shop:
        until_ready(shop, port)
        printed = stage.run(*LOAD, "--url", url(port), "--orders", "60")
        begin = time.monotonic()
        status = shop.stop()

    assert printed.rstrip().endswith("OK"), printed
    assert "60 of 60 orders" in printed
    assert status == 0
    assert time.monotonic() - begin < 15
    assert f"{url(port)}/docs" in shop.printed()
    assert "Traceback" not in shop.printed()


@pytest.mark.parametrize("target", ["app:app", "example_app.app:app"])
def test_plain_uvicorn_serves_it_from_a_clean_folder(stage: Stage, target: str) -> None:
    port = free_port()
    with stage.running(*stage.uvicorn(target, port)) as shop:
        until_ready(shop, port)
        printed = stage.run(*LOAD, "--url", url(port), "--orders", "15")
        shop.stop()

    assert printed.rstrip().endswith("OK"), printed
    assert "Application shutdown complete" in shop.printed()


def test_the_schema_is_made_by_alembic(stage: Stage) -> None:
    stage.run(str(BIN / "alembic"), "upgrade", "head")
    stage.run(str(BIN / "alembic"), "check")
    port = free_port()
    with stage.running(*stage.uvicorn("app:app", port)) as shop:
        until_ready(shop, port)
        shop.stop()
    stage.run(str(BIN / "alembic"), "upgrade", "head")


def test_killed_in_the_middle_of_the_load_nothing_acknowledged_is_lost_or_repeated(stage: Stage) -> None:
    """On memory:// too: the relay's row outlives the process until every group has committed its effect."""
    port, journal = free_port(), stage.folder / "journal.jsonl"
    load = (*LOAD, "--url", url(port), "--orders", "400", "--journal", str(journal), "--timeout", "20")
    with contextlib.ExitStack() as stack:
        shop = stack.enter_context(stage.running(*SERVE, "--port", str(port)))
        until_ready(shop, port)
        loading = stack.enter_context(stage.running(*load))
        until_acknowledged(journal, 60, loading)
        shop.kill()
        loading.kill()
    assert 60 <= acknowledged(journal) < 400

    with stage.running(*SERVE, "--port", str(port)) as shop:
        until_ready(shop, port)
        printed = stage.run(*LOAD, "--url", url(port), "--check-only", "--journal", str(journal), "--timeout", "60")
        assert shop.stop() == 0

    assert printed.rstrip().endswith("OK"), printed


def test_the_check_finds_an_order_that_is_not_there(stage: Stage) -> None:
    port, journal = free_port(), stage.folder / "journal.jsonl"
    with stage.running(*SERVE, "--port", str(port)) as shop:
        until_ready(shop, port)
        stage.run(*LOAD, "--url", url(port), "--orders", "5", "--journal", str(journal))
        entry = json.loads(journal.read_text().splitlines()[0])
        text = journal.read_text().replace(str(entry["order_id"]), "00000000-0000-7000-8000-000000000001")
        journal.write_text(text)
        check = (*LOAD, "--url", url(port), "--check-only", "--journal", str(journal), "--timeout", "3")
        with stage.running(*check) as checking:
            assert checking.process.wait(60) == 1
        assert "OK" not in checking.printed()


def test_two_uvicorn_workers_on_one_database_do_no_harm(stage: Stage) -> None:
    """Each worker has its own memory broker, so each must deliver what it relays to handlers of its own."""
    port = free_port()
    with stage.running(*stage.uvicorn("app:app", port, "--workers", "2")) as shop:
        until_ready(shop, port)
        printed = stage.run(*LOAD, "--url", url(port), "--orders", "40", "--timeout", "60")
        shop.stop()

    assert printed.rstrip().endswith("OK"), printed


def test_on_postgresql_and_kafka_with_shipping_and_the_workers_in_processes_of_their_own(
    tmp_path: Path, postgres_url: str, shipping_postgres_url: str, real_kafka: str
) -> None:
    stage = Stage(
        tmp_path,
        {
            "CQRS_DATABASE_URL": postgres_url,
            "SHIPPING_DATABASE_URL": shipping_postgres_url,
            "CQRS_BROKER_URL": f"kafka://{real_kafka}",
        },
    )
    stage.run(str(BIN / "alembic"), "upgrade", "head")
    stage.run(str(BIN / "alembic"), "upgrade", "head", CQRS_DATABASE_URL=shipping_postgres_url)
    port, shipping_port, journal = free_port(), free_port(), tmp_path / "journal.jsonl"
    cqrs = str(BIN / "cqrs")
    with contextlib.ExitStack() as stack:
        start = lambda *command, **environment: stack.enter_context(stage.running(*command, **environment))  # noqa: E731  # the one word of this scene
        shop = start(*stage.uvicorn("app:app", port), CQRS_RUN_IN_APP="")
        shipping = start(*stage.uvicorn("example_app.shipping.app:app", shipping_port))
        relay, consumer = start(cqrs, "relay", "app:cqrs"), start(cqrs, "consume", "app:cqrs")
        until_ready(shop, port)
        until_ready(shipping, shipping_port)
        loading = start(*LOAD, "--url", url(port), "--orders", "80", "--journal", str(journal), "--timeout", "90")
        until_acknowledged(journal, 20, loading)
        relay.kill()
        consumer.kill()
        relay, consumer = start(cqrs, "relay", "app:cqrs"), start(cqrs, "consume", "app:cqrs")
        assert loading.process.wait(150) == 0, loading.printed()
        assert (relay.stop(), consumer.stop()) == (0, 0)
        shipping.stop()
        shop.stop()

    assert loading.printed().rstrip().endswith("OK"), loading.printed()
