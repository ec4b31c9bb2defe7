"""The Dockerfile and the compose file hold what containers are expected to hold; nothing is run here."""

from __future__ import annotations

import re

import pytest
from container_files import (
    PORT,
    ROOT,
    dockerfile,
    environment,
    health_check,
    in_order_of_start,
    is_in_context,
    last_stage,
    of,
    of_ours,
    services,
)

from cqrs_fastapi import Settings

OURS = [name for name, service in services().items() if of_ours(service)]
ONE_SHOT = ["migrate", "migrate-shipping"]
VERSIONED = re.compile(r"[a-z0-9./-]+:\d[\w.-]*")


def conditions(name: str) -> dict[str, str]:
    return {needed: how["condition"] for needed, how in services()[name].get("depends_on", {}).items()}


def test_the_image_is_built_in_two_stages_on_one_pinned_base() -> None:
    bases = [one.text.split()[0] for one in of("FROM")]
    assert bases == ["python:3.11-slim", "python:3.11-slim"]


def test_the_image_runs_as_a_user_that_is_not_root_and_is_given_by_number() -> None:
    (user,) = of("USER")
    assert user.stage == last_stage()
    assert all(int(part) > 0 for part in user.text.split(":"))
    after = dockerfile()[dockerfile().index(user) :]
    assert not [one for one in after if one.name in {"RUN", "COPY"}]


def test_what_is_copied_exists_and_is_not_ignored() -> None:
    sources = [source for copy in of("COPY") for source in copy.sources]
    assert {"cqrs_fastapi", "example_app", "alembic", "alembic.ini", "app.py"} <= set(sources)
    for source in sources:
        name = source.removeprefix("./")
        assert (ROOT / name).exists(), source
        assert is_in_context(name), source


@pytest.mark.parametrize(
    "path", [".git/config", ".env", "tests/conftest.py", "cqrs_fastapi/__pycache__", "example_app/a.pyc", "cqrs.db"]
)
def test_what_no_image_needs_stays_outside_of_the_context(path: str) -> None:
    assert not is_in_context(path)


def test_commands_are_in_exec_form_so_that_signals_reach_them() -> None:
    assert all(one.text.startswith("[") for one in of("CMD"))
    assert health_check()[0] == "python"
    assert not of("ADD")
    assert not of("ENTRYPOINT")


def test_there_is_a_service_for_each_part() -> None:
    expected = {"postgres", "kafka", "migrate", "app", "relay", "consumer", "shipping"}
    assert expected <= services().keys()


@pytest.mark.parametrize("name", services())
def test_images_name_a_version_and_never_the_latest(name: str) -> None:
    assert VERSIONED.fullmatch(services()[name]["image"])


@pytest.mark.parametrize("name", ["postgres", "kafka"])
def test_servers_tell_their_health(name: str) -> None:
    assert services()[name]["healthcheck"]["test"][0] == "CMD"


@pytest.mark.parametrize("name", ["app", "relay", "consumer", "scheduler"])
def test_the_shop_waits_for_its_tables_and_for_kafka(name: str) -> None:
    assert conditions(name) == {"migrate": "service_completed_successfully", "kafka": "service_healthy"}


def test_shipping_waits_for_its_tables_and_for_kafka() -> None:
    expected = {"migrate-shipping": "service_completed_successfully", "kafka": "service_healthy"}
    assert conditions("shipping") == expected


@pytest.mark.parametrize("name", ONE_SHOT)
def test_migrations_wait_for_the_database_and_have_no_health(name: str) -> None:
    assert services()[name]["command"] == ["alembic", "upgrade", "head"]
    assert services()[name]["healthcheck"] == {"disable": True}
    assert conditions(name) == {"postgres": "service_healthy"}


def test_no_service_waits_for_itself() -> None:
    assert sorted(in_order_of_start()) == sorted(services())


def test_no_worker_runs_inside_of_the_shop() -> None:
    assert environment(services()["app"])["CQRS_RUN_IN_APP"] == ""
    assert "CQRS_RUN_IN_APP" not in environment(services()["shipping"])


def test_the_processes_of_the_shop_agree_on_where_things_are() -> None:
    shared = ("CQRS_SERVICE", "CQRS_DATABASE_URL", "CQRS_BROKER_URL")
    said = {tuple(environment(services()[name])[key] for key in shared) for name in ("app", "relay", "consumer")}
    assert len(said) == 1


def test_the_two_services_have_databases_of_their_own() -> None:
    shop = environment(services()["app"])["CQRS_DATABASE_URL"]
    shipping = environment(services()["shipping"])["SHIPPING_DATABASE_URL"]
    assert shop != shipping
    assert environment(services()["migrate-shipping"])["CQRS_DATABASE_URL"] == shipping


@pytest.mark.parametrize("name", OURS)
def test_every_variable_is_a_setting(name: str) -> None:
    ours = {f"CQRS_{field.upper()}" for field in Settings.model_fields}
    named = {key for key in environment(services()[name]) if key.startswith("CQRS_")}
    assert named <= ours


def test_there_is_no_secret_but_a_development_password() -> None:
    values = [value for service in services().values() for value in environment(service).values()]
    passwords = {found for value in values for found in re.findall(r"://[^:/@]+:([^@]+)@", value)}
    secrets = {
        value
        for service in services().values()
        for key, value in environment(service).items()
        if re.search(r"PASSWORD|SECRET|TOKEN|_KEY$", key)
    }
    assert passwords | secrets == {"development"}


def test_only_web_faces_are_published_and_only_to_this_machine() -> None:
    published = {name: service["ports"] for name, service in services().items() if "ports" in service}
    assert published == {"app": [f"127.0.0.1:8000:{PORT}"], "shipping": [f"127.0.0.1:8001:{PORT}"]}


@pytest.mark.parametrize("name", OURS)
def test_containers_may_do_little(name: str) -> None:
    service = services()[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not service.get("privileged", False)
    assert "user" not in service  # that of the image


@pytest.mark.parametrize("name", OURS)
def test_a_container_has_twice_the_time_of_a_drain_to_stop(name: str) -> None:
    seconds = int(services()[name]["stop_grace_period"].removesuffix("s"))
    assert seconds > 2 * Settings().drain_timeout.total_seconds()


@pytest.mark.parametrize("name", [name for name in OURS if name not in ONE_SHOT])
def test_every_process_that_stays_answers_the_health_check_of_the_image(name: str) -> None:
    command = services()[name]["command"]
    assert command[command.index("--port") + 1] == str(PORT)
    assert f"127.0.0.1:{PORT}/health/ready" in health_check()[-1]
    assert "healthcheck" not in services()[name]
