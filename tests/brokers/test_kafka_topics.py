"""The topics of an application, checked against its settings and created, on a real Kafka."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from typer.testing import CliRunner

from cqrs_fastapi import CQRS, Event, Settings
from cqrs_fastapi.cli.main import app

pytestmark = pytest.mark.anyio


def application(kafka: str, topic: str, **changed: object) -> CQRS:
    class Told(Event, topic=topic):
        pass

    given = {"broker_url": f"kafka://{kafka}", "topic_partitions": 2, "create_topics": False, **changed}
    settings = Settings.model_validate(given)
    cqrs = CQRS(settings=settings)
    cqrs.register(Told)
    return cqrs


async def make(kafka: str, name: str, partitions: int, **configs: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await admin.start()
    named = {key.replace("_", "."): value for key, value in configs.items()}
    await admin.create_topics([NewTopic(name, partitions, 1, topic_configs=named)])
    await admin.close()


async def test_a_missing_topic_is_told_created_and_then_as_it_should_be(real_kafka: str) -> None:
    name = f"topic-{uuid4().hex}"
    topics = application(real_kafka, name, topic_prefix="staging.").topics
    [problem] = await topics.check()
    assert (problem.topic, problem.sentence) == (name, f"staging.{name} does not exist; run: cqrs topics create")
    assert await topics.create() == [name]
    assert await topics.create() == []
    assert await topics.check() == []
    [missing] = await topics.check([f"more-{name}"])
    assert missing.topic == f"more-{name}"


async def test_everything_that_differs_from_the_settings_is_told_with_what_to_do(real_kafka: str) -> None:
    name = f"topic-{uuid4().hex}"
    await make(real_kafka, name, 3, retention_ms=str(30 * 86_400_000), max_message_bytes="10000")
    sentences = [problem.sentence for problem in await application(real_kafka, name).topics.check()]
    assert len(sentences) == 3
    assert "3 partitions and the settings say 2" in sentences[0]
    assert "keeps messages for 30 days, 0:00:00, and inboxes remember them for 14 days" in sentences[1]
    assert "takes 10000 bytes, and an event may have 900000" in sentences[2]
    longer = application(real_kafka, name, retention=timedelta(days=31), max_event_bytes=9_000, topic_partitions=3)
    assert await longer.topics.check() == []


@pytest.mark.parametrize("configs", [{"retention_ms": "-1"}, {"cleanup_policy": "compact"}])
async def test_a_topic_that_keeps_for_ever_outlives_every_inbox(real_kafka: str, configs: dict[str, str]) -> None:
    name = f"topic-{uuid4().hex}"
    await make(real_kafka, name, 2, **configs)
    [problem] = await application(real_kafka, name).topics.check()
    assert "keeps messages for ever" in problem.sentence


def test_the_command_ends_with_status_1_while_something_is_wrong(
    real_kafka: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"topic-{uuid4().hex}"
    lines = ("from cqrs_fastapi import CQRS, Event", f"class T(Event, topic={name!r}): ...", "cqrs = CQRS()")
    program = "\n".join([*lines, "cqrs.register(T)"])
    (tmp_path / f"app_{name[-8:]}.py").write_text(program)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("CQRS_BROKER_URL", f"kafka://{real_kafka}")
    target = f"app_{name[-8:]}:cqrs"

    def run(*arguments: str) -> tuple[int, str]:
        done = CliRunner().invoke(app, ["topics", *arguments])
        return done.exit_code, done.output

    assert run("check", target) == (1, f"{name} does not exist; run: cqrs topics create\n")
    assert run("create", target) == (0, f"created {name}\n1 topics created\n")
    assert run("check", target) == (0, "1 topics are as they should be\n")
    assert run("create", target, "--topic", f"{name}-raw")[1].startswith(f"created {name}-raw")
