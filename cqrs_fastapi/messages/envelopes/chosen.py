"""Which envelope a topic has, and which codec an event: both ways between what is stored and what is sent."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from uuid import UUID

from cqrs_fastapi.errors import MalformedMessageError, MessageError, MessageTooLargeError
from cqrs_fastapi.messages.envelopes.codecs import JSON, Codec, decoded, encoded, is_json, same_media_type
from cqrs_fastapi.messages.envelopes.envelope import Envelope, Inbound, Opened, Outbound, Sealed
from cqrs_fastapi.messages.envelopes.foreign import Foreign
from cqrs_fastapi.messages.envelopes.native import Native
from cqrs_fastapi.messages.events import AnyEvent, definition_of
from cqrs_fastapi.messages.headers import all_headers, require_bounded, uuid_of
from cqrs_fastapi.messages.json_codec import parse_json

_NATIVE = Native()
POSITION_HEADER = "outbox-position"
# The names of our own headers, the place in the outbox, and how a record is framed.
_FRAMING = 512


@dataclass(frozen=True, slots=True)
class Envelopes:
    """Never changes once the application is open. `codecs` are by the stored names of events."""

    by_topic: Mapping[str, Envelope] = field(default_factory=dict)
    codecs: Mapping[str, Codec] = field(default_factory=dict)

    def of(self, topic: str) -> Envelope:
        """Our own where none was chosen."""
        return self.by_topic.get(topic, _NATIVE)

    def build(self, message: Outbound) -> Sealed:
        """What is sent of a row of the outbox. MalformedMessageError: it never can be sent like this.

        What names the type of its content is no event but somebody's own bytes and headers, which are sent as they are.
        """
        if not message.type or "content-type" in message.headers:
            return Sealed(
                message.payload, all_headers(message.message_id, message.type, message.tenant, message.headers)
            )
        codec = self.codecs.get(message.type)
        if codec is not None:
            payload = encoded(codec, message.payload)
            message = replace(message, payload=payload, content_type=codec.content_type)
        return self.of(message.topic).build(message)

    def require_sendable(self, message: Outbound, headers: str, *, max_bytes: int | None) -> None:
        """Before the commit, `headers` being those of `render_headers`: MalformedMessageError for what cannot be built,
        MessageTooLargeError for what would have more than `max_bytes` in payload, key and headers together; None is no
        limit.
        """
        size = _FRAMING + len((message.key or "").encode())
        if message.type in self.codecs or message.topic in self.by_topic:
            sealed = self.build(replace(message, headers=parse_json(headers)))
            size += len(sealed.payload) + sum(len(name) + len(text.encode()) for name, text in sealed.headers.items())
        else:  # our own envelope never makes a message longer than its parts
            size += len(message.payload) + len(headers.encode()) + len(message.type.encode() + message.tenant.encode())
        if max_bytes is not None and size > max_bytes:
            raise MessageTooLargeError(what=f"{message.type}, as it is sent,", size=size, limit=max_bytes)

    def open(self, message: Inbound, *, max_bytes: int) -> Opened:
        """What it says, its data as JSON. Raises a MessageError that says what is missing, malformed or too large."""
        if len(message.payload) > max_bytes:
            raise MessageTooLargeError(what="the payload", size=len(message.payload), limit=max_bytes)
        require_bounded(message.headers)
        envelope = self.of(message.topic)
        opened = envelope.parse(message, max_bytes=max_bytes)
        opened = self._as_json(opened)
        if len(opened.data) > max_bytes:
            raise MessageTooLargeError(what="the data", size=len(opened.data), limit=max_bytes)
        envelope.validate(message, opened)
        return opened

    def message_id_of(self, message: Inbound, *, max_bytes: int) -> UUID | None:
        """The id that it would be opened with; None if it says none that is valid."""
        try:
            if type(self.of(message.topic)) is Native:
                return uuid_of("", message.headers["message-id"].decode("ascii"))
            return self.open(message, max_bytes=max_bytes).metadata.message_id
        except (MessageError, KeyError, UnicodeDecodeError):
            return None

    def _as_json(self, opened: Opened) -> Opened:
        codec = self.codecs.get(opened.type)
        if codec is not None and same_media_type(codec.content_type, opened.content_type):
            return replace(opened, data=decoded(codec, opened.data), content_type=JSON)
        if not is_json(opened.content_type):
            wanted = JSON if codec is None else f"{JSON} or {codec.content_type}"
            raise MalformedMessageError(
                f"the data of {opened.type!r} are {opened.content_type[:60]!r}; {wanted} is read"
            )
        return opened


def chosen(
    envelopes: Mapping[str, Envelope], codecs: Mapping[type[AnyEvent], Codec], topics: Iterable[str]
) -> tuple[Envelopes, list[str]]:
    """As the user has chosen them, and what is wrong with it. `topics` are all that are sent to or read."""
    known, problems = frozenset(topics), []
    for topic, envelope in envelopes.items():
        if topic not in known:
            problems.append(
                f"an envelope is chosen for the topic {topic!r}, and no event has it; its topics are: "
                f"{', '.join(sorted(known)) or 'none'}"
            )
        if missing := [name for name in ("build", "parse", "validate") if not callable(getattr(envelope, name, None))]:
            problems.append(f"the envelope of the topic {topic!r} has no {' and no '.join(missing)}: {envelope!r}")
        if isinstance(envelope, Foreign) and definition_of(envelope.event_type).topic != topic:
            name = envelope.event_type.__name__
            problems.append(
                f"Foreign({name}) stands for the topic {topic!r}; write: class {name}(Event, topic={topic!r})"
            )
    by_name = {}
    for event_type, codec in codecs.items():
        try:
            by_name[definition_of(event_type).name] = codec
        except TypeError as error:
            problems.append(f"a codec is chosen for what is no event: {error}")
        problems.extend(_codec_problems(event_type, codec))
    return Envelopes(dict(envelopes), by_name), problems


def _codec_problems(event_type: type, codec: Codec) -> list[str]:
    name = getattr(event_type, "__name__", repr(event_type))
    missing = [part for part in ("encode", "decode") if not callable(getattr(codec, part, None))]
    if missing or not isinstance(getattr(codec, "content_type", None), str):
        return [f"the codec of {name} has no {' and no '.join(missing or ['content_type'])}: {codec!r}"]
    if is_json(codec.content_type):
        return [f"the codec of {name} has the content type {codec.content_type!r}, which is JSON and needs none"]
    return []
