"""The mark of a partition never passes a message that is being worked on, in whatever order works end."""

from datetime import UTC, datetime
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from cqrs_fastapi.brokers.broker import IncomingMessage
from cqrs_fastapi.inbox.watermark import Watermark


def message(offset: int) -> IncomingMessage:
    return IncomingMessage("topic", 0, offset, b"k", b"12345", {}, datetime.now(UTC))


@given(
    works=st.lists(st.integers(min_value=0, max_value=3), min_size=1, max_size=30),
    rounds=st.randoms(use_true_random=False),
    taking=st.floats(min_value=0, max_value=1),
)
def test_what_is_passed_is_always_a_prefix_of_what_has_ended(works: list[int], rounds: Random, taking: float) -> None:
    mark = Watermark()
    entries = [mark.begin(message(offset)) for offset in range(len(works))]
    left = [1 + more for more in works]
    for entry, more in zip(entries, works, strict=True):
        mark.more(entry, more)
    passed: list[int] = []
    while any(left):
        offset = rounds.choice([n for n, count in enumerate(left) if count])
        left[offset] -= 1
        mark.end(entries[offset])
        if rounds.random() < taking:
            passed += [one.offset for one in mark.take()]
        assert passed == list(range(len(passed)))
        assert not any(left[: len(passed)])
    passed += [one.offset for one in mark.take()]
    assert passed == list(range(len(works)))
    assert (len(mark), mark.bytes) == (0, 0)


def test_what_could_not_be_settled_is_taken_again_in_its_place() -> None:
    mark = Watermark()
    first, second = mark.begin(message(0)), mark.begin(message(1))
    mark.end(first)
    taken = mark.take()
    mark.end(second)
    mark.give_back(taken)
    assert [one.offset for one in mark.take()] == [0, 1]
