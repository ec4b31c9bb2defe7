"""Requests to another service and their replies, over each broker and each database."""

import asyncio
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
from sqlalchemy import insert, select
from warehouse import (
    Ear,
    Names,
    Reserve,
    Reserved,
    Script,
    SoldOutError,
    Stock,
    answered_with,
    done,
    inbox_rows,
    letters,
    put,
    until,
)

from cqrs_fastapi import (
    CQRS,
    DeadLetter,
    Discard,
    Metadata,
    RemoteFailedError,
    RemoteRefusedError,
    RemoteUnknownOutcomeError,
    RetryLater,
)
from cqrs_fastapi.errors import UnavailableError
from cqrs_fastapi.inbox.replaying import ReplayFailedError
from cqrs_fastapi.messages.metadata import Received, enter, leave
from cqrs_fastapi.remote.errors import NoReplyError

pytestmark = pytest.mark.anyio

everywhere = pytest.mark.parametrize(
    "place", ["sqlite and memory", "postgresql and memory", "postgresql and kafka"], indirect=True
)


@everywhere
async def test_commands_and_queries_are_answered(shop: CQRS, warehouse: CQRS, names: Names) -> None:
    answers = [await shop.broker_client.ask(Reserve(item="chair"), topic=names("Reserve"), timeout=30) for _ in "12"]

    assert [answer.value for answer in answers] == [1, 2]
    assert dict(answers[0].headers) == {"shelf": "shelf-of-chair"}
    assert await done(warehouse) == ["chair", "chair"]
    assert await shop.broker_client.send(Stock(item="chair"), topic=names("Stock"), timeout=30) == ["chair"] * 2
    assert [row.consumer for row in await inbox_rows(warehouse)] == [f"command:{names('Reserve')}"] * 2


@everywhere
async def test_a_command_that_comes_twice_is_done_once_and_answered_twice_alike(
    shop: CQRS, warehouse: CQRS, names: Names
) -> None:
    order, message_id = Reserve(item="chair"), uuid4()
    sends = [shop.broker_client.ask(order, topic=names("Reserve"), timeout=30, message_id=message_id) for _ in range(4)]
    answers = await asyncio.gather(*sends)

    assert [(answer.value, dict(answer.headers)) for answer in answers] == [(1, {"shelf": "shelf-of-chair"})] * 4
    assert await done(warehouse) == ["chair"]


async def test_a_refusal_has_its_code_and_stays_a_refusal(
    shop: CQRS, warehouse: CQRS, names: Names, script: Script
) -> None:
    script.raises["chair"] = [SoldOutError("no chairs are left")]
    message_id = uuid4()
    for _ in range(2):
        with pytest.raises(RemoteRefusedError) as refused:
            await shop.broker_client.send(Reserve(item="chair"), topic=names("Reserve"), message_id=message_id)

    assert (refused.value.refusal, refused.value.text) == ("sold_out", "no chairs are left")
    assert await done(warehouse) == []
    assert len(script.seen) == 1
    assert await letters(warehouse) == []


async def test_a_handler_that_fails_for_a_while_is_tried_again(
    shop: CQRS, warehouse: CQRS, names: Names, script: Script
) -> None:
    script.raises["chair"] = [RuntimeError("planned"), UnavailableError("planned"), RuntimeError("planned")]

    assert await shop.broker_client.send(Reserve(item="chair"), topic=names("Reserve")) == 1
    assert await done(warehouse) == ["chair"]


async def test_a_failure_beyond_the_attempts_is_answered_and_a_dead_letter(
    shop: CQRS, warehouse: CQRS, names: Names, script: Script
) -> None:
    script.raises["chair"] = [RuntimeError("the password is 1234") for _ in range(3)]
    message_id = uuid4()
    for _ in range(2):
        with pytest.raises(RemoteFailedError) as failed:
            await shop.broker_client.send(Reserve(item="chair"), topic=names("Reserve"), message_id=message_id)

    assert failed.value.failure == "internal"
    assert "1234" not in str(failed.value)
    assert await done(warehouse) == []
    [letter] = await letters(warehouse)
    assert (letter.consumer, letter.code, letter.message_id) == (
        f"command:{names('Reserve')}",
        "RuntimeError",
        message_id,
    )
    assert letter.payload == b'{"item":"chair","amount":1}'
    [row] = await inbox_rows(warehouse)
    assert (row.status, answered_with(row)) == ("parked", "failure")


