"""The keys of data subjects: made once, kept for a while, unwrapped by whoever wrapped them."""

import asyncio
import base64
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from functools import partial
from uuid import UUID, uuid4

import pytest
from sqlalchemy import func, select, text, update

from cqrs_fastapi import ConfigurationError, Settings, UnavailableError
from cqrs_fastapi.clock import SystemClock
from cqrs_fastapi.errors import UnknownOutcomeError
from cqrs_fastapi.identity import Uuid7Factory
from cqrs_fastapi.migrations import upgrade
from cqrs_fastapi.personal_data.cipher import new_key
from cqrs_fastapi.personal_data.forgetting import forget
from cqrs_fastapi.personal_data.key_cache import AT_MOST, KEPT, KeyCache, SubjectKey
from cqrs_fastapi.personal_data.key_provider import (
    KeyNotUnwrappedError,
    KeyProvider,
    LocalKeyProvider,
    Wrapped,
    keys_of,
)
from cqrs_fastapi.personal_data.key_ring import KeyRing, SubjectForgottenError, Within
from cqrs_fastapi.storage.database import Database

pytestmark = pytest.mark.anyio

MASTER = new_key()
SECONDS = KEPT.total_seconds()


class Time:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Counting:
    """A provider that counts, and can be stopped in the middle."""

    def __init__(self) -> None:
        self.inner: KeyProvider = LocalKeyProvider({"main": MASTER})
        self.wraps = self.unwraps = 0
        self.gate: asyncio.Event | None = None
        self.reached = asyncio.Event()

    async def wrap(self, key: bytes, context: bytes) -> Wrapped:
        self.wraps += 1
        return await self.inner.wrap(key, context)

    async def unwrap(self, wrapped: Wrapped, context: bytes) -> bytes:
        self.unwraps += 1
        self.reached.set()
        if self.gate is not None:
            await self.gate.wait()
        return await self.inner.unwrap(wrapped, context)


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = Database(Settings(database_url=database_url))
    await database.open()
    if database.dialect == "postgresql":
        async with database.engine.begin() as connection:
            await connection.run_sync(upgrade)
    yield database
    await database.close()


def ring(database: Database, provider: KeyProvider | None = None, now: Time | None = None) -> KeyRing:
    given = provider or LocalKeyProvider({"main": MASTER})
    return KeyRing(database, given, SystemClock(), Uuid7Factory(), now=now or Time())


async def forgotten(database: Database, subject: str) -> UUID:
    work = partial(forget, tables=database.tables, read_models=(), tenant="", subject=subject, key_id=uuid4())
    return (await database.write(partial(work, now=datetime.now(UTC)))).key_id


async def test_a_subject_has_one_key_whoever_asks_for_it(database: Database) -> None:
    first = await ring(database).for_writing("", ["ada", "byron"])
    second = await ring(database).for_writing("", ["byron", "ada"])
    assert first == second
    assert first["ada"].key != first["byron"].key


class Together:
    """Lets nobody store a key before all have made one."""

    def __init__(self, parties: int) -> None:
        self.inner = LocalKeyProvider({"main": MASTER})
        self.barrier = asyncio.Barrier(parties)

    async def wrap(self, key: bytes, context: bytes) -> Wrapped:
        await self.barrier.wait()
        return await self.inner.wrap(key, context)

    async def unwrap(self, wrapped: Wrapped, context: bytes) -> bytes:
        return await self.inner.unwrap(wrapped, context)


async def test_of_many_who_make_a_key_at_once_one_does_it(database: Database) -> None:
    provider = Together(16)
    rings = [ring(database, provider) for _ in range(16)]
    subjects = [f"s{number}" for number in range(5)]
    found = await asyncio.gather(*(one.for_writing("", subjects) for one in rings))
    assert all(one == found[0] for one in found)
    counted = select(func.count()).select_from(database.tables.subject_keys)
    assert await database.read(lambda connection: connection.execute(counted).scalar_one()) == 5


