"""Personal fields on their way through an application: encrypted where they are kept, in clear where they are used."""

import asyncio
import json
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest
from customers import (
    MASTER,
    Address,
    Copy,
    Greet,
    Greeted,
    History,
    Look,
    Plain,
    Register,
    Registered,
    RegisterInSession,
    Rename,
    build,
    everything,
    opened,
    overview,
    prepare,
    rows_of,
)
from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from cqrs_fastapi import CQRS, Command, EventStore, Metadata, Personal, Query, Settings, UnitOfWork, event, is_forgotten
from cqrs_fastapi.dead_letters.parking import newest
from cqrs_fastapi.errors import ConfigurationError, MalformedMessageError, MessageTooLargeError
from cqrs_fastapi.messages.metadata import Origin, enter, leave
from cqrs_fastapi.personal_data.key_ring import SubjectForgottenError
from cqrs_fastapi.personal_data.tokens import PREFIX

pytestmark = pytest.mark.anyio

EMAIL = "ada.lovelace@example.org"


async def register(cqrs: CQRS, email: str = EMAIL, **more: Any) -> UUID:
    customer = uuid4()
    await cqrs.mediator.send(Register(id=customer, email=email, **more))
    return customer


async def test_a_personal_value_is_in_no_table_and_is_read_by_the_aggregate_and_by_the_store(database_url: str) -> None:
    async with opened(database_url) as cqrs:
        customer = await register(cqrs, address=Address(street="St James's Square", lines=("12",)))
        await cqrs.mediator.send(Greet(id=customer, greeting="dear Augusta"))
        stored = await everything(cqrs)
        for planted in (EMAIL, "St James", "Augusta", ": 44"):
            assert planted not in stored
        assert stored.count(PREFIX) == 2 * 3 + 1  # the event and its row of the outbox, and the one that has no stream
        assert await cqrs.mediator.send(Look(id=customer)) == (EMAIL, "", 44)
        (read,) = await cqrs.mediator.send(History(stream=f"Customer-{customer}"))
        assert read == Registered(
            customer_id=customer, email=EMAIL, age=44, address=Address(street="St James's Square", lines=("12",))
        )


async def test_another_process_with_the_same_master_key_reads_it(database_url: str) -> None:
    async with opened(database_url) as cqrs:
        customer = await register(cqrs)
    async with build(database_url).running(workers=()) as other:
        assert await other.mediator.send(Look(id=customer)) == (EMAIL, "", 44)


async def test_a_value_that_looks_like_a_token_is_encrypted_in_a_personal_field_and_left_alone_in_another(
    database_url: str,
) -> None:
    async with opened(database_url) as cqrs:
        first = await register(cqrs)
        events = await rows_of(cqrs, cqrs.database.tables.events)
        token = json.loads(events[0]["data"])["email"]
        second = await register(cqrs, email=token, note=token)
        third = await register(cqrs, note=f'{PREFIX}AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA:"x"')
        await cqrs.personal_data.forget(first)
        (read,) = await cqrs.mediator.send(History(stream=f"Customer-{second}"))
        assert (read.email, read.note) == (token, token)
        (other,) = await cqrs.mediator.send(History(stream=f"Customer-{third}"))
        assert other.note == f'{PREFIX}AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA:"x"'


async def test_a_token_that_was_moved_to_another_stream_is_refused(database_url: str) -> None:
    async with opened(database_url) as cqrs:
        await register(cqrs)
        second = await register(cqrs, email="other@example.org")
        events = cqrs.database.tables.events
        first_data = (await rows_of(cqrs, events))[0]["data"]
        moved = update(events).where(events.c.stream == f"Customer-{second}").values(data=first_data)
        await cqrs.database.write(lambda connection: connection.execute(moved).rowcount)
        with pytest.raises(MalformedMessageError, match="email holds an encrypted value of another place"):
            await cqrs.mediator.send(Look(id=second))


async def test_a_forgotten_value_reads_as_its_placeholder_and_the_fold_goes_on(database_url: str) -> None:
    async with opened(database_url) as cqrs:
        customer, other = await register(cqrs, address=Address(street="x")), await register(cqrs, email="b@example.org")
        report = await cqrs.personal_data.forget(customer)
        assert report.subject == str(customer)
        assert await cqrs.mediator.send(Look(id=customer)) == ("(forgotten)", "", -1)
        assert await cqrs.mediator.send(Look(id=other)) == ("b@example.org", "", 44)
        (read,) = await cqrs.mediator.send(History(stream=f"Customer-{customer}"))
        assert (read.email, read.age, read.address) == ("(forgotten)", -1, None)
        assert is_forgotten(read, "email")
        assert is_forgotten(read, "age")
        with pytest.raises(TypeError, match="note is not personal"):
            is_forgotten(read, "note")


