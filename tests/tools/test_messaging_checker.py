"""Each kind of broken promise is planted in the evidence of a good run, and the checker must name it.

The evidence is small and made by hand: three keys, two partitions, poison, a fault, and what it may excuse.
"""

from __future__ import annotations

import ast
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tools.messaging_checker import written
from tools.messaging_checker.evidence import (
    Call,
    Command,
    DeadLetter,
    Effect,
    Entry,
    Evidence,
    Fault,
    Record,
    Stored,
    Terms,
)
from tools.messaging_checker.verdict import PROMISES, judge

CHECKER = Path(__file__).parents[2] / "tools" / "messaging_checker"
POISON = 9
KEYS = (1, 2, POISON)
EACH = 12
WRITERS = 3


def entries() -> list[Entry]:
    """Of each key twelve, by commands of one part; every third client's turn."""
    return [Entry(key, number, 1, key, number) for number in range(1, EACH + 1) for key in KEYS]


def good() -> Evidence:
    """All is well: one poison message is a dead letter, one call was refused and made again, a relay was killed."""
    terms = Terms(poison_key=POISON, relay_batch=2, in_flight=1, consumers=1, relays=2)
    evidence = Evidence(terms)
    for position, entry in enumerate(entries(), start=1):
        name = f"message-{entry.key}-{entry.number}"
        stream = f"account-{entry.key}"
        evidence.commands.append(Command(entry.client, entry.seq, entry.key, 1, ("ok",)))
        evidence.stored.append(Stored(position, stream, entry.number, name, entry))
        evidence.streams[stream] = entry.number
        evidence.records.append(Record(entry.key % 2, position, 1000.0 + position, stream, name, entry))
        _handle(evidence, name, entry)
    evidence.commands.append(Command(7, 1, 1, 2, ("fail",)))
    evidence.commands.append(Command(7, 2, 1, 2))
    evidence.faults.append(Fault("kill", "relay", 1010.0, 1010.5))
    evidence.records.append(replace(evidence.records[8], offset=len(evidence.records) + 1, at=1011.0))
    evidence.inbox = {(effect.handler, effect.message_id): "done" for effect in evidence.effects}
    return evidence


def _handle(evidence: Evidence, name: str, entry: Entry) -> None:
    handlers = evidence.terms.handlers
    poison = evidence.is_poison(entry)
    for handler in handlers:
        if not (poison and handler in evidence.terms.outside):
            evidence.effects.append(Effect(len(evidence.effects) + 1, handler, name, entry))
    evidence.calls.append(Call("notices", name, entry, "error" if poison or entry.number == 4 else "ok"))
    if poison:
        evidence.dead_letters.append(DeadLetter("notices", name, "RefusedOutsideError"))
    elif entry.number == 4:
        evidence.calls.append(Call("notices", name, entry, "ok"))


def at(key: int, number: int) -> int:
    """The index of an event in the store."""
    return entries().index(Entry(key, number, 1, key, number))


def name_of(key: int, number: int) -> str:
    return f"message-{key}-{number}"


def without(evidence: Evidence, key: int, number: int) -> None:
    """As if the command had never been carried out: only the client knows of it."""
    name = name_of(key, number)
    evidence.stored = [one for one in evidence.stored if one.message_id != name]
    evidence.records = [one for one in evidence.records if one.message_id != name]
    evidence.effects = [one for one in evidence.effects if one.message_id != name]
    evidence.calls = [one for one in evidence.calls if one.message_id != name]
    evidence.inbox = {pair: status for pair, status in evidence.inbox.items() if pair[1] != name}
    evidence.streams[f"account-{key}"] -= 1


def effect_of(evidence: Evidence, handler: str, key: int, number: int) -> int:
    return next(
        at
        for at, effect in enumerate(evidence.effects)
        if effect.handler == handler and effect.message_id == name_of(key, number)
    )


def names(evidence: Evidence) -> set[str]:
    return {name for name, _ in judge(evidence).findings}


# What is planted, by the promise that must be named for it.


def a_command_lost_from_the_store(evidence: Evidence) -> None:
    without(evidence, 1, EACH)


def an_event_lost_from_the_topic(evidence: Evidence) -> None:
    evidence.records = [one for one in evidence.records if one.message_id != name_of(1, 5)]
    evidence.outbox.append(name_of(1, 5))