async def test_a_key_that_is_kept_costs_neither_database_nor_provider(database: Database) -> None:
    provider = Counting()
    keys = ring(database, provider)
    made = await keys.for_writing("", ["ada"])
    await database.close()
    assert await keys.for_writing("", ["ada"]) == made
    assert await keys.for_reading([made["ada"].key_id]) == {made["ada"].key_id: made["ada"].key}
    assert (provider.wraps, provider.unwraps) == (1, 0)
    await database.open()


async def test_a_key_is_kept_for_a_minute_and_not_longer(database: Database) -> None:
    time, provider = Time(), Counting()
    keys = ring(database, provider, time)
    await keys.for_writing("", ["ada"])
    time.now = SECONDS - 1
    await keys.for_writing("", ["ada"])
    assert provider.unwraps == 0
    time.now = SECONDS
    await keys.for_writing("", ["ada"])
    assert provider.unwraps == 1


async def test_another_process_stops_when_it_looks_again(database: Database) -> None:
    time = Time()
    here, elsewhere = ring(database), ring(database, now=time)
    made = await here.for_writing("", ["ada"])
    await elsewhere.for_reading([made["ada"].key_id])
    await forgotten(database, "ada")
    assert await elsewhere.for_reading([made["ada"].key_id]) != {}  # as it was told: for a minute at most
    time.now = SECONDS
    assert await elsewhere.for_reading([made["ada"].key_id]) == {}
    with pytest.raises(SubjectForgottenError):
        await elsewhere.for_writing("", ["ada"])


async def test_a_key_that_was_being_read_when_it_was_destroyed_is_not_kept(database: Database) -> None:
    made = await ring(database).for_writing("", ["ada"])
    key_id, provider = made["ada"].key_id, Counting()
    provider.gate = asyncio.Event()
    keys = ring(database, provider)
    reading = asyncio.ensure_future(keys.for_reading([key_id]))
    await provider.reached.wait()  # the row was read, the key is being unwrapped
    assert await forgotten(database, "ada") == key_id
    keys.drop([key_id])
    provider.gate.set()
    await reading
    assert len(keys.cache) == 0
    assert await keys.for_reading([key_id]) == {}


async def test_a_key_that_nobody_knows_is_asked_for_once(database: Database) -> None:
    keys, unknown = ring(database), uuid4()
    assert await keys.for_reading([unknown]) == {}
    await database.close()
    assert await keys.for_reading([unknown]) == {}
    await database.open()


async def test_nothing_is_kept_of_what_a_transaction_may_take_back(database: Database) -> None:
    keys = ring(database)
    async with database.session() as session:
        own = Within(partial(database.run, session), is_ours=True)
        await keys.for_writing("", ["ada"], own)
        assert len(keys.cache) == 0
    async with database.session() as session:
        joined = Within(partial(database.run, session), is_ours=False)
        first = await keys.for_writing("", ["byron"], joined)
        assert await keys.for_writing("", ["byron"], joined) == first
        assert await keys.for_reading([first["byron"].key_id], joined) != {}
        assert len(keys.cache) == 0
    counted = select(func.count()).select_from(database.tables.subject_keys)
    assert await database.read(lambda connection: connection.execute(counted).scalar_one()) == 0


