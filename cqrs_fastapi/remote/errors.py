"""How a request to another service may end that is not answered."""

from __future__ import annotations

from uuid import UUID

from cqrs_fastapi.errors import CqrsError, DomainError, MessageError, UnavailableError, UnknownOutcomeError


class RemoteRefusedError(DomainError):
    """The other service refuses by a DomainError of its own, whose code is `refusal`. Nothing was done, and sending
    the same again gives the same.
    """

    code = "remote_refused"

    def __init__(self, topic: str, refusal: str, text: str) -> None:
        self.topic, self.refusal, self.text = topic, refusal, text
        super().__init__(f"{topic} was refused ({refusal}): {text}")


class RemoteFailedError(CqrsError):
    """The other service could not do it, or the broker took the request for good as unacceptable: `failure` is the
    code of why. Nothing was done until now. A command that failed over there is kept as a dead letter, which somebody
    may replay: send it again with the same message id, or not at all.
    """

    code = "remote_failed"

    def __init__(self, topic: str, failure: str, text: str) -> None:
        self.topic, self.failure, self.text = topic, failure, text
        super().__init__(f"{topic} failed ({failure}): {text}")


class RemoteUnknownOutcomeError(UnknownOutcomeError):
    """No reply to a command: it may have been done, or be done later. Send it again with `message_id`, and it is done
    once and answered as the first time; with another id it may be done twice.
    """

    code = "remote_unknown"

    def __init__(self, topic: str, message_id: UUID, reason: str) -> None:
        self.topic, self.message_id = topic, message_id
        super().__init__(
            f"what became of the command {message_id} on {topic} is unknown: {reason}; "
            f"to find out, send it again with message_id={message_id}"
        )


class UnanswerableError(MessageError):
    """What a handler returned fits no reply: it is no JSON of the answer's type, or too large. Nothing was committed,
    and trying again cannot help.
    """

    code = "unanswerable"


class NoReplyError(UnavailableError):
    """No reply to a query, which changes nothing and may be asked again."""

    code = "no_reply"

    def __init__(self, topic: str, reason: str) -> None:
        self.topic = topic
        super().__init__(f"nobody answered on {topic}: {reason}")


class InsideUnitOfWorkError(CqrsError):
    """A reply to a command was waited for inside of a unit of work, which would have to end first."""

    code = "inside_unit_of_work"

    def __init__(self, command: str, topic: str) -> None:
        super().__init__(
            f"{command} was sent to {topic} inside of a unit of work, and could be done although the unit rolls back; "
            f"write `await client.post(command, topic={topic!r})`, which sends it with the commit and waits for no "
            f"reply, or send it before or after the unit"
        )
