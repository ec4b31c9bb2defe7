import os
import threading
import time
from uuid import RFC_4122, UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cqrs_fastapi.identity import Uuid7Factory


def test_identifiers_ascend_strictly_within_a_factory_as_numbers_and_as_text() -> None:
    make = Uuid7Factory()
    made = [make() for _ in range(20_000)]
    assert made == sorted(set(made))
    assert [str(one) for one in made] == sorted(str(one) for one in made)


def test_the_fields_are_those_of_rfc_9562() -> None:
    before = time.time_ns() // 1_000_000
    one = Uuid7Factory()()
    after = time.time_ns() // 1_000_000
    assert (one.version, one.variant) == (7, RFC_4122)
    assert before <= one.int >> 80 <= after


@given(st.integers(0, 2**48 - 1), st.integers(1, 3))
def test_a_clock_that_stands_or_goes_back_changes_nothing_about_the_order(now: int, back: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        times = iter([now, now, max(0, now - back), now])
        patch.setattr(time, "time_ns", lambda: next(times) * 1_000_000)
        make = Uuid7Factory()
        made = [make() for _ in range(4)]
    assert made == sorted(made)
    assert {one.version for one in made} == {7}


def test_more_than_4096_in_one_millisecond_borrow_from_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time_ns", lambda: 1_000_000_000)
    make = Uuid7Factory()
    made = [make() for _ in range(5000)]
    assert made == sorted(made)
    assert {one.int >> 80 for one in made} == {1000, 1001}


def test_threads_that_share_a_factory_never_make_the_same_identifier() -> None:
    """Their order is promised only to calls that do not overlap: 62 random bits keep the others apart."""
    make, made = Uuid7Factory(), list[list[UUID]]()

    def work() -> None:
        made.append([make() for _ in range(2000)])

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({one for each in made for one in each}) == 16_000


def test_a_factory_with_the_same_past_makes_other_identifiers(monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a fork: the random bits come from the system at each call, never from a state that is copied."""
    monkeypatch.setattr(time, "time_ns", lambda: 1_000_000_000)
    one, other = Uuid7Factory(), Uuid7Factory()
    assert {one() for _ in range(100)}.isdisjoint({other() for _ in range(100)})


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_does_not_repeat_its_parent() -> None:
    make = Uuid7Factory()
    make()
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        os.write(writer, make().bytes)
        os._exit(0)
    os.waitpid(child, 0)
    assert UUID(bytes=os.read(reader, 16)).int & (2**62 - 1) != make().int & (2**62 - 1)