async def test_a_dead_letter_of_a_command_is_replayed_and_asking_again_finds_its_answer(
    shop: CQRS, warehouse: CQRS, names: Names, script: Script
) -> None:
    script.raises["chair"] = [RuntimeError("planned") for _ in range(4)]
    message_id, chair = uuid4(), Reserve(item="chair")
    with pytest.raises(RemoteFailedError):
        await shop.broker_client.send(chair, topic=names("Reserve"), message_id=message_id)
    [letter] = await letters(warehouse)
    with pytest.raises(ReplayFailedError):
        await warehouse.dead_letters.replay(letter.id)
    assert [one.attempts for one in await letters(warehouse)] == [letter.attempts + 1]

    await warehouse.dead_letters.replay(letter.id)

    assert await done(warehouse) == ["chair"]
    assert await letters(warehouse) == []
    [row] = await inbox_rows(warehouse)
    assert (row.status, answered_with(row)) == ("done", "success")
    assert await shop.broker_client.send(chair, topic=names("Reserve"), message_id=message_id) == 1
    assert await done(warehouse) == ["chair"]


async def test_a_handler_steers_what_becomes_of_a_command(
    shop: CQRS, warehouse: CQRS, names: Names, script: Script
) -> None:
    """Somebody waits for the reply, so what is to come again later waits in place."""
    script.raises["chair"] = [RetryLater(timedelta(milliseconds=20)) for _ in range(5)]
    script.raises["table"] = [Discard("nobody wants it")]
    script.raises["sofa"] = [DeadLetter("look at this")]

    assert await shop.broker_client.send(Reserve(item="chair"), topic=names("Reserve")) == 1
    with pytest.raises(RemoteFailedError) as discarded:
        await shop.broker_client.send(Reserve(item="table"), topic=names("Reserve"))
    with pytest.raises(RemoteFailedError) as parked:
        await shop.broker_client.send(Reserve(item="sofa"), topic=names("Reserve"))

    assert (discarded.value.failure, parked.value.failure) == ("discarded", "dead_letter")
    assert await done(warehouse) == ["chair"]
    assert [letter.error for letter in await letters(warehouse)] == ["look at this"]


async def test_a_command_that_a_process_may_have_died_of_is_counted_until_it_parks(
    shop: CQRS, warehouse: CQRS, names: Names
) -> None:
    """As if processes had died of it: what they left behind is found by whoever takes the partition."""
    message_id, consumer = uuid4(), f"command:{names('Reserve')}"
    database, now = warehouse.database, warehouse.container.clock().now()
    attempt = {"consumer": consumer, "message_id": message_id, "count": 3, "counted_at": now}
    await database.write(lambda c: c.execute(insert(database.tables.attempts), attempt))
    group, topic = f"{warehouse.settings.service}.requests", names("Reserve")
    taken_up = {"consumer": group, "topic": topic, "through": 10**6, "dispatched_at": now}
    places = [{**taken_up, "partition": n} for n in range(2)]
    await database.write(lambda c: c.execute(insert(database.tables.dispatches), places))

    with pytest.raises(RemoteFailedError) as failed:
        await shop.broker_client.send(Reserve(item="chair"), topic=names("Reserve"), message_id=message_id)
    assert await shop.broker_client.send(Reserve(item="table"), topic=names("Reserve")) == 1

    assert failed.value.failure == "handler_crashed"
    assert [letter.code for letter in await letters(warehouse)] == ["handler_crashed"]
    assert await done(warehouse) == ["table"]
    assert await database.read(lambda c: c.execute(select(database.tables.attempts)).all()) == []


async def test_a_message_id_with_another_content_is_refused(shop: CQRS, warehouse: CQRS, names: Names) -> None:
    message_id = uuid4()
    await shop.broker_client.send(Reserve(item="chair"), topic=names("Reserve"), message_id=message_id)

    with pytest.raises(RemoteFailedError) as failed:
        await shop.broker_client.send(Reserve(item="table"), topic=names("Reserve"), message_id=message_id)

    assert failed.value.failure == "message_id_reused"
    assert await done(warehouse) == ["chair"]


async def test_the_answer_of_a_command_is_not_told_to_another_tenant(shop: CQRS, warehouse: CQRS, names: Names) -> None:
    message_id = uuid4()
    await shop.broker_client.send(Reserve(item="chair"), topic=names("Reserve"), message_id=message_id)
    spy = Metadata(message_id=uuid4(), correlation_id="spy", time=datetime.now(UTC), tenant="others")
    token = enter(Received(spy))
    try:
        with pytest.raises(RemoteFailedError, match="message_id_reused"):
            await shop.broker_client.send(Reserve(item="chair"), topic=names("Reserve"), message_id=message_id)
    finally:
        leave(token)


