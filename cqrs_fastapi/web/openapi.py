"""Declares problem details in the OpenAPI document of an application."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from fastapi import FastAPI

from cqrs_fastapi.web.problems import MEDIA_TYPE, Problem

_PREFIX: Final = "#/components/schemas/"
_OPERATIONS: Final = frozenset(("get", "put", "post", "delete", "options", "head", "patch", "trace"))
_FASTAPI_SCHEMAS: Final = ("HTTPValidationError", "ValidationError")
_DECLARED: Final = "x-problem-details"


def declare_problems(app: FastAPI) -> None:
    """Every operation gets a `default` response that is a Problem, and FastAPI's 422 becomes one."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        # FastAPI keeps the document until routes change; one that is declared already is left as it is.
        document = generate()
        if document.get("paths") and _DECLARED not in document:
            _declare(document)
        return document

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way to extend the document


def _declare(document: dict[str, Any]) -> None:
    document[_DECLARED] = MEDIA_TYPE
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    content = {MEDIA_TYPE: {"schema": {"$ref": _add_schema(schemas)}}}
    for operation in _operations(document):
        responses = operation.setdefault("responses", {})
        if _is_fastapis(responses.get("422")):
            responses["422"] = {"description": "The request is wrong", "content": content}
        responses.setdefault("default", {"description": "A refusal or a failure", "content": content})
    for name in _FASTAPI_SCHEMAS:
        if f'"{_PREFIX}{name}"' not in str(document).replace("'", '"'):
            schemas.pop(name, None)


def _add_schema(schemas: dict[str, Any]) -> str:
    """The reference to the Problem; an application's own model of that name keeps it."""
    name = "Problem" if "Problem" not in schemas else "CqrsProblem"
    schema = Problem.model_json_schema(ref_template=_PREFIX + "{model}", mode="serialization")
    for inner, definition in schema.pop("$defs", {}).items():
        schemas.setdefault(inner, definition)
    schemas[name] = schema
    return _PREFIX + name


def _operations(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for path in document["paths"].values():
        for method, operation in path.items():
            if method in _OPERATIONS:
                yield operation


def _is_fastapis(response: object) -> bool:
    return isinstance(response, dict) and f"{_PREFIX}HTTPValidationError" in str(response)
