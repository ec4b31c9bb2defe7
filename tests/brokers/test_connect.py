"""From a URL to a broker, and a sentence for every URL that leads to none."""

from __future__ import annotations

import subprocess
import sys

import pytest

from cqrs_fastapi.brokers.connect import connect
from cqrs_fastapi.brokers.kafka.config import KafkaConfig
from cqrs_fastapi.errors import ConfigurationError
from cqrs_fastapi.settings import Settings


@pytest.mark.parametrize(
    ("url", "name", "in_process"),
    [("memory://", "memory", True), ("kafka://localhost:9092,other:9093?client_id=orders", "kafka", False)],
)
def test_the_scheme_chooses_the_adapter(url: str, name: str, *, in_process: bool) -> None:
    broker = connect(url, Settings())
    assert (broker.name, broker.in_process) == (name, in_process)


@pytest.mark.parametrize("url", ["amqp://host", "sns+sqs://eu-central-1"])
def test_a_scheme_that_is_planned_says_that_it_is_not_supported_yet(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"not supported by this version; write one of: memory://"):
        connect(url, Settings())


@pytest.mark.parametrize("url", ["redis://user:secret@host", "localhost:9092", "", "kafka://[secret"])
def test_another_scheme_is_told_the_supported_ones_and_no_password(url: str) -> None:
    with pytest.raises(ConfigurationError, match="memory:// and kafka://host:9092") as caught:
        connect(url, Settings())
    assert "secret" not in str(caught.value)


def test_choosing_memory_loads_no_driver() -> None:
    program = (
        "import sys; from cqrs_fastapi.brokers.connect import connect; from cqrs_fastapi.settings import Settings; "
        "connect('memory://', Settings()); sys.exit('aiokafka' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_kafka_is_configured_by_its_url_and_topics_by_the_settings() -> None:
    url = "kafka://me:p%40ss@a:1,b:2?security_protocol=SASL_SSL&sasl_mechanism=SCRAM-SHA-256&batch=9&ack_timeout_ms=70"
    settings = Settings(topic_partitions=3, topic_replication=2, create_topics=False)
    config = KafkaConfig.parse(url, settings)
    assert (config.servers, config.username, config.password) == (("a:1", "b:2"), "me", "p@ss")
    assert (config.security_protocol, config.sasl_mechanism) == ("SASL_SSL", "SCRAM-SHA-256")
    assert (config.batch, config.ack_timeout_ms) == (9, 70)
    assert (config.partitions, config.replication, config.create_topics) == (3, 2, False)
    assert "p@ss" not in repr(config)


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("kafka://", "write: kafka://host:9092"),
        ("kafka://host", "write: kafka://host:9092"),
        ("kafka://host:http", "write: kafka://host:9092"),
        ("kafka://host:99999", "write: kafka://host:9092"),
        ("kafka://host:9092/topic", "no path"),
        ("kafka://host:9092?clientid=a", "no option 'clientid'"),
        ("kafka://host:9092?client_id=", "client_id= is empty"),
        ("kafka://host:9092?batch=-1", "no positive number"),
        ("kafka://host:9092?security_protocol=TLS", "PLAINTEXT, SSL, SASL_PLAINTEXT, SASL_SSL"),
        ("kafka://me:secret@host:9092", "security_protocol=SASL_SSL"),
        ("kafka://host:9092?security_protocol=SASL_SSL", "a user and a password"),
    ],
)
def test_a_wrong_kafka_url_is_told_what_to_write(url: str, sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=sentence) as caught:
        KafkaConfig.parse(url, Settings())
    assert "secret" not in str(caught.value)