async def test_nothing_personal_is_recorded_of_somebody_who_was_forgotten(database_url: str) -> None:
    async with opened(database_url) as cqrs:
        customer, unknown = await register(cqrs), uuid4()
        await cqrs.personal_data.forget(customer)
        await cqrs.personal_data.forget(unknown)
        for command in (
            Rename(id=customer, name="Augusta"),
            RegisterInSession(id=customer, email=EMAIL),
            Register(id=unknown, email=EMAIL),
        ):
            with pytest.raises(SubjectForgottenError):
                await cqrs.mediator.send(command)
        assert EMAIL not in await everything(cqrs)
        keys = await rows_of(cqrs, cqrs.database.tables.subject_keys)
        assert [row["wrapped_key"] for row in keys] == [None, None]


async def test_an_event_that_holds_no_personal_value_needs_no_key(database_url: str) -> None:
    class Left(Command[None]):
        id: UUID

    @event(subject="customer_id")
    @dataclass(frozen=True)
    class Gone:
        customer_id: UUID
        reason: Personal[str | None] = None

    cqrs = build(database_url)
    cqrs.register(Gone)

    @cqrs.handles(Left)
    async def left(command: Left, store: EventStore) -> None:
        await store.append(f"Left-{command.id}", [Gone(command.id)])

    await prepare(cqrs)
    async with cqrs.running(workers=()):
        customer = await register(cqrs)
        await cqrs.personal_data.forget(customer)
        await cqrs.mediator.send(Left(id=customer))


async def test_the_limit_of_an_event_counts_what_is_stored(database_url: str) -> None:
    async with opened(database_url, max_event_bytes=700) as cqrs:
        with pytest.raises(MessageTooLargeError):
            await register(cqrs, email="x" * 400)


