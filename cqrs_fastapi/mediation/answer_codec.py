"""What a request is answered with, as JSON that is kept or sent, and back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from pydantic import TypeAdapter
from pydantic_core import PydanticSerializationError

from cqrs_fastapi.mediation.answers import result_of


@dataclass(frozen=True, slots=True)
class AnswerCodec:
    """`encode` raises a TypeError for an answer that is no JSON, `decode` a ValueError for JSON that is no answer."""

    encode: Callable[[object], str]
    decode: Callable[[str | bytes], object]


@lru_cache(maxsize=1024)
def codec_of_answers(request_type: type) -> AnswerCodec:
    """By the `R` of the request's class."""
    result = result_of(request_type)
    adapter: TypeAdapter[Any] = TypeAdapter(Any if result is None else result)

    def encode(value: object) -> str:
        try:
            return adapter.dump_json(value, warnings="error").decode()
        except PydanticSerializationError as error:
            raise TypeError(
                f"what {request_type.__name__} is answered with cannot be kept as JSON ({error}); "
                "an idempotency key, like a reply over the broker, needs an answer that can"
            ) from None

    return AnswerCodec(encode, adapter.validate_json)