def an_effect_lost(evidence: Evidence) -> None:
    del evidence.effects[effect_of(evidence, "books", 2, 7)]


def a_call_lost(evidence: Evidence) -> None:
    evidence.calls = [one for one in evidence.calls if one.message_id != name_of(2, 7)]


def a_call_that_only_failed(evidence: Evidence) -> None:
    evidence.calls = [
        replace(one, answered="error") if one.message_id == name_of(2, 7) else one for one in evidence.calls
    ]


def an_event_that_nobody_sent(evidence: Evidence) -> None:
    entry = Entry(5, 1, 1, 1, EACH + 1)
    evidence.stored.append(Stored(500, "account-1", EACH + 1, "message-x", entry))


def a_part_that_nobody_asked_for(evidence: Evidence) -> None:
    evidence.stored[at(1, 3)] = replace(evidence.stored[at(1, 3)], entry=Entry(1, 3, 2, 1, 3))


def a_record_of_no_event(evidence: Evidence) -> None:
    evidence.records.append(Record(1, 900, 1100.0, "account-1", "message-x", Entry(5, 1, 1, 1, EACH + 1)))


def a_record_of_a_command_rolled_back(evidence: Evidence) -> None:
    evidence.records.append(Record(1, 900, 1100.0, "account-1", "message-7-1", Entry(7, 1, 1, 1, EACH + 1)))


def a_record_without_an_id(evidence: Evidence) -> None:
    evidence.records.append(replace(evidence.records[0], offset=900, message_id=""))


def an_effect_of_no_event(evidence: Evidence) -> None:
    evidence.effects.append(Effect(900, "books", "message-x", Entry(5, 1, 1, 1, EACH + 1)))


def an_effect_of_no_handler(evidence: Evidence) -> None:
    evidence.effects.append(Effect(900, "nobody", name_of(1, EACH), Entry(1, EACH, 1, 1, EACH)))


def a_call_with_another_id(evidence: Evidence) -> None:
    evidence.calls.append(Call("notices", "message-x", Entry(1, EACH, 1, 1, EACH), "ok"))


def a_refused_command_that_was_done(evidence: Evidence) -> None:
    entry = Entry(7, 1, 1, 1, EACH + 1)
    evidence.stored.append(Stored(500, "account-1", EACH + 1, "message-7-1", entry))


def half_a_command(evidence: Evidence) -> None:
    evidence.commands[at(1, 3)] = replace(evidence.commands[at(1, 3)], parts=2)


def half_of_an_unknown_command(evidence: Evidence) -> None:
    entry = Entry(7, 2, 1, 1, EACH + 1)
    evidence.stored.append(Stored(500, "account-1", EACH + 1, "message-7-2", entry))


def a_command_done_twice(evidence: Evidence) -> None:
    entry = replace(evidence.stored[at(1, 3)].entry, number=EACH + 1)
    evidence.stored.append(Stored(500, "account-1", EACH + 1, "message-x", entry))


def an_effect_done_twice(evidence: Evidence) -> None:
    evidence.effects.append(replace(evidence.effects[effect_of(evidence, "journal", 1, EACH)], n=900))


def a_message_with_the_id_of_another(evidence: Evidence) -> None:
    evidence.stored[at(1, 3)] = replace(evidence.stored[at(1, 3)], message_id=name_of(1, 2))


def a_version_left_out(evidence: Evidence) -> None:
    without(evidence, 2, 3)
    evidence.commands[at(2, 3)] = replace(evidence.commands[at(2, 3)], outcomes=())


def versions_against_the_positions(evidence: Evidence) -> None:
    one, two = evidence.stored[at(2, 3)], evidence.stored[at(2, 4)]
    evidence.stored[at(2, 3)] = replace(one, position=two.position)
    evidence.stored[at(2, 4)] = replace(two, position=one.position)


def a_row_of_a_stream_that_is_ahead(evidence: Evidence) -> None:
    evidence.streams["account-1"] += 1


def a_decision_on_a_stale_count(evidence: Evidence) -> None:
    stored = evidence.stored[at(1, 4)]
    evidence.stored[at(1, 4)] = replace(stored, entry=replace(stored.entry, number=3))


