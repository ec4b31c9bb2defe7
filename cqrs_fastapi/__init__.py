"""CQRS, event sourcing, transactional outbox, sagas and periodic jobs for FastAPI.

Importing this package reads no environment, opens nothing and registers nothing.
"""

from __future__ import annotations

from cqrs_fastapi.clock import Clock
from cqrs_fastapi.domain.aggregate import Aggregate, state
from cqrs_fastapi.domain.applies import applies
from cqrs_fastapi.domain.decider import Decider
from cqrs_fastapi.domain.diffs import Diff
from cqrs_fastapi.domain.entities import Entity, ExternalEntity, ValueObject
from cqrs_fastapi.domain.finding.conditions import Condition
from cqrs_fastapi.domain.finding.keyset import CursorError
from cqrs_fastapi.domain.finding.ordering import Ordering
from cqrs_fastapi.domain.finding.texts import SearchError
from cqrs_fastapi.domain.refs import Ref, RefResolver, resolve_refs
from cqrs_fastapi.domain.repository import Repository
from cqrs_fastapi.domain.root_entity import DeletedError, RootEntity
from cqrs_fastapi.domain.root_events import Changed, Created, Deleted, Updated
from cqrs_fastapi.domain.root_repository import Page, RootRepository
from cqrs_fastapi.domain.sets import EntitySet, ValueObjectSet
from cqrs_fastapi.domain.snapshots import every, when_loading_takes
from cqrs_fastapi.domain.tracked import Tracked, tracked
from cqrs_fastapi.errors import (
    ConcurrencyError,
    ConfigurationError,
    CqrsError,
    DomainError,
    NotFoundError,
    UnavailableError,
    UnknownOutcomeError,
)
from cqrs_fastapi.eventstore.decisions import matching
from cqrs_fastapi.eventstore.expected_version import ANY, NO_STREAM, STREAM_EXISTS
from cqrs_fastapi.eventstore.store import EventStore
from cqrs_fastapi.mediation.behaviors import Behavior, Next
from cqrs_fastapi.mediation.event_map import EventMap
from cqrs_fastapi.mediation.event_mediator import EventMediator
from cqrs_fastapi.mediation.failure_policy import FailurePolicy
from cqrs_fastapi.mediation.fallback import CircuitBreaker, Fallback
from cqrs_fastapi.mediation.handlers import EventHandler, NextHandler, RequestHandler, StreamHandler
from cqrs_fastapi.mediation.providers import Provides
from cqrs_fastapi.mediation.request_map import RequestMap
from cqrs_fastapi.mediation.request_mediator import RequestMediator
from cqrs_fastapi.mediation.steering import DeadLetter, Discard, RetryLater
from cqrs_fastapi.messages.envelopes.cloud_events import CloudEvents
from cqrs_fastapi.messages.envelopes.codecs import Codec
from cqrs_fastapi.messages.envelopes.envelope import Envelope
from cqrs_fastapi.messages.envelopes.foreign import Foreign
from cqrs_fastapi.messages.envelopes.native import Native
from cqrs_fastapi.messages.events import AnyEvent, ECSTEvent, Event, NotificationEvent
from cqrs_fastapi.messages.forms import command, event, query
from cqrs_fastapi.messages.metadata import Metadata
from cqrs_fastapi.messages.personal import Personal, PersonalData
from cqrs_fastapi.messages.received_message import ReceivedMessage
from cqrs_fastapi.messages.requests import Command, Query, Request, StreamRequest
from cqrs_fastapi.messages.upcasters import Upcast, upcasts
from cqrs_fastapi.outbox.outbox import Outbox
from cqrs_fastapi.outbox.routing import Route
from cqrs_fastapi.personal_data.placeholders import is_forgotten
from cqrs_fastapi.projections.projection import Projection, on
from cqrs_fastapi.remote.answers import Answer, Replies
from cqrs_fastapi.remote.client import BrokerClient
from cqrs_fastapi.remote.errors import RemoteFailedError, RemoteRefusedError, RemoteUnknownOutcomeError
from cqrs_fastapi.remote.refs import BrokerRefResolver
from cqrs_fastapi.remote.reply_headers import ReplyHeaders
from cqrs_fastapi.remote.router import BrokerRouter
from cqrs_fastapi.runtime.container import CqrsContainer
from cqrs_fastapi.scheduling.tick import Tick
from cqrs_fastapi.settings import Settings
from cqrs_fastapi.unit_of_work.unit_of_work import UnitOfWork
from cqrs_fastapi.web.dependencies import EventMediatorDep, MediatorDep, event_mediator, mediator
from cqrs_fastapi.web.extension import CQRS

__all__ = [
    "ANY",
    "CQRS",
    "NO_STREAM",
    "STREAM_EXISTS",
    "Aggregate",
    "Answer",
    "AnyEvent",
    "Behavior",
    "BrokerClient",
    "BrokerRefResolver",
    "BrokerRouter",
    "Changed",
    "CircuitBreaker",
    "Clock",
    "CloudEvents",
    "Codec",
    "Command",
    "ConcurrencyError",
    "Condition",
    "ConfigurationError",
    "CqrsContainer",
    "CqrsError",
    "Created",
    "CursorError",
    "DeadLetter",
    "Decider",
    "Deleted",
    "DeletedError",
    "Diff",
    "Discard",
    "DomainError",
    "ECSTEvent",
    "Entity",
    "EntitySet",
    "Envelope",
    "Event",
    "EventHandler",
    "EventMap",
    "EventMediator",
    "EventMediatorDep",
    "EventStore",
    "ExternalEntity",
    "FailurePolicy",
    "Fallback",
    "Foreign",
    "MediatorDep",
    "Metadata",
    "Native",
    "Next",
    "NextHandler",
    "NotFoundError",
    "NotificationEvent",
    "Ordering",
    "Outbox",
    "Page",
    "Personal",
    "PersonalData",
    "Projection",
    "Provides",
    "Query",
    "ReceivedMessage",
    "Ref",
    "RefResolver",
    "RemoteFailedError",
    "RemoteRefusedError",
    "RemoteUnknownOutcomeError",
    "Replies",
    "ReplyHeaders",
    "Repository",
    "Request",
    "RequestHandler",
    "RequestMap",
    "RequestMediator",
    "RetryLater",
    "RootEntity",
    "RootRepository",
    "Route",
    "SearchError",
    "Settings",
    "StreamHandler",
    "StreamRequest",
    "Tick",
    "Tracked",
    "UnavailableError",
    "UnitOfWork",
    "UnknownOutcomeError",
    "Upcast",
    "Updated",
    "ValueObject",
    "ValueObjectSet",
    "applies",
    "command",
    "event",
    "event_mediator",
    "every",
    "is_forgotten",
    "matching",
    "mediator",
    "on",
    "query",
    "resolve_refs",
    "state",
    "tracked",
    "upcasts",
    "when_loading_takes",
]
