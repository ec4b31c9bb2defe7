"""A topic of somebody who knows nothing of us: JSON without headers that say what it is, always the same thing."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Literal
from uuid import UUID, uuid5

from pydantic import BaseModel

from cqrs_fastapi.errors import ConfigurationError, MalformedMessageError
from cqrs_fastapi.messages.envelopes.codecs import JSON
from cqrs_fastapi.messages.envelopes.envelope import Inbound, Opened, Outbound, Sealed
from cqrs_fastapi.messages.events import AnyEvent, definition_of
from cqrs_fastapi.messages.headers import OURS, OwnHeaders, metadata_of, printable
from cqrs_fastapi.messages.json_members import members_of

_NAMES = UUID("7d3f4c9e-52a8-5a44-9d0e-3f5a0c6b8e17")


@dataclass(frozen=True, slots=True)
class Foreign:
    """Every message of the topic is read as `event_type`, whatever its headers say.

    Its id is the one that the field `id_field` or the header `id_header` names, which the sender must not use twice;
    a message without it is malformed. Without both it is made of topic, partition, offset and time of the message: a
    message that its sender repeats is then another one. The same message always has the same id.

    `unknown_fields="refuse"` refuses a message with a field, not inside of others, that `event_type` does not have.
    """

    event_type: type[AnyEvent]
    id_field: str | None = None
    id_header: str | None = None
    unknown_fields: Literal["ignore", "refuse"] = "ignore"

    def __post_init__(self) -> None:
        try:
            definition_of(self.event_type)
        except TypeError as error:
            raise ConfigurationError(f"Foreign(...): {error}") from None
        if self.id_field is not None and self.id_header is not None:
            raise ConfigurationError("Foreign(...): give id_field or id_header, not both")
        if self.unknown_fields not in {"ignore", "refuse"}:
            raise ConfigurationError(f"Foreign(unknown_fields={self.unknown_fields!r}): write 'ignore' or 'refuse'")

    def build(self, message: Outbound) -> Sealed:
        """Sent as it is expected there: the bare JSON, and of the headers the user's own."""
        if message.type != definition_of(self.event_type).name:
            raise MalformedMessageError(
                f"{message.type!r} cannot be sent to {message.topic!r}, where everything is read as "
                f"{self.event_type.__name__}; give it another topic"
            )
        headers = {name: text for name, text in message.headers.items() if name not in OURS}
        if self.id_header is not None:
            headers[self.id_header] = str(message.message_id)
        return Sealed(message.payload, {**headers, "content-type": message.content_type})

    def parse(self, message: Inbound, *, max_bytes: int) -> Opened:  # noqa: ARG002  # nothing is inflated
        definition, own = definition_of(self.event_type), OwnHeaders(message.headers)
        metadata = metadata_of(
            self._message_id(message),
            time=message.sent_at,
            correlation_id=message.headers.get("correlation-id"),
            traceparent=message.headers.get("traceparent"),
            headers=own.others(),
        )
        content_type = own.get("content-type") or JSON
        return Opened(definition.name, definition.version, message.payload, content_type, metadata)

    def validate(self, message: Inbound, opened: Opened) -> None:  # noqa: ARG002  # the protocol's signature
        if self.unknown_fields == "ignore":
            return
        unknown = members_of(opened.data).keys() - fields_of(self.event_type)
        if unknown:
            # Their names are the sender's, and may be values.
            raise MalformedMessageError(f"the message has {len(unknown)} fields that {opened.type!r} does not have")

    def _message_id(self, message: Inbound) -> UUID:
        if self.id_header is not None:
            named = OwnHeaders(message.headers).required(self.id_header)
        elif self.id_field is not None:
            named = _value(members_of(message.payload).get(self.id_field), self.id_field)
        else:
            sent = round(message.sent_at.timestamp() * 1000)
            return uuid5(_NAMES, f"{message.topic}\n{message.partition}\n{message.offset}\n{sent}")
        return uuid5(_NAMES, f"{message.topic}\n{named}")


def fields_of(event_type: type) -> frozenset[str]:
    """The names that its fields have in JSON."""
    if issubclass(event_type, BaseModel):
        return frozenset(
            name
            for field, info in event_type.model_fields.items()
            for name in (field, info.alias, info.validation_alias)
            if isinstance(name, str)
        )
    if dataclasses.is_dataclass(event_type):
        return frozenset(field.name for field in dataclasses.fields(event_type))
    return frozenset(getattr(event_type, "__struct_encode_fields__", ()))


def _value(text: str | None, field: str) -> str:
    """A text or a number, as the sender wrote it."""
    if text is None or text in {"null", '""'} or text[0] in "[{":
        raise MalformedMessageError(f"the field {field!r}, which names the message, is missing or no text or number")
    value = json.loads(text) if text.startswith('"') else text
    return printable(f"the field {field!r}", str(value).encode("utf-8", "surrogatepass"))