async def test_dataclasses_and_structs_are_encrypted_too(database_url: str) -> None:
    @event(name="moved", subject="who")
    @dataclass(frozen=True)
    class Moved:
        who: str
        town: Personal[str]

    @event(name="phoned", subject="who")
    class Phoned(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
        who: str
        phone_number: Personal[str]
        second_number: Personal[str | None] = None

    class Both(Command[None]):
        pass

    class Read(Query[list[Any]]):
        pass

    cqrs = build(database_url)
    cqrs.register(Moved, Phoned)

    @cqrs.handles(Both)
    async def both(command: Both, store: EventStore) -> None:
        await store.append("People-1", [Moved("ada", "Ockham"), Phoned(who="ada", phone_number="0181")])

    @cqrs.handles(Read)
    async def read(query: Read, store: EventStore) -> list[Any]:
        return [one.event async for one in store.read_all()]

    await prepare(cqrs)
    async with cqrs.running(workers=()):
        await cqrs.mediator.send(Both())
        stored = await everything(cqrs)
        assert "Ockham" not in stored
        assert "0181" not in stored
        assert await cqrs.mediator.send(Read()) == [Moved("ada", "Ockham"), Phoned(who="ada", phone_number="0181")]
        await cqrs.personal_data.forget("ada")
        assert await cqrs.mediator.send(Read()) == [
            Moved("ada", "(forgotten)"),
            Phoned(who="ada", phone_number="(forgotten)"),
        ]


async def test_each_tenant_has_subjects_of_its_own(database_url: str) -> None:
    async with opened(database_url) as cqrs:
        customer = uuid4()

        async def of(tenant: str, message: Any) -> Any:
            message_id = uuid4()
            metadata = Metadata(message_id, str(message_id), cqrs.engine.clock.now(), tenant=tenant)
            token = enter(Origin(metadata))
            try:
                return await cqrs.mediator.send(message)
            finally:
                leave(token)

        for tenant in ("north", "south"):
            await of(tenant, Register(id=customer, email=f"{tenant}@example.org"))
        report = await cqrs.personal_data.forget(customer, tenant="north")
        assert report.tenant == "north"
        assert await of("north", Look(id=customer)) == ("(forgotten)", "", -1)
        assert await of("south", Look(id=customer)) == ("south@example.org", "", 44)


async def until(condition: Any) -> None:
    while not await condition():
        await asyncio.sleep(0.02)


async def test_durable_handlers_get_personal_values_and_after_forgetting_placeholders(database_url: str) -> None:
    cqrs = build(database_url)
    await prepare(cqrs)
    async with cqrs.running(workers=("relay", "consumer")):
        customer = await register(cqrs)

        async def projected() -> bool:
            return bool(await rows_of(cqrs, overview))

        await until(projected)
        assert [row["email"] for row in await rows_of(cqrs, overview)] == [EMAIL]
        report = await cqrs.personal_data.forget(customer)
        assert report.rows == {"overview": 1}
        assert await rows_of(cqrs, overview) == []
    async with build(database_url, projects=False).running(workers=()) as other:
        assert await other.mediator.send(Look(id=customer)) == ("(forgotten)", "", -1)


async def test_a_dead_letter_keeps_the_encrypted_bytes_and_no_text_of_the_error(database_url: str) -> None:
    cqrs = build(database_url, projects=False)

    @cqrs.on(Registered, name="failing")
    async def fail(event: Registered, session: AsyncSession) -> None:
        try:
            {}[event.email]
        except KeyError as error:
            raise RuntimeError(f"cannot write to {event.email}") from error

    @cqrs.on(Plain, name="plainly")
    async def plainly(event: Plain) -> None:
        raise RuntimeError(f"cannot do {event.text}")

    class Say(Command[None]):
        text: str

    @cqrs.handles(Say)
    async def say(command: Say, unit: UnitOfWork) -> None:
        unit.publish(Plain(text=command.text))

    await prepare(cqrs)
    async with cqrs.running(workers=("consumer",)):
        await register(cqrs)
        await cqrs.mediator.send(Say(text="plain words"))
        letters = cqrs.database.tables.dead_letters

        async def parked() -> bool:
            count = select(func.count()).select_from(letters)
            return await cqrs.database.read(lambda connection: connection.execute(count).scalar_one()) == 2

        await until(parked)
        found = await cqrs.database.read(lambda connection: newest(connection, cqrs.database.tables, 10))
        secret = next(one for one in found if one.consumer == "failing")
        plain = next(one for one in found if one.consumer == "plainly")
        assert EMAIL not in await everything(cqrs)
        assert secret.code == "RuntimeError"
        assert "in fail" in secret.traceback
        assert "KeyError" in secret.traceback
        assert PREFIX.encode() in secret.payload
        assert "plain words" in plain.error
        assert "plain words" in plain.traceback


async def test_a_consumer_of_another_service_reads_placeholders(sqlite_url: str) -> None:
    """It shares the broker, and has a database and keys of its own."""
    seen: list[Greeted | Registered] = []
    cqrs = build(sqlite_url, projects=False)
    other = CQRS(
        settings=Settings(
            database_url=sqlite_url.replace("test.db", "other.db"),
            service="other",
            personal_data_keys=f"its-own:{MASTER}",
        ),
        broker=cqrs.broker,
    )

    @other.on(Greeted, name="greeted")
    async def greeted(event: Greeted) -> None:
        seen.append(event)

    @other.on(Registered, name="registered")
    async def registered(event: Registered) -> None:
        seen.append(event)

    await prepare(cqrs)
    async with other.running(workers=("consumer",)), cqrs.running(workers=("relay",)):
        customer = await register(cqrs, note="plain")
        await cqrs.mediator.send(Greet(id=customer, greeting="dear Augusta"))
        while len(seen) < 2:
            await asyncio.sleep(0.02)
    assert {type(one): is_forgotten(one, "greeting" if isinstance(one, Greeted) else "email") for one in seen} == {
        Greeted: True,
        Registered: True,
    }


async def test_a_consumer_with_the_keys_decrypts_what_comes_by_the_broker(database_url: str) -> None:
    """The same database, read as another service: its handlers have no place in the store of the first one."""
    seen: list[Greeted | Registered] = []
    cqrs = build(database_url, projects=False)
    other = CQRS(settings=Settings(database_url=database_url, service="other", personal_data_keys=f"main:{MASTER}"))
    other.container.providers["broker"].override(cqrs.container.providers["broker"])

    @other.on(Greeted, name="greeted")
    async def greeted(event: Greeted) -> None:
        seen.append(event)

    await prepare(cqrs)
    async with other.running(workers=("consumer",)), cqrs.running(workers=("relay",)):
        customer = uuid4()
        await cqrs.mediator.send(Greet(id=customer, greeting="dear Augusta"))
        while len(seen) < 1:
            await asyncio.sleep(0.02)
    assert seen == [Greeted(customer_id=customer, greeting="dear Augusta")]


def test_personal_fields_without_a_key_are_an_error_at_the_start(sqlite_url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"Registered.email is personal.*CQRS_PERSONAL_DATA_KEYS"):
        asyncio.run(build(sqlite_url, keys=None).open())


async def test_a_command_that_only_reads_personal_data_is_committed(database_url: str) -> None:
    async with opened(database_url) as cqrs:
        customer = await register(cqrs)
        await cqrs.mediator.send(Copy(id=customer))
        assert [row["email"] for row in await rows_of(cqrs, overview)] == [EMAIL]


async def test_a_unit_of_work_that_fails_leaves_no_key_of_its_session(database_url: str) -> None:
    async with opened(database_url) as cqrs:
        customer = uuid4()
        with pytest.raises(RuntimeError, match="planned"):
            await cqrs.mediator.send(RegisterInSession(id=customer, email=EMAIL, fails=True))
        async with cqrs.database.session() as session, cqrs.scope(session=session) as scope:
            await scope.send(RegisterInSession(id=customer, email=EMAIL))
            # The owner of the session leaves without a commit: neither event nor key is there.
        await cqrs.mediator.send(Register(id=customer, email=EMAIL))
        await cqrs.mediator.send(Rename(id=customer, name="Augusta"))
    async with build(database_url).running(workers=()) as other:
        assert await other.mediator.send(Look(id=customer)) == (EMAIL, "Augusta", 44)
