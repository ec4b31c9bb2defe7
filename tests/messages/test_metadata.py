import dataclasses
from datetime import UTC, datetime
from uuid import UUID

import pytest

from cqrs_fastapi.messages.metadata import Metadata, Origin, Received, enter, holder, leave

TIME = datetime(2026, 1, 2, tzinfo=UTC)
FIRST = Metadata(
    message_id=UUID(int=1),
    correlation_id="talk",
    time=TIME,
    user="ann",
    tenant="t",
    traceparent="00-x",
    headers={"a": "b"},
)


def test_outside_of_a_message_there_is_no_current_metadata() -> None:
    assert holder() is None
    with pytest.raises(LookupError):
        Metadata.current()


def test_what_is_entered_is_current_until_it_is_left() -> None:
    token = enter(Received(FIRST))
    inner = enter(Origin(dataclasses.replace(FIRST, user="ben")))
    assert Metadata.current().user == "ben"
    leave(inner)
    assert Metadata.current() is FIRST
    leave(token)
    assert holder() is None


def test_a_message_is_the_cause_of_what_follows_and_lends_it_everything_else() -> None:
    second = Received(FIRST).next(UUID(int=2), TIME)
    third = second.caused(UUID(int=3), TIME)
    assert (second.causation_id, third.causation_id) == (UUID(int=1), UUID(int=2))
    assert third == dataclasses.replace(FIRST, message_id=UUID(int=3), causation_id=UUID(int=2))


def test_where_a_conversation_begins_there_is_no_cause() -> None:
    second = Origin(FIRST).next(UUID(int=2), TIME)
    assert second == dataclasses.replace(FIRST, message_id=UUID(int=2), causation_id=None)
