"""The tree of errors. Each has a stable code, listed in docs/errors.md; none knows HTTP.

CqrsError
 ├─ ConfigurationError            found at start-up: what is wrong and what to write instead
 │   ├─ RegistrationError         several wrong registrations, numbered in one message
 │   ├─ MissingExtraError         an optional dependency is not installed
 │   ├─ SchemaBehindError         the database is not at the head of the migrations
 │   │   └─ SchemaAheadError      newer code has migrated it
 │   ├─ SchemaMismatchError       the tables are not what the migrations make
 │   └─ NotRunningError           used before start or after stop
 ├─ MessageError                  a message that cannot be understood
 │   ├─ UnknownMessageError
 │   ├─ MalformedMessageError
 │   └─ MessageTooLargeError
 ├─ MediationError                a request that cannot be dispatched
 │   ├─ HandlerNotFoundError
 │   ├─ ScopeClosedError
 │   └─ ReadOnlyError
 ├─ ConcurrencyError              somebody else wrote the stream first
 ├─ StreamTruncatedError          what was asked for is gone; a summary stands for it
 ├─ AheadOfStoreError             a version or position that the store has not reached
 ├─ SearchError                   what cannot be searched for
 ├─ DomainError                   the base of the users' own refusals
 │   └─ NotFoundError
 │       └─ StreamDeletedError    a tombstone: its name is never used again
 ├─ UnavailableError              a database or broker that may come back: nothing was written
 │   └─ OverloadedError
 └─ UnknownOutcomeError           the commit was sent and its answer was lost
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import ClassVar


class CqrsError(Exception):
    """The root: catching it catches everything this library raises on purpose."""

    code: ClassVar[str] = "cqrs_error"


class ConfigurationError(CqrsError):
    """Raised at start-up, before anything is served."""

    code = "configuration"


class RegistrationError(ConfigurationError):
    """All wrong registrations at once, so that a start-up is repaired in one go."""

    code = "registration"

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        numbered = "\n".join(f"  {number}. {problem}" for number, problem in enumerate(self.problems, start=1))
        noun = "registration is" if len(self.problems) == 1 else "registrations are"
        super().__init__(f"{len(self.problems)} {noun} wrong:\n{numbered}")


class MissingExtraError(ConfigurationError):
    """A feature was asked for whose optional dependency is not installed."""

    code = "missing_extra"

    def __init__(self, *, feature: str, extra: str) -> None:
        self.extra = extra
        super().__init__(f"{feature} needs an optional dependency; run: pip install 'cqrs-fastapi[{extra}]'")


class SchemaBehindError(ConfigurationError):
    """The database lacks migrations. Nothing but SQLite is ever migrated unasked."""

    code = "schema_behind"

    def __init__(self, *, found: str | None, expected: str) -> None:
        self.found, self.expected = found, expected
        state = "has no cqrs_fastapi tables" if found is None else f"is at revision {found}"
        super().__init__(f"the database {state}, the code expects {expected}; run: alembic upgrade head")


class NotRunningError(ConfigurationError):
    """The application was used before it was started or after it was stopped."""

    code = "not_running"


class MessageError(CqrsError):
    """A message that cannot be understood; its raw bytes are kept by whoever received it."""

    code = "message"


class UnknownMessageError(MessageError):
    """A (name, version) that the registry does not hold."""

    code = "unknown_message"

    def __init__(self, *, name: str, version: int) -> None:
        self.name, self.version = name, version
        super().__init__(
            f"no message {name!r} version {version} is registered; bind a handler for it or call cqrs.register(...)"
        )


class MalformedMessageError(MessageError):
    """Bytes that are not what their headers say."""

    code = "malformed_message"


class MessageTooLargeError(MessageError):
    """Refused before anything was written or decoded. Sizes are bytes."""

    code = "message_too_large"

    def __init__(self, *, what: str, size: int, limit: int, unit: str = "bytes") -> None:
        self.size, self.limit = size, limit
        super().__init__(f"{what} has {size} {unit}, the limit is {limit}; send less, or raise the limit in Settings")


class MediationError(CqrsError):
    """A request that could not be dispatched."""

    code = "mediation"


class HandlerNotFoundError(MediationError):
    """Nothing is bound for this type of request."""

    code = "handler_not_found"

    def __init__(self, request_type: type) -> None:
        self.request_type = request_type
        name = request_type.__name__
        super().__init__(f"no handler is bound for {name}; write: requests.bind({name}, your_handler)")


class ScopeClosedError(MediationError):
    """Something that belonged to a finished unit of work was used again."""

    code = "scope_closed"


class ReadOnlyError(MediationError):
    """A query recorded an event or sent a command."""

    code = "read_only"


class ConcurrencyError(CqrsError):
    """The stream is not at the version the decision was based on. Nothing was written; decide again."""

    code = "concurrency"

    def __init__(self, *, stream: str, expected: str, actual: int, retryable: bool = True) -> None:
        self.stream, self.expected, self.actual = stream, expected, actual
        self.retryable = retryable
        """False where the caller named the version: deciding again cannot help."""
        super().__init__(f"stream {stream!r} was expected at {expected} and is at version {actual}")


class StreamClosedError(CqrsError):
    """The stream was archived or deleted, and takes no more events. Nothing was written."""

    code = "stream_closed"

    def __init__(self, stream: str) -> None:
        self.stream = stream
        super().__init__(f"stream {stream!r} is archived or deleted and takes no events; restore it, or use another")


class IdempotencyKeyReusedError(CqrsError):
    """The key was used before, for a command with another content. Nothing was done."""

    code = "idempotency_key_reused"

    def __init__(self, command: str, key: str) -> None:
        super().__init__(f"the idempotency key {key!r} was used for another {command}; each order has a key of its own")


class DomainError(CqrsError):
    """The base of an application's own refusals. Subclasses set `code`, which clients may rely on."""

    code = "domain"


