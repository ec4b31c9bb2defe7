"""Problem details, the one form of every refusal and failure (RFC 9457).

`type` is always `about:blank`, so `title` is the phrase of the HTTP status; clients decide by `code`, which is stable.
There is no `instance`: `correlation_id` names the occurrence, and the log line has the same.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Final

from pydantic import BaseModel, ConfigDict, Field, JsonValue
from starlette.responses import Response

MEDIA_TYPE: Final = "application/problem+json"

# Python 3.13 took over the newer phrases of RFC 9110; codes are made from phrases and must not depend on it.
_PHRASES: Final[Mapping[int, str]] = {
    413: "Content Too Large",
    414: "URI Too Long",
    416: "Range Not Satisfiable",
    422: "Unprocessable Content",
}


class FieldProblem(BaseModel):
    """What is wrong with one part of a request. The value that was sent is never repeated."""

    model_config = ConfigDict(frozen=True)

    field: str = Field(examples=["body.amount"])
    message: str
    code: str


class Problem(BaseModel):
    """Why a request was not answered as it wished (RFC 9457)."""

    model_config = ConfigDict(frozen=True)

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    code: str
    """Stable: clients may decide by it."""
    correlation_id: str | None = None
    errors: tuple[FieldProblem, ...] | None = None
    info: JsonValue = None
    """What an `HTTPException` carried that was no sentence."""


def phrase(status: int) -> str:
    """The name of a status, the same on every version of Python."""
    known = _PHRASES.get(status)
    if known is not None:
        return known
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return f"HTTP {status}"


def code_of(status: int) -> str:
    """The code of a problem that has none of its own: `method_not_allowed` for 405."""
    return phrase(status).lower().replace(" ", "_").replace("-", "_").replace("'", "")


def problem_response(problem: Problem, headers: Mapping[str, str] | None = None) -> Response:
    # ASCII only: a lone surrogate that a client sent can then be shown without failing to encode.
    content = json.dumps(problem.model_dump(exclude_none=True), ensure_ascii=True, separators=(",", ":"))
    return Response(content.encode("ascii"), status_code=problem.status, headers=headers, media_type=MEDIA_TYPE)
