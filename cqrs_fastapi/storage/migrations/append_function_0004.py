"""The function `append` as revision 0004 makes it: that of 0002, told by what is different.

Rows of the outbox whose key is no stream take a lock of their key, after all rows and before the floor. A transaction
that needs few shares one lock and takes an exclusive one for each key; one that needs many takes the first exclusively
instead, since the locks of a server are counted. Messages that are due at once are due since the epoch: two servers'
clocks must not decide which of two messages is sent first.
"""

from __future__ import annotations

from cqrs_fastapi.storage.migrations.append_function import APPEND as BEFORE

_SIGNATURE = (
    """ o_available_at timestamptz[], o_tenant text[],
""",
    """ o_available_at timestamptz[], o_tenant text[],
    -- Seconds after which it is due, by the clock of this server; NULL: when o_available_at says.
    o_delay float8[], o_created_at timestamptz[],
    -- Locks of keys, sorted, each once for each member that needs it; 0 stands for all keys.
    k_member int[], k_lock int[],
""",
)

_VARIABLES = (
    """    next_check int := 1;
""",
    """    next_check int := 1;
    keys_of int := ('{schema}{prefix}outbox'::regclass::oid::bigint)::bit(32)::int;
""",
)

_LOCKS = (
    """    -- Each member in its turn sees what those before it have added to its streams.
""",
    """    IF cardinality(k_member) > 0 THEN
        IF k_lock[1] <> 0 THEN
            IF waits THEN
                PERFORM pg_advisory_xact_lock_shared(keys_of, 0);
            ELSIF NOT pg_try_advisory_xact_lock_shared(keys_of, 0) THEN
                FOREACH m IN ARRAY k_member LOOP
                    IF outcome[m] = 0 THEN outcome[m] := 2; END IF;
                END LOOP;
            END IF;
        END IF;
        FOR k IN 1..cardinality(k_member) LOOP
            CONTINUE WHEN outcome[k_member[k]] <> 0;
            IF waits THEN
                PERFORM pg_advisory_xact_lock(keys_of, k_lock[k]);
            ELSIF NOT pg_try_advisory_xact_lock(keys_of, k_lock[k]) THEN
                outcome[k_member[k]] := 2;
            END IF;
        END LOOP;
    END IF;

    -- Each member in its turn sees what those before it have added to its streams.
""",
)

_EVENTS = (
    """e.metadata::json, convert_to(e.data, 'UTF8'), e.time,
            s_tenant""",
    """e.metadata::json, convert_to(e.data, 'UTF8'), 'epoch',
            s_tenant""",
)

_ROWS = (
    """            o.available_at, o.tenant, o.available_at
        FROM unnest(o_member, o_id, o_aggregatetype, o_aggregateid, o_type, o_topic, o_key, o_bucket, o_headers,
            o_payload, o_available_at, o_tenant) WITH ORDINALITY AS o(member, id, aggregatetype,
            aggregateid, type, topic, key, bucket, headers, payload, available_at, tenant, nr)
""",
    """            CASE WHEN o.delay IS NULL THEN o.available_at
                ELSE clock_timestamp() + o.delay * interval '1 second' END, o.tenant, o.created_at
        FROM unnest(o_member, o_id, o_aggregatetype, o_aggregateid, o_type, o_topic, o_key, o_bucket, o_headers,
            o_payload, o_available_at, o_tenant, o_delay, o_created_at) WITH ORDINALITY AS o(member, id, aggregatetype,
            aggregateid, type, topic, key, bucket, headers, payload, available_at, tenant, delay, created_at, nr)
""",
)


def _changed(text: str, *changes: tuple[str, str]) -> str:
    for before, after in changes:
        if text.count(before) != 1:
            raise AssertionError(f"the function of revision 0002 has not once: {before}")
        text = text.replace(before, after)
    return text


APPEND = _changed(BEFORE, _SIGNATURE, _VARIABLES, _LOCKS, _EVENTS, _ROWS)