class NotFoundError(DomainError):
    """The aggregate asked for has no events."""

    code = "not_found"

    def __init__(self, *, kind: str, identifier: str) -> None:
        self.kind, self.identifier = kind, identifier
        super().__init__(f"{kind} {identifier} does not exist")


class UnavailableError(CqrsError):
    """A database or broker does not answer. Nothing was written; it may be tried again."""

    code = "unavailable"


class OverloadedError(UnavailableError):
    """More units of work were running than Settings allow; this one was not begun."""

    code = "overloaded"


class UnknownOutcomeError(CqrsError):
    """The commit was sent and its answer never came: it may have happened. Retry only with an idempotency key."""

    code = "unknown_outcome"


class SchemaAheadError(SchemaBehindError):
    """The database was migrated by newer code. Refused like one that is behind: what it means is not known here."""

    code = "schema_ahead"

    def __init__(self, *, found: str, expected: str) -> None:
        self.found, self.expected = found, expected
        ConfigurationError.__init__(
            self,
            f"the database is at revision {found}, which this code does not know (its head is {expected}); "
            "install the version of cqrs-fastapi that migrated it, or a newer one",
        )


class SchemaMismatchError(ConfigurationError):
    """The tables differ from what the migrations make: somebody changed them by hand."""

    code = "schema_mismatch"

    def __init__(self, differences: Sequence[str]) -> None:
        self.differences = tuple(differences)
        listed = "\n".join(f"  {number}. {difference}" for number, difference in enumerate(self.differences, start=1))
        super().__init__(
            f"the framework's tables are not as its migrations make them:\n{listed}\nundo these changes by hand"
        )


class StreamDeletedError(NotFoundError):
    """The stream had events and is a tombstone now; its name is never used again."""

    code = "stream_deleted"

    def __init__(self, *, stream: str, deleted_at: datetime) -> None:
        self.stream, self.deleted_at = stream, deleted_at
        self.kind, self.identifier = "stream", stream
        DomainError.__init__(
            self,
            f"stream {stream!r} was deleted at {deleted_at.isoformat(timespec='seconds')}, and its name is never used "
            "again; begin another stream, with an id of its own",
        )


class StreamTruncatedError(CqrsError):
    """What was asked for lies behind the summary event that a stream begins with now."""

    code = "stream_truncated"

    def __init__(self, *, stream: str, asked_for: str, first_version: int) -> None:
        self.stream, self.first_version = stream, first_version
        super().__init__(
            f"{asked_for} of stream {stream!r} was asked for, and everything before version {first_version} is gone; "
            "read from the start: what is there now begins with a summary"
        )


class AheadOfStoreError(CqrsError):
    """A version or position that the store has not reached: it came from another database, or before a restore."""

    code = "ahead_of_store"

    def __init__(self, *, what: str, asked_for: int, reached: int) -> None:
        self.asked_for, self.reached = asked_for, reached
        super().__init__(
            f"what comes after {asked_for} was asked for, and {what} has only come to {reached}: the number is from "
            "another database, or this one was restored from a backup; begin again from a number that it has reached"
        )


class HistoryChangedError(CqrsError):
    """The events that a reader has passed are not the ones that the store holds now; it stops before it skips any."""

    code = "history_changed"

    def __init__(self, *, reader: str, found: str, table: str) -> None:
        self.reader, self.found = reader, found
        super().__init__(
            f"{reader} has read another history than the event store holds: {found}. A backup was restored in part, "
            "a replica without the last events took over, or a sequence was set back. Bring the missing events back; "
            f"or, if they are lost for good, repair what {reader} made of them and delete its row from {table}: it "
            "then starts as if it were new"
        )