async def test_a_lost_answer_about_a_key_says_that_nothing_was_written(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def lost(work: object) -> None:
        raise UnknownOutcomeError("lost")

    monkeypatch.setattr(database, "write_few", lost)
    with pytest.raises(UnavailableError, match="try again"):
        await ring(database).for_writing("", ["ada"])


async def test_a_new_master_key_wraps_and_an_old_one_still_unwraps(database: Database) -> None:
    made = await ring(database).for_writing("", ["ada"])
    new = new_key()
    rotated = ring(database, LocalKeyProvider({"new": new, "main": MASTER}))
    assert await rotated.for_writing("", ["ada"]) == made
    later = await rotated.for_writing("", ["byron"])
    without = ring(database, LocalKeyProvider({"new": new}))
    assert await without.for_writing("", ["byron"]) == later
    with pytest.raises(KeyNotUnwrappedError, match="wrapped by 'main'"):
        await without.for_writing("", ["ada"])


async def test_a_wrong_master_key_is_an_error_and_nobody_counts_as_forgotten(database: Database) -> None:
    made = await ring(database).for_writing("", ["ada"])
    wrong = ring(database, LocalKeyProvider({"main": new_key()}))
    with pytest.raises(KeyNotUnwrappedError, match="another key of that name"):
        await wrong.for_reading([made["ada"].key_id])
    assert len(wrong.cache) == 0


async def test_a_wrapped_key_that_was_moved_to_another_row_is_not_unwrapped(database: Database) -> None:
    made = await ring(database).for_writing("", ["ada", "byron"])
    keys = database.tables.subject_keys
    stolen = select(keys.c.wrapped_key).where(keys.c.subject == "ada").scalar_subquery()
    moved = update(keys).where(keys.c.subject == "byron").values(wrapped_key=stolen)
    await database.write(lambda connection: connection.execute(moved).rowcount)
    with pytest.raises(KeyNotUnwrappedError):
        await ring(database).for_reading([made["byron"].key_id])


async def test_statistics_of_the_server_hold_no_copy_of_a_key(postgres_url: str) -> None:
    database = Database(Settings(database_url=postgres_url))
    async with database.engine.begin() as connection:
        await connection.run_sync(upgrade)
    await ring(database).for_writing("", [f"s{number}" for number in range(50)])
    async with database.engine.begin() as connection:
        await connection.execute(text("ANALYZE cqrs_subject_keys"))
        columns = text("SELECT attname FROM pg_stats WHERE tablename = 'cqrs_subject_keys'")
        sampled = set((await connection.execute(columns)).scalars())
    await database.close()
    assert "subject" in sampled
    assert "wrapped_key" not in sampled


async def test_more_keys_than_one_statement_asks_for(database: Database) -> None:
    subjects = [f"s{number}" for number in range(450)]
    made = await ring(database).for_writing("", subjects)
    found = await ring(database).for_reading([key.key_id for key in made.values()])
    assert found == {key.key_id: key.key for key in made.values()}


def test_the_cache_has_a_bound() -> None:
    cache = KeyCache(Time())
    for number in range(AT_MOST + 5):
        cache.put(SubjectKey(UUID(int=number), b"k"), ("", str(number)), cache.reading())
    assert len(cache) == AT_MOST
    assert cache.of_subject("", "4") is None
    assert cache.of_subject("", "5") == SubjectKey(UUID(int=5), b"k")


def test_a_slow_read_does_not_keep_a_key_for_longer() -> None:
    time = Time()
    cache = KeyCache(time)
    reading = cache.reading()
    time.now = 50
    cache.put(SubjectKey(UUID(int=1), b"k"), None, reading)
    time.now = SECONDS
    assert cache.of_id(UUID(int=1)) is None


def test_the_setting_names_keys_and_the_first_one_is_in_use() -> None:
    first, second = (base64.b64encode(new_key()).decode() for _ in range(2))
    assert list(keys_of(f"new:{first}, old:{second}")) == ["new", "old"]


@pytest.mark.parametrize("setting", ["x", "main:", "main:!!!", ":AAAA", "a:AAAA,a:AAAA", "a:AAAA,,"])
def test_a_setting_that_is_wrong_is_refused_and_not_repeated(setting: str) -> None:
    with pytest.raises(ConfigurationError, match=r"name:base64, or repeats") as refused:
        keys_of(setting)
    assert "AAAA" not in str(refused.value)


def test_a_master_key_has_256_bits() -> None:
    with pytest.raises(ConfigurationError, match="'main' has 16 bytes"):
        LocalKeyProvider({"main": bytes(16)})
    with pytest.raises(ConfigurationError, match="needs a key"):
        LocalKeyProvider({})
    assert "AAAA" not in repr(Settings(personal_data_keys="main:AAAA"))
