"""What a service is asked: commands change something, queries never do, stream requests answer piece by piece."""

from __future__ import annotations

from typing import Generic, Protocol, Self, TypeVar

from pydantic import BaseModel, ConfigDict

R = TypeVar("R")
Req = TypeVar("Req")
Res = TypeVar("Res")


class Answers(Generic[Req, Res]):
    """A type for checkers only: the pair of a request and its result."""

    __slots__ = ()


class Request(Generic[R]):
    """Anything that is sent and answered with an `R`.

    Dataclasses and msgspec structs inherit it directly, under an outermost `@command` or `@query`.
    """

    __slots__ = ()

    @classmethod
    def __answers__(cls) -> Answers[Self, R]:
        """Never called: it ties this class to its result for type checkers."""
        raise TypeError(f"{cls.__name__}.__answers__ exists for type checkers and is never called")


class RequestType(Protocol[Req, Res]):
    """What the class object of a request looks like to a checker."""

    def __answers__(self) -> Answers[Req, Res]: ...


class Command(BaseModel, Request[R], Generic[R]):
    """An order to change something, answered with an `R`. Frozen; unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Query(BaseModel, Request[R], Generic[R]):
    """A question answered with an `R`. Its handler can record nothing and send no command."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class StreamRequest(BaseModel, Generic[R]):
    """A question answered with many `R`, one after the other, in bounded memory."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def __streams__(cls) -> Answers[Self, R]:
        """Never called: it ties this class to its items for type checkers."""
        raise TypeError(f"{cls.__name__}.__streams__ exists for type checkers and is never called")


class StreamRequestType(Protocol[Req, Res]):
    """What the class object of a stream request looks like to a checker."""

    def __streams__(self) -> Answers[Req, Res]: ...
