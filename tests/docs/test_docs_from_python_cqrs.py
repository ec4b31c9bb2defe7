"""Whoever comes from python-cqrs finds each of its names, once."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "from-python-cqrs.md"

NAMES = [
    "Binary16",
    "Compressor",
    "Container",
    "ContextT",
    "CoRMermaid",
    "DCDomainEvent",
    "DCEvent",
    "DCNotificationEvent",
    "DCRequest",
    "DCResponse",
    "DIContainer",
    "DeserializeProtobufError",
    "DialectAwareType",
    "DialectTypeHandler",
    "DomainEvent",
    "Event",
    "EventCodec",
    "EventEmitter",
    "EventHandler",
    "EventHandlerFallback",
    "EventMap",
    "EventMediator",
    "EventProducer",
    "EventSerializer",
    "EventStatus",
    "ICircuitBreaker",
    "IDomainEvent",
    "IEvent",
    "INotificationEvent",
    "IRequest",
    "IResponse",
    "InboxMessage",
    "InboxMessageMap",
    "InboxProcessor",
    "InboxRepository",
    "InboxStatus",
    "JSONType",
    "JsonEventSerializer",
    "NotificationEvent",
    "OutboxedEvent",
    "OutboxedEventMap",
    "OutboxedEventRepository",
    "PayloadBinary",
    "ProtobufDeserializer",
    "ProtobufEventSerializer",
    "PydanticDomainEvent",
    "PydanticEvent",
    "PydanticNotificationEvent",
    "PydanticRequest",
    "PydanticResponse",
    "Request",
    "RequestHandler",
    "RequestHandlerFallback",
    "RequestMap",
    "RequestMediator",
    "Resp",
    "Response",
    "Saga",
    "SagaMap",
    "SagaMediator",
    "SagaMermaid",
    "SagaStepHandler",
    "SagaStepResult",
    "ScopeAwareContainer",
    "ScopeStrategy",
    "SqlAlchemyInboxRepository",
    "SqlAlchemyOutboxedEventRepository",
    "SqlModelInboxRepository",
    "SqlModelOutboxedEventRepository",
    "StreamingRequestHandler",
    "StreamingRequestMediator",
    "SupportsScope",
    "UUIDBinary",
    "ZlibCompressor",
    "bind_scope",
    "current_container",
    "enter_scope",
    "rebind_inbox_model",
    "rebind_outbox_model",
]
"""`cqrs.__all__` of python-cqrs 5.3.0."""


def left_cells() -> list[str]:
    """What the tables say about the other library, and the list of what there is nothing for."""
    text = PAGE.read_text()
    rows = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    return [*rows, text.partition("Not in this version: ")[2]]


@pytest.mark.parametrize("name", NAMES)
def test_each_name_has_its_place(name: str) -> None:
    places = [cell for cell in left_cells() if re.search(rf"`{name}`", cell)]
    assert len(places) == 1, f"{name}: {places}"