async def test_a_reply_that_comes_too_late_is_passed_over_and_asking_again_finds_the_outcome(
    shop: CQRS, warehouse: CQRS, names: Names, script: Script
) -> None:
    script.waits["chair"] = asyncio.Event()
    order = Reserve(item="chair")
    async with Ear(shop.broker, f"shop-{names.run}.replies") as ear:
        with pytest.raises(RemoteUnknownOutcomeError) as unknown:
            await shop.broker_client.send(order, topic=names("Reserve"), timeout=0.3)
        await until(lambda: script.seen)  # withdrawn from memory it would never come
        script.waits["chair"].set()
        await until(lambda: ear.heard)

        message_id = unknown.value.message_id
        assert await shop.broker_client.send(order, topic=names("Reserve"), message_id=message_id) == 1
    assert await done(warehouse) == ["chair"]
    assert len(shop.engine.broker_client.line.pending) == 0


async def test_a_query_without_an_answer_is_no_unknown_outcome(
    shop: CQRS, warehouse: CQRS, names: Names, script: Script
) -> None:
    script.waits["chair"] = asyncio.Event()
    with pytest.raises(NoReplyError):
        await shop.broker_client.send(Stock(item="chair"), topic=names("Stock"), timeout=0.3)
    script.waits["chair"].set()


@pytest.mark.parametrize("place", ["postgresql and memory", "postgresql and kafka"], indirect=True)
async def test_on_a_topic_that_nobody_has_bound_there_is_no_reply(shop: CQRS, names: Names) -> None:
    with pytest.raises(RemoteUnknownOutcomeError):
        await shop.broker_client.send(Reserve(item="chair"), topic=names("Nobody"), timeout=4)
    with pytest.raises(NoReplyError):
        await shop.broker_client.send(Stock(item="chair"), topic=names("Nobody"), timeout=4)


async def test_a_query_that_would_change_something_fails(
    shop: CQRS, warehouse: CQRS, names: Names, script: Script
) -> None:
    script.raises["chair"] = [SoldOutError("none"), RuntimeError("planned")]

    with pytest.raises(RemoteRefusedError):
        await shop.broker_client.send(Stock(item="chair"), topic=names("Stock"))
    with pytest.raises(RemoteFailedError):
        await shop.broker_client.send(Stock(item="chair"), topic=names("Stock"))

    assert await inbox_rows(warehouse) == []
    assert await letters(warehouse) == []


async def test_no_success_is_told_of_a_command_that_was_rolled_back(
    shop: CQRS, warehouse: CQRS, names: Names, script: Script
) -> None:
    script.rolled_back = {"chair"}
    async with Ear(shop.broker, f"shop-{names.run}.replies") as ear:
        with pytest.raises(RemoteFailedError):
            await shop.broker_client.send(Reserve(item="chair"), topic=names("Reserve"))

    assert [reply.headers["reply-status"] for reply in ear.heard] == [b"failure"]
    assert await done(warehouse) == []


@everywhere
async def test_user_tenant_correlation_and_trace_go_along(
    shop: CQRS, warehouse: CQRS, names: Names, script: Script
) -> None:
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    metadata = Metadata(
        message_id=uuid4(),
        correlation_id="c-1",
        time=datetime.now(UTC),
        user="anna",
        tenant="acme",
        traceparent=trace,
        headers={"device": "till-7"},
    )
    token = enter(Received(metadata))
    try:
        await shop.broker_client.send(Reserve(item="chair"), topic=names("Reserve"), timeout=30)
    finally:
        leave(token)

    [seen] = script.seen
    assert (seen.user, seen.tenant, seen.correlation_id, seen.traceparent) == ("anna", "acme", "c-1", trace)
    assert (seen.causation_id, dict(seen.headers)) == (metadata.message_id, {"device": "till-7"})
    [recorded] = await events_of(warehouse)
    assert recorded["correlation-id"] == "c-1"
    assert recorded["causation-id"] == str(seen.message_id)


async def events_of(cqrs: CQRS) -> list[dict[str, str]]:
    from cqrs_fastapi.messages.json_codec import parse_json  # noqa: PLC0415

    events = cqrs.database.tables.events
    rows = await cqrs.database.read(
        lambda c: c.execute(events.select().where(events.c.type == Reserved.__name__)).mappings().all()
    )
    return [parse_json(row[events.c.meta]) for row in rows]