def two_records_swapped(evidence: Evidence) -> None:
    one, two = evidence.records[at(1, 6)], evidence.records[at(1, 7)]
    evidence.records[at(1, 6)] = replace(one, offset=two.offset)
    evidence.records[at(1, 7)] = replace(two, offset=one.offset)


def two_effects_swapped(evidence: Evidence) -> None:
    one, two = effect_of(evidence, "books", 1, 6), effect_of(evidence, "books", 1, 7)
    evidence.effects[one], evidence.effects[two] = (
        replace(evidence.effects[one], n=evidence.effects[two].n),
        replace(evidence.effects[two], n=evidence.effects[one].n),
    )


def two_first_calls_swapped(evidence: Evidence) -> None:
    one = next(at for at, call in enumerate(evidence.calls) if call.message_id == name_of(1, 6))
    two = next(at for at, call in enumerate(evidence.calls) if call.message_id == name_of(1, 7))
    evidence.calls[one], evidence.calls[two] = evidence.calls[two], evidence.calls[one]


def a_key_in_two_partitions(evidence: Evidence) -> None:
    evidence.records[at(1, EACH)] = replace(evidence.records[at(1, EACH)], partition=0)


def a_record_that_says_something_else(evidence: Evidence) -> None:
    record = evidence.records[at(1, EACH)]
    evidence.records[at(1, EACH)] = replace(record, entry=replace(record.entry, seq=99))


def an_effect_that_says_something_else(evidence: Evidence) -> None:
    index = effect_of(evidence, "books", 1, EACH)
    effect = evidence.effects[index]
    evidence.effects[index] = replace(effect, entry=replace(effect.entry, seq=99))


def a_command_stored_for_another_key(evidence: Evidence) -> None:
    evidence.commands[at(1, 3)] = replace(evidence.commands[at(1, 3)], key=2)


def more_records_again_than_were_in_flight(evidence: Evidence) -> None:
    for number in range(1, 4):
        evidence.records.append(replace(evidence.records[at(2, number)], offset=900 + number, at=1010.2))


def a_record_again_without_a_fault(evidence: Evidence) -> None:
    del evidence.records[-1]
    evidence.records.append(replace(evidence.records[at(2, 12)], offset=900, at=1100.0))


def more_calls_again_than_were_in_flight(evidence: Evidence) -> None:
    evidence.calls.append(evidence.calls[-1])


def a_message_nowhere(evidence: Evidence) -> None:
    evidence.records = [one for one in evidence.records if one.message_id != name_of(1, 5)]


def a_message_that_a_handler_never_got(evidence: Evidence) -> None:
    del evidence.effects[effect_of(evidence, "notices", 2, 7)]


def a_key_blocked_by_nothing(evidence: Evidence) -> None:
    evidence.blocked_keys.append(("relay", "torture/account-1"))


def a_dead_letter_of_a_good_message(evidence: Evidence) -> None:
    index = effect_of(evidence, "books", 2, 7)
    evidence.dead_letters.append(DeadLetter("books", evidence.effects.pop(index).message_id, "DBAPIError"))


def a_dead_letter_of_the_relay(evidence: Evidence) -> None:
    an_event_lost_from_the_topic(evidence)
    evidence.outbox.clear()
    evidence.dead_letters.append(DeadLetter("relay", name_of(1, 5), "refused"))


def a_dead_letter_of_what_was_handled(evidence: Evidence) -> None:
    evidence.dead_letters.append(DeadLetter("notices", name_of(POISON, 3)))


def two_dead_letters_of_one_message(evidence: Evidence) -> None:
    evidence.dead_letters.append(evidence.dead_letters[0])


def a_dead_letter_of_no_event(evidence: Evidence) -> None:
    evidence.dead_letters.append(DeadLetter("notices", "None", "malformed"))


def an_inbox_row_without_an_effect(evidence: Evidence) -> None:
    evidence.inbox = {**evidence.inbox, ("notices", name_of(POISON, 10)): "done"}


def an_effect_without_an_inbox_row(evidence: Evidence) -> None:
    evidence.inbox = {pair: status for pair, status in evidence.inbox.items() if pair != ("books", name_of(1, 1))}


def a_lease_still_held(evidence: Evidence) -> None:
    evidence.leases_held.append("relay:app")


