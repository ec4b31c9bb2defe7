"""Runs the handler of a request that was received, as `send` would, with the reply in its transaction."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from cqrs_fastapi.errors import MessageTooLargeError
from cqrs_fastapi.mediation.answer_codec import codec_of_answers
from cqrs_fastapi.mediation.behaviors import Next
from cqrs_fastapi.mediation.kernel import Kernel
from cqrs_fastapi.mediation.pipelines import Body, Handling
from cqrs_fastapi.mediation.scope import Scope
from cqrs_fastapi.messages.metadata import Received, enter, leave
from cqrs_fastapi.remote.errors import UnanswerableError
from cqrs_fastapi.remote.reply_headers import ReplyHeaders
from cqrs_fastapi.remote.settling import Arrived, Settling
from cqrs_fastapi.remote.wire import Reply, Status


@dataclass(frozen=True, slots=True)
class Running:
    """Behaviors, chains and fallbacks are those of every other sending; each try has a unit of work of its own."""

    kernel: Kernel
    settling: Settling
    max_bytes: int

    async def command(self, arrived: Arrived) -> Reply | None:
        """None: done and committed, with its reply. A reply: a behavior has answered instead of the handler, so that
        there was no transaction to write it in.

        Raises AlreadySettledError if it was done before; whatever the error, nothing was committed, except for
        UnknownOutcomeError.
        """
        handling, headers, committed = self._handling(arrived), ReplyHeaders(), list[Body]()

        async def run(body: Body, message: object) -> object:
            attempt = _Attempt(self, body, arrived, headers)
            result = await self.kernel.run(attempt.handle, message, read_only=False)
            committed.append(body)
            return result

        result = await _sent(handling, [partial(run, body) for body in handling.bodies], arrived, headers)
        return None if committed else self.reply(arrived, result, headers)

    async def query(self, arrived: Arrived) -> Reply:
        """Raises what the handler raises."""
        handling, headers = self._handling(arrived), ReplyHeaders()

        async def run(body: Body, message: object) -> object:
            return await self.kernel.run(body, message, read_only=True)

        result = await _sent(handling, [partial(run, body) for body in handling.bodies], arrived, headers)
        return self.reply(arrived, result, headers)

    def reply(self, arrived: Arrived, result: object, headers: ReplyHeaders) -> Reply:
        """Raises UnanswerableError."""
        cls: type = type(arrived.request)
        try:
            body = codec_of_answers(cls).encode(result)
        except TypeError as error:
            raise UnanswerableError(str(error)) from None
        size = len(body.encode())
        if size > self.max_bytes:
            raise UnanswerableError(str(MessageTooLargeError(what="the reply", size=size, limit=self.max_bytes)))
        return Reply(Status.SUCCESS, body, headers=dict(headers))

    def _handling(self, arrived: Arrived) -> Handling:
        return self.kernel.pipelines.nested[type(arrived.request)]


@dataclass(frozen=True, slots=True)
class _Attempt:
    running: Running
    body: Body
    arrived: Arrived
    headers: ReplyHeaders

    async def handle(self, scope: Scope, message: object) -> object:
        """The row comes first in the transaction: a repeated attempt must find what it has done before it finds what
        that has moved.
        """
        self.headers.clear()
        said: list[Reply] = []
        write = self.running.settling.write
        scope.unit_of_work.join(lambda connection: write(connection, self.arrived, said[0]), sends=True)
        result = await self.body(scope, message)
        said.append(self.running.reply(self.arrived, result, self.headers))
        return result


async def _sent(handling: Handling, cores: list[Next], arrived: Arrived, headers: ReplyHeaders) -> object:
    """In the context of the message: it is the cause of whatever follows."""
    of_message, of_reply = enter(Received(arrived.metadata)), headers.enter()
    try:
        return await handling.wrapped(handling.with_fallback(cores))(arrived.request)
    finally:
        ReplyHeaders.leave(of_reply)
        leave(of_message)
