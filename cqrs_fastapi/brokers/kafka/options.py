"""Options of aiokafka's own, told by what its clients take."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from cqrs_fastapi.errors import ConfigurationError

PREFIX = "aiokafka."

DriverOption: TypeAlias = str | int | float | bool | None

_OURS = {
    **dict.fromkeys(
        ("bootstrap_servers", "client_id", "request_timeout_ms", "security_protocol", "ssl_context"), "the URL says it"
    ),
    **dict.fromkeys(
        ("sasl_mechanism", "sasl_plain_username", "sasl_plain_password", "sasl_oauth_token_provider"), "the URL says it"
    ),
    **dict.fromkeys(("session_timeout_ms", "max_poll_interval_ms"), "write it without the prefix"),
    **dict.fromkeys(("fetch_max_bytes", "max_partition_fetch_bytes"), "write fetch_bytes=... without the prefix"),
    **dict.fromkeys(("max_request_size", "max_batch_size"), "it follows from max_message_bytes"),
    **dict.fromkeys(("acks", "enable_idempotence", "transactional_id"), "order and delivery depend on it"),
    **dict.fromkeys(("group_id", "enable_auto_commit", "auto_offset_reset"), "order and delivery depend on it"),
    **dict.fromkeys(("isolation_level", "heartbeat_interval_ms", "rebalance_timeout_ms"), "it is set already"),
    **dict.fromkeys(("loop", "partitioner", "partition_assignment_strategy"), "it is set already"),
    **dict.fromkeys(("key_serializer", "value_serializer", "key_deserializer"), "messages are bytes here"),
    **dict.fromkeys(("value_deserializer", "consumer_timeout_ms", "max_poll_records"), "it is set already"),
    **dict.fromkeys(("metadata_max_age_ms", "linger_ms", "transaction_timeout_ms"), "it is set already"),
    "auto_commit_interval_ms": "it is set already",
}
"""What must stay as the adapter sets it, and why."""


def read_options(given: Mapping[str, str]) -> dict[str, DriverOption]:
    """Texts as what the driver's defaults are: numbers, truth or text."""
    known = _known() if given else {}
    return {name: _read(name, text, known[name]) if name in known else text for name, text in given.items()}


def check_options(given: Mapping[str, DriverOption]) -> None:
    """ConfigurationError for an option that no client of aiokafka has, or that is not the user's to choose."""
    if not given:
        return
    known = _known()
    for name in given:
        if name in _OURS:
            raise ConfigurationError(f"{PREFIX}{name} cannot be chosen: {_OURS[name]}")
        if name not in known:
            free = ", ".join(sorted(known.keys() - _OURS.keys()))
            raise ConfigurationError(f"aiokafka has no option {name!r}; it knows: {free}")


def options_for(client: Callable[..., Any], given: Mapping[str, DriverOption]) -> dict[str, DriverOption]:
    """Those that this client takes."""
    if not given:
        return {}
    taken = inspect.signature(client).parameters
    return {name: value for name, value in given.items() if name in taken}


def _known() -> dict[str, object]:
    """By name, the defaults. Only here, so that nothing but Kafka loads its driver."""
    from aiokafka import AIOKafkaConsumer, AIOKafkaProducer  # noqa: PLC0415
    from aiokafka.admin import AIOKafkaAdminClient  # noqa: PLC0415
    from aiokafka.client import AIOKafkaClient  # noqa: PLC0415

    found: dict[str, object] = {}
    for client in (AIOKafkaProducer, AIOKafkaConsumer, AIOKafkaAdminClient, AIOKafkaClient):
        for name, parameter in inspect.signature(client).parameters.items():
            if parameter.kind is not inspect.Parameter.VAR_POSITIONAL:
                found.setdefault(name, parameter.default)
    return found


def _read(name: str, text: str, default: object) -> DriverOption:
    if isinstance(default, bool):
        if text not in {"true", "false"}:
            raise ConfigurationError(f"kafka://…?{PREFIX}{name} is true or false")
        return text == "true"
    if isinstance(default, int):
        if not (text.isascii() and text.isdigit()):
            raise ConfigurationError(f"kafka://…?{PREFIX}{name} is no whole number")
        return int(text)
    return text
