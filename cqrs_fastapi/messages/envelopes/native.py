"""Our own envelope: the event as JSON, everything else in headers."""

from __future__ import annotations

from dataclasses import dataclass

from cqrs_fastapi.errors import ConfigurationError, MalformedMessageError
from cqrs_fastapi.messages.envelopes.codecs import JSON
from cqrs_fastapi.messages.envelopes.compression import GZIP, deflated, inflated
from cqrs_fastapi.messages.envelopes.envelope import Inbound, Opened, Outbound, Sealed
from cqrs_fastapi.messages.headers import OwnHeaders, all_headers, context_of

COMPRESS_ABOVE = 32 << 10


@dataclass(frozen=True, slots=True)
class Native:
    """The envelope of topics for which none is chosen. Readers need `message-id` and `type`; the rest may be missing.

    A payload above `compress_above` bytes is sent as gzip, with the header `content-encoding`; None never compresses,
    for readers that know no gzip. Compressed messages are read in any case.
    """

    compress_above: int | None = COMPRESS_ABOVE

    def __post_init__(self) -> None:
        if self.compress_above is not None and self.compress_above < 1:
            raise ConfigurationError(f"Native(compress_above={self.compress_above}): write a size in bytes, or None")

    def build(self, message: Outbound) -> Sealed:
        headers = all_headers(
            message.message_id, message.type, message.tenant, message.headers, content_type=message.content_type
        )
        if self.compress_above is not None and len(message.payload) > self.compress_above:
            small = deflated(message.payload)
            if small is not None:
                return Sealed(small, {**headers, "content-encoding": GZIP})
        return Sealed(message.payload, headers)

    def parse(self, message: Inbound, *, max_bytes: int) -> Opened:
        own = OwnHeaders(message.headers)
        message_id = own.uuid("message-id", own.required("message-id"))
        name, version = own.required("type"), own.version()
        metadata = context_of(own, message_id, message.sent_at)
        data = plain(message.payload, own.get("content-encoding"), max_bytes)
        return Opened(name, version, data, own.get("content-type") or JSON, metadata)

    def validate(self, message: Inbound, opened: Opened) -> None:
        """Whatever could be taken apart is good."""


def plain(payload: bytes, encoding: str | None, max_bytes: int) -> bytes:
    """What was compressed, as the header `content-encoding` says. Raises a MessageError."""
    if encoding is None or encoding == "identity":
        return payload
    if encoding != GZIP:
        raise MalformedMessageError(f"the header 'content-encoding' is {encoding[:40]!r}; only gzip is read")
    return inflated(payload, max_bytes=max_bytes)
