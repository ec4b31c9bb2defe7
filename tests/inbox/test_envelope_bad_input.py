"""Nothing that strangers write brings another end than the one it should have, or memory that grows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from bad_input import HANDLED, LIMIT, MALFORMED, TOO_LARGE, UNKNOWN, Case, corpus, envelopes, registry
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy.ext.asyncio import create_async_engine

from cqrs_fastapi.errors import MessageError
from cqrs_fastapi.inbox.envelope import decode
from cqrs_fastapi.migrations import upgrade

CASES = corpus()
ENVELOPES, REGISTRY = envelopes(), registry()


def packed_or_json(value: Any) -> bytes:
    """Integers beyond 64 bits are none of MessagePack's."""
    try:
        return msgspec.msgpack.encode(value)
    except OverflowError:
        return json.dumps(value).encode()


PEAK = 32 << 20
EXAMPLES = int(os.environ.get("CQRS_FUZZ_EXAMPLES", "1000"))
"""Of each of the fuzz tests; `make fuzz` runs many more."""
ENDS = {HANDLED, MALFORMED, UNKNOWN, TOO_LARGE}
PROGRAM = Path(__file__).with_name("bad_input_program.py")
fuzz = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), database=None)

names = st.sampled_from(["message-id", "type", "version", "content-type", "content-encoding", "time", "tenant", "user"])
attributes = st.sampled_from(["id", "source", "type", "specversion", "time", "schemaversion", "causationid"])
values = st.binary(max_size=40) | st.sampled_from(
    [
        *(b"thing", b"packed", b"gzip", b"1", b"1.0", b"application/msgpack", b"application/cloudevents+json"),
        *(b"00000000-0000-0000-0000-000000000001", b"2026-01-01T00:00:00Z", b"cloud.thing", b"/s"),
    ]
)
headers = st.dictionaries(names | attributes.map("ce_{}".format) | st.text(max_size=10), values, max_size=8)
jsons = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(attributes | st.text(max_size=5), inner, max_size=6),
    max_leaves=12,
)
payloads = st.binary(max_size=200) | jsons.map(lambda value: json.dumps(value).encode()) | jsons.map(packed_or_json)
topics = st.sampled_from(["native", "clouds", "foreign", "numbered", "packed", "nobody"])


def end_of(case: Case) -> str:
    try:
        opened = ENVELOPES.open(case.message(), max_bytes=LIMIT)
        decode(opened, REGISTRY)
    except MessageError as error:
        return error.code if len(str(error)) < 2000 else "an error that is too long"
    assert opened.metadata.correlation_id.isprintable()
    assert all(name.isprintable() and text.isprintable() for name, text in opened.metadata.headers.items())
    return HANDLED


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name[:80].encode("ascii", "backslashreplace").decode())
def test_every_message_has_the_end_that_it_should_have(case: Case) -> None:
    tracemalloc.start()
    try:
        assert end_of(case) == case.end
        assert tracemalloc.get_traced_memory()[1] < PEAK
    finally:
        tracemalloc.stop()


@fuzz
@given(topics, payloads, headers)
def test_no_bytes_bring_anything_but_a_message_error(topic: str, payload: bytes, given: dict[str, bytes]) -> None:
    assert end_of(Case("fuzz", "", payload, given, topic)) in ENDS


@fuzz
@given(st.sampled_from([case for case in CASES if len(case.payload) < 5000]), st.data())
def test_no_change_to_a_message_brings_anything_but_a_message_error(case: Case, data: st.DataObject) -> None:
    payload, given = bytearray(case.payload), dict(case.headers)
    for _ in range(data.draw(st.integers(0, 3))):
        if payload:
            payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    for name in data.draw(st.sets(st.sampled_from(sorted(given)), max_size=2)) if given else ():
        given[name] = data.draw(values)
    topic = data.draw(st.just(case.topic) | topics)
    assert end_of(replace(case, payload=bytes(payload), headers=given, topic=topic)) in ENDS


@fuzz
@given(st.text(max_size=300) | st.binary(max_size=300), st.integers(0, 10**6))
def test_no_name_is_known_but_those_that_are_registered(name: str | bytes, version: int) -> None:
    wire = name if isinstance(name, bytes) else name.encode("utf-8", "surrogatepass")
    case = Case("name", "", headers={"message-id": b"0" * 32, "type": wire, "version": str(version).encode()})
    known = wire in {b"thing", b"imported", b"numbered", b"packed", b"cloud.thing"} and version == 1
    assert (end_of(case) == HANDLED) == (known and wire != b"numbered")


@pytest.mark.anyio
async def test_a_consumer_outlives_all_of_it_and_grows_no_memory(database_url: str) -> None:
    if database_url.startswith("postgresql"):
        engine = create_async_engine(database_url)
        async with engine.begin() as connection:
            await connection.run_sync(upgrade)
        await engine.dispose()
    told = run_consumer(database_url)

    assert told["cases"] >= 300
    assert told["wrong"] == []
    assert told["raw"], "dead letters keep the raw bytes"
    assert told["reasons"], "and tell why"
    assert told["audit"] == {}, "no name from the wire is imported or executed"
    assert (told["last"], told["ready"]) == ("at last", [])
    _, _, warm, _, last = told["rounds"]
    assert last - warm < 8 << 20
    assert told["peak"] - told["start"] < 64 << 20


def run_consumer(url: str) -> dict[str, Any]:
    command = [sys.executable, str(PROGRAM), url]
    ran = subprocess.run(command, capture_output=True, check=False, timeout=150)
    assert ran.returncode == 0, ran.stderr.decode()[-3000:]
    told: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return told