TOKEN = {"reply-to": "ear.replies", "reply-token": "t"}


@pytest.mark.parametrize(
    ("headers", "payload", "code"),
    [
        ({}, b'{"item":7}', "malformed_message"),
        ({}, b"not json", "malformed_message"),
        ({}, b'{"item":"chair","unknown":1}', "malformed_message"),
        ({}, b"[" * 100_000, "malformed_message"),
        ({}, b'{"item":"' + b"x" * 200_000 + b'"}', "message_too_large"),
        ({"message-id": "7"}, b'{"item":"chair"}', "malformed_message"),
        ({"time": "yesterday"}, b'{"item":"chair"}', "malformed_message"),
        ({"reply-to": "accounts"}, b'{"item":"chair"}', "malformed_message"),
        ({"reply-to": "../x.replies"}, b'{"item":"chair"}', "malformed_message"),
        ({"reply-token": "t" * 500}, b'{"item":"chair"}', "malformed_message"),
    ],
    ids=["type", "json", "field", "depth", "size", "id", "time", "topic", "path", "token"],
)
async def test_what_cannot_be_understood_is_a_dead_letter_and_is_answered_where_it_says_whom(
    warehouse: CQRS, names: Names, headers: dict[str, str], payload: bytes, code: str
) -> None:
    message_id = uuid4()
    async with Ear(warehouse.broker, "ear.replies") as ear, Ear(warehouse.broker, "accounts") as other:
        given = {"message-id": str(message_id), **TOKEN, **headers}
        await put(warehouse.broker, names("Reserve"), payload, message_id, given)
        await put(warehouse.broker, names("Reserve"), b'{"item":"after"}', uuid4(), {"type": "__import__"})
        await until(lambda: letters(warehouse))
        if headers == {}:
            await until(lambda: ear.heard)

    [letter] = await letters(warehouse)
    assert (letter.consumer, letter.code, letter.payload) == (f"command:{names('Reserve')}", code, payload)
    assert await done(warehouse) == ["after"]
    assert other.heard == []
    for reply in ear.heard:
        assert (reply.headers["reply-status"], reply.headers["reply-token"]) == (b"failure", b"t")
        assert reply.headers["causation-id"] == str(message_id).encode()


async def test_a_forged_reply_with_another_token_is_nobodys_answer(
    shop: CQRS, warehouse: CQRS, names: Names, script: Script
) -> None:
    script.waits["chair"] = asyncio.Event()
    async with Ear(shop.broker, names("Reserve")) as ear:
        asking = asyncio.create_task(shop.broker_client.send(Reserve(item="chair"), topic=names("Reserve")))
        await until(lambda: ear.heard)
        [request] = ear.heard
        known = {name: request.headers[name].decode() for name in ("correlation-id", "reply-token")}
        process = known["reply-token"].partition(".")[0]
        for token in (process, f"{process}.", "", request.headers["message-id"].decode()):
            forged = {
                "reply-token": token,
                "reply-status": "success",
                "correlation-id": known["correlation-id"],
                "causation-id": request.headers["message-id"].decode(),
            }
            await put(shop.broker, f"shop-{names.run}.replies", b"666", uuid4(), forged)
        script.waits["chair"].set()

        assert await asking == 1


async def test_tokens_are_long_and_each_is_new(shop: CQRS, warehouse: CQRS, names: Names) -> None:
    async with Ear(shop.broker, names("Reserve")) as ear:
        for _ in range(3):
            await shop.broker_client.send(Reserve(item="chair"), topic=names("Reserve"))

    tokens = {message.headers["reply-token"].decode().partition(".")[2] for message in ear.heard}
    assert len(tokens) == 3
    assert {len(token) for token in tokens} == {32}


@pytest.mark.parametrize("place", ["sqlite and memory"], indirect=True)
async def test_an_answer_that_no_reply_can_hold_is_a_failure_with_nothing_done(
    shop: CQRS, warehouse: CQRS, names: Names
) -> None:
    message_id = UUID(int=7)
    with pytest.raises(RemoteFailedError) as failed:
        await shop.broker_client.send(Reserve(item="-1"), topic=names("Reserve"), message_id=message_id)

    assert failed.value.failure == "unanswerable"
    assert await done(warehouse) == []
    assert [letter.code for letter in await letters(warehouse)] == ["unanswerable"]