def a_back_end_left(evidence: Evidence) -> None:
    evidence.back_ends.append("app idle in transaction")


def a_process_that_would_not_end(evidence: Evidence) -> None:
    evidence.unfinished.append("process relay2 did not end on SIGTERM")


def a_message_that_still_waits(evidence: Evidence) -> None:
    evidence.outbox.append(name_of(1, 5))


def a_drain_that_was_given_up(evidence: Evidence) -> None:
    evidence.unfinished.append("books has settled 3 of 4 messages")


def two_answers_to_one_command(evidence: Evidence) -> None:
    evidence.commands[0] = replace(evidence.commands[0], outcomes=("ok", "fail"))


def one_command_sent_twice(evidence: Evidence) -> None:
    evidence.commands.append(evidence.commands[0])


PLANTED: list[tuple[str, Callable[[Evidence], None]]] = [
    ("lost", a_command_lost_from_the_store),
    ("lost", an_event_lost_from_the_topic),
    ("lost", an_effect_lost),
    ("lost", a_call_lost),
    ("lost", a_call_that_only_failed),
    ("phantom", an_event_that_nobody_sent),
    ("phantom", a_part_that_nobody_asked_for),
    ("phantom", a_record_of_no_event),
    ("phantom", a_record_of_a_command_rolled_back),
    ("phantom", a_record_without_an_id),
    ("phantom", an_effect_of_no_event),
    ("phantom", an_effect_of_no_handler),
    ("phantom", a_call_with_another_id),
    ("phantom", a_dead_letter_of_no_event),
    ("returned", a_refused_command_that_was_done),
    ("torn", half_a_command),
    ("torn", half_of_an_unknown_command),
    ("doubled", a_command_done_twice),
    ("doubled", an_effect_done_twice),
    ("doubled", a_message_with_the_id_of_another),
    ("doubled", two_dead_letters_of_one_message),
    ("versions", a_version_left_out),
    ("versions", versions_against_the_positions),
    ("versions", a_row_of_a_stream_that_is_ahead),
    ("versions", a_decision_on_a_stale_count),
    ("inverted", two_records_swapped),
    ("inverted", two_effects_swapped),
    ("inverted", two_first_calls_swapped),
    ("scattered", a_key_in_two_partitions),
    ("altered", a_record_that_says_something_else),
    ("altered", an_effect_that_says_something_else),
    ("altered", a_command_stored_for_another_key),
    ("duplicates", more_records_again_than_were_in_flight),
    ("duplicates", a_record_again_without_a_fault),
    ("repeats", more_calls_again_than_were_in_flight),
    ("hidden", a_message_nowhere),
    ("hidden", a_message_that_a_handler_never_got),
    ("hidden", a_key_blocked_by_nothing),
    ("dead", a_dead_letter_of_a_good_message),
    ("dead", a_dead_letter_of_the_relay),
    ("dead", a_dead_letter_of_what_was_handled),
    ("inbox", an_inbox_row_without_an_effect),
    ("inbox", an_effect_without_an_inbox_row),
    ("leaked", a_lease_still_held),
    ("leaked", a_back_end_left),
    ("leaked", a_process_that_would_not_end),
    ("unfinished", a_message_that_still_waits),
    ("unfinished", a_drain_that_was_given_up),
    ("history", two_answers_to_one_command),
    ("history", one_command_sent_twice),
]


def test_a_good_run_breaks_nothing_and_its_figures_are_told() -> None:
    verdict = judge(good())
    assert verdict.findings == ()
    assert verdict.counts() == dict.fromkeys(PROMISES, 0)
    told = verdict.figures
    assert (told["commands ok"], told["commands fail"], told["commands unknown"]) == (36, 1, 1)
    assert (told["messages acknowledged"], told["duplicates on the topic"], told["dead letters"]) == (36, 1, 1)
    assert (told["calls refused"], told["calls repeated"]) == (4, 0)


@pytest.mark.parametrize(("promise", "plant"), PLANTED, ids=lambda one: one if isinstance(one, str) else one.__name__)
def test_what_is_planted_is_found(promise: str, plant: Callable[[Evidence], None]) -> None:
    evidence = good()
    plant(evidence)
    assert promise in names(evidence)


