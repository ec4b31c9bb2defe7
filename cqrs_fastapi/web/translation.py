"""From errors to problems: the only place that ties an error to an HTTP status."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

from fastapi.encoders import jsonable_encoder
from fastapi.exceptions import RequestValidationError
from pydantic import JsonValue
from starlette.exceptions import HTTPException

from cqrs_fastapi.domain.finding.texts import SearchError
from cqrs_fastapi.domain.root_entity import DeletedError
from cqrs_fastapi.errors import (
    ConcurrencyError,
    ConfigurationError,
    CqrsError,
    DomainError,
    IdempotencyKeyReusedError,
    MessageTooLargeError,
    NotFoundError,
    OverloadedError,
    StreamClosedError,
    UnavailableError,
    UnknownOutcomeError,
)
from cqrs_fastapi.remote.errors import RemoteFailedError
from cqrs_fastapi.web.json_text import MalformedTextError
from cqrs_fastapi.web.problems import FieldProblem, Problem, code_of, phrase

MAX_FIELD_PROBLEMS: Final = 100
"""One small body can be wrong in a hundred thousand places; the answer stays small."""
_MAX_FIELD_LENGTH: Final = 200
_UNREADABLE_BODY: Final = (400, "There was an error parsing the body")
"""FastAPI's words for a body that is no text, nests too deeply or has numbers too long."""


@dataclass(frozen=True, slots=True)
class Answer:
    """How a class of errors is answered. Without a `detail` the error's own sentence is shown to the client."""

    status: int
    detail: str | None = None
    retry_after: int | None = None
    """Seconds."""


_ANSWERS: Final[Mapping[type[BaseException], Answer]] = {
    DomainError: Answer(422),
    NotFoundError: Answer(404),
    DeletedError: Answer(410),
    SearchError: Answer(422),
    ConcurrencyError: Answer(
        409, "Somebody else changed this meanwhile; nothing was written. Read it and decide again.", 1
    ),
    StreamClosedError: Answer(409),
    IdempotencyKeyReusedError: Answer(422),
    MessageTooLargeError: Answer(413, "What was sent is too large; nothing was written."),
    UnavailableError: Answer(503, "A part of this service does not answer; nothing was written. Try again.", 1),
    OverloadedError: Answer(503, "This service has too much to do; the request was not begun. Try again.", 1),
    # Not 503 or 504: clients and proxies repeat those by themselves, and a repetition could do the thing twice.
    UnknownOutcomeError: Answer(
        500,
        "It may have happened: the answer to the commit was lost. Look before you repeat it, "
        "or repeat it only with the Idempotency-Key of the first attempt.",
    ),
    RemoteFailedError: Answer(502, "Another service could not do it; nothing was done until now."),
    TimeoutError: Answer(504, "The request was not answered in time."),
}


class Translation:
    """Answers by the nearest class in the error's MRO; `statuses` adds the application's own refusals."""

    def __init__(self, statuses: Mapping[type[DomainError], int] | None = None) -> None:
        own: dict[type[BaseException], Answer] = {
            kind: Answer(_refusal(kind, status)) for kind, status in (statuses or {}).items()
        }
        self._answers = {**_ANSWERS, **own}

    def answer_to(self, error: BaseException) -> Answer | None:
        """None for an error that nobody meant: it is told to the log, never to the client."""
        return next((self._answers[kind] for kind in type(error).__mro__ if kind in self._answers), None)

    def problem(self, error: BaseException, correlation_id: str | None) -> Problem:
        answer = self.answer_to(error)
        if answer is None:
            return internal_problem(correlation_id)
        return Problem(
            title=phrase(answer.status),
            status=answer.status,
            detail=(str(error) or phrase(answer.status)) if answer.detail is None else answer.detail,
            code=error.code if isinstance(error, CqrsError) else "timeout",
            correlation_id=correlation_id,
        )

    def headers(self, error: BaseException) -> dict[str, str]:
        answer = self.answer_to(error)
        hopeless = isinstance(error, ConcurrencyError) and not error.retryable
        if answer is None or answer.retry_after is None or hopeless:
            return {}
        return {"Retry-After": str(answer.retry_after)}


def internal_problem(correlation_id: str | None) -> Problem:
    """Tells nothing but where to look."""
    detail = "Something went wrong here. The log of this service knows more under the correlation id."
    return Problem(title=phrase(500), status=500, detail=detail, code="internal", correlation_id=correlation_id)


def http_problem(error: HTTPException, correlation_id: str | None) -> Problem:
    """What a route or the framework refused. A detail that is no sentence becomes `info`."""
    detail: object = error.detail
    info: JsonValue = None if isinstance(detail, str) else jsonable_encoder(detail)
    unreadable = isinstance(error, MalformedTextError) or (error.status_code, detail) == _UNREADABLE_BODY
    return Problem(
        title=phrase(error.status_code),
        status=error.status_code,
        detail=detail if isinstance(detail, str) else phrase(error.status_code),
        code="malformed_json" if unreadable else code_of(error.status_code),
        correlation_id=correlation_id,
        info=info,
    )


def validation_problem(error: RequestValidationError, correlation_id: str | None) -> Problem:
    """422 with what is wrong where; 400 for a body that is no JSON at all."""
    # A field of pydantic's type Json has the same type of error, but no JSONDecodeError behind it.
    if isinstance(error.__cause__, json.JSONDecodeError):
        detail = "The body is not well-formed JSON."
        return Problem(
            title=phrase(400), status=400, detail=detail, code="malformed_json", correlation_id=correlation_id
        )
    listed = tuple(_field_problem(entry) for entry in islice(error.errors(), MAX_FIELD_PROBLEMS))
    return Problem(
        title=phrase(422),
        status=422,
        detail="Parts of the request are missing or wrong; `errors` lists them.",
        code="validation",
        correlation_id=correlation_id,
        errors=listed,
    )


def _field_problem(entry: Mapping[str, Any]) -> FieldProblem:
    """Of one of pydantic's errors; the `input` in it is left where it is."""
    field = ".".join(str(part) for part in entry["loc"])
    return FieldProblem(field=field[:_MAX_FIELD_LENGTH], message=_message(entry), code=entry["type"])


def _message(entry: Mapping[str, Any]) -> str:
    """The sentence of pydantic, except where that repeats what was sent."""
    if entry["type"] == "union_tag_invalid":
        return f"Input tag does not match any of the expected tags: {entry['ctx']['expected_tags']}"
    return str(entry["msg"])


def _refusal(kind: type[DomainError], status: int) -> int:
    if not issubclass(kind, DomainError):
        raise ConfigurationError(f"statuses names {kind.__name__}, which is no DomainError; derive it from DomainError")
    if not 400 <= status < 500:  # noqa: PLR2004  # a refusal is the client's matter
        raise ConfigurationError(f"statuses gives {kind.__name__} the status {status}; a refusal has one of 400 to 499")
    return status