def test_every_promise_has_something_planted_against_it() -> None:
    assert {promise for promise, _ in PLANTED} == set(PROMISES)


def test_an_unknown_command_may_have_been_done_as_a_whole() -> None:
    evidence = good()
    for part in (1, 2):
        number = EACH + part
        name, entry = f"message-7-{part}", Entry(7, 2, part, 1, number)
        evidence.stored.append(Stored(500 + part, "account-1", number, name, entry))
        evidence.records.append(Record(1, 500 + part, 1200.0, "account-1", name, entry))
        _handle(evidence, name, entry)
        evidence.inbox = {**evidence.inbox, **{(handler, name): "done" for handler in evidence.terms.handlers}}
    evidence.effects = [replace(effect, n=n) for n, effect in enumerate(evidence.effects, start=1)]
    evidence.streams["account-1"] = EACH + 2
    assert judge(evidence).findings == ()


def test_a_fault_excuses_what_was_sent_again_around_it_and_nothing_else() -> None:
    evidence = good()
    evidence.faults = [replace(evidence.faults[0], at=2000.0, until=2000.5)]
    assert names(evidence) == {"duplicates"}


def test_a_fault_of_another_role_excuses_no_record_sent_again() -> None:
    evidence = good()
    evidence.faults = [replace(evidence.faults[0], role="consumer")]
    assert names(evidence) == {"duplicates"}


def test_followers_of_poison_may_be_dead_letters_too() -> None:
    evidence = good()
    name = name_of(POISON, 11)
    evidence.effects = [one for one in evidence.effects if (one.handler, one.message_id) != ("notices", name)]
    evidence.inbox = {**evidence.inbox, ("notices", name): "parked"}
    evidence.dead_letters.append(DeadLetter("notices", name, "follower"))
    assert judge(evidence).findings == ()


def test_a_consumer_that_died_excuses_repeated_calls() -> None:
    evidence = good()
    more_calls_again_than_were_in_flight(evidence)
    evidence.faults.append(Fault("kill", "consumer", 1010.0, 1010.5))
    assert judge(evidence).findings == ()


def test_the_history_is_read_as_it_was_written(tmp_path: Path) -> None:
    lines = [
        {"what": "invoke", "client": 1, "seq": 1, "key": 3, "parts": 2, "refused": False, "at": 1.0},
        {"what": "invoke", "client": 1, "seq": 2, "key": 3, "parts": 1, "refused": False, "at": 1.0},
        {"what": "ok", "client": 1, "seq": 1, "at": 2.0},
        {"what": "ok", "client": 9, "seq": 9, "at": 2.0},
        {"what": "invoke", "client": 1, "seq": 1, "key": 3, "parts": 2, "refused": False, "at": 3.0},
    ]
    (tmp_path / written.HISTORY).write_text("".join(json.dumps(line) + "\n" for line in lines))
    commands = written.commands(tmp_path)
    assert commands[:2] == [Command(1, 1, 3, 2, ("ok",)), Command(1, 2, 3, 1)]
    assert judge(Evidence(Terms(), commands)).counts()["history"] == 1
    assert judge(Evidence(Terms(), commands)).counts()["lost"] == 3


def test_a_fault_that_never_ended_lasted_to_the_end(tmp_path: Path) -> None:
    lines = [
        {"what": "begin", "id": 1, "kind": "kill", "role": "relay", "count": 1, "at": 5.0},
        {"what": "begin", "id": 2, "kind": "terminate", "role": "writing", "count": 4, "at": 6.0},
        {"what": "end", "id": 1, "at": 7.0},
    ]
    (tmp_path / written.FAULTS).write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert written.faults(tmp_path) == [
        Fault("kill", "relay", 5.0, 7.0),
        Fault("terminate", "writing", 6.0, 7.0, 4),
    ]


def test_the_checker_imports_nothing_but_the_standard_library_two_drivers_and_itself() -> None:
    imported = set()
    for file in CHECKER.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0
                imported.add(node.module or "")
    own = {
        name for name in imported if name == "tools.messaging_checker" or name.startswith("tools.messaging_checker.")
    }
    others = {name.partition(".")[0] for name in imported - own}
    assert others - set(sys.stdlib_module_names) == {"asyncpg", "aiokafka"}
