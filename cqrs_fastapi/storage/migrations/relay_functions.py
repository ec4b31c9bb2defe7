"""The functions of PostgreSQL that a relay works by, as revision 0004 makes them.

They are called outside of a transaction, so that each call is one of its own and nobody idles in it. They hold the plan
down: statistics of a queue are of a moment that has passed, and a plan made of them may read the whole table.
"""

from __future__ import annotations

_PLAN = """
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET plan_cache_mode = force_generic_plan SET jit = off
"""

CLAIM = """
CREATE FUNCTION {schema}{prefix}relay_claim(
    -- The buckets in the order in which they have their turn, and how many rows to take of them together.
    numbers int[], at_most int,
    -- Keys (`topic/key`, or the topic alone for rows without one) and topics that wait for their next attempt.
    held text[], shut text[],
    -- NULL takes all topics.
    wanted text[]
) RETURNS TABLE (place bigint, id uuid, type text, topic text, key text, payload bytea, headers text, tenant text,
    bucket int, attempts int)
LANGUAGE plpgsql {plan} AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    SELECT o.position, o.id, o.type, o.topic, o.key, o.payload, o.headers::text, o.tenant, o.bucket, o.attempts
    FROM unnest(numbers) AS b(number) CROSS JOIN LATERAL (
        SELECT x.* FROM {schema}{prefix}outbox x
        WHERE x.bucket = b.number
            -- A row that nobody delayed is due whatever the clock of its writer said.
            AND (x.available_at <= x.created_at OR x.available_at <= clock_timestamp())
            AND coalesce(x.topic || '/' || x.key, x.topic) <> ALL (held) AND x.topic <> ALL (shut)
            AND (x.key IS NULL OR NOT EXISTS (
                SELECT FROM {schema}{prefix}blocked_keys k
                WHERE k.owner IN ('relay', 'relay-held') AND k.key = x.topic || '/' || x.key))
            AND (wanted IS NULL OR x.topic = ANY (wanted))
        ORDER BY x.position LIMIT at_most
    ) o LIMIT at_most;
END $$
"""

SETTLE = """
CREATE FUNCTION {schema}{prefix}relay_settle(
    -- The leases under which the rows were claimed, and for each row which of them (from 1).
    names text[], epochs bigint[], holder uuid, places bigint[], leases int[],
    -- Those of the leases that are still held. Rows under another one are left alone.
    OUT kept int[]
) LANGUAGE plpgsql {plan} AS $$
BEGIN
    SELECT coalesce(array_agg(h.nr), '{}') INTO kept FROM (
        SELECT w.nr::int AS nr FROM unnest(names, epochs) WITH ORDINALITY AS w(name, epoch, nr)
        JOIN {schema}{prefix}leases l ON l.name = w.name AND l.owner = holder AND l.epoch = w.epoch
        ORDER BY w.nr FOR SHARE OF l
    ) h;
    DELETE FROM {schema}{prefix}outbox o USING unnest(places, leases) AS p(place, lease)
    WHERE o.position = p.place AND p.lease = ANY (kept);
END $$
"""

FRONT = """
CREATE FUNCTION {schema}{prefix}relay_front(
    -- Of the first rows of each of these buckets, those that a claim would pass over, and why.
    numbers int[], depth int, held text[], shut text[]
) RETURNS TABLE (place bigint, bucket int, topic text, key text, owner text, due_in float8)
LANGUAGE plpgsql {plan} AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    SELECT o.position, o.bucket, o.topic, o.key, k.owner,
        CASE WHEN o.available_at > o.created_at
            THEN extract(epoch FROM o.available_at - clock_timestamp())::float8 ELSE 0 END
    FROM unnest(numbers) AS b(number) CROSS JOIN LATERAL (
        SELECT x.* FROM {schema}{prefix}outbox x WHERE x.bucket = b.number ORDER BY x.position LIMIT depth
    ) o LEFT JOIN LATERAL (
        SELECT y.owner FROM {schema}{prefix}blocked_keys y
        WHERE y.owner IN ('relay', 'relay-held') AND y.key = o.topic || '/' || o.key ORDER BY y.owner LIMIT 1
    ) k ON true
    WHERE k.owner IS NOT NULL OR (o.available_at > o.created_at AND o.available_at > clock_timestamp())
        OR coalesce(o.topic || '/' || o.key, o.topic) = ANY (held) OR o.topic = ANY (shut);
END $$
"""

NO_STATISTICS = "ALTER TABLE {schema}{prefix}outbox ALTER COLUMN bucket SET STATISTICS 0"
"""If all rows were of one bucket once, the index by buckets would look no better than that of all positions."""

STATEMENTS = (*(function.replace("{plan}", _PLAN) for function in (CLAIM, SETTLE, FRONT)), NO_STATISTICS)
DROP = (
    "DROP FUNCTION {schema}{prefix}relay_claim",
    "DROP FUNCTION {schema}{prefix}relay_settle",
    "DROP FUNCTION {schema}{prefix}relay_front",
    "ALTER TABLE {schema}{prefix}outbox ALTER COLUMN bucket SET STATISTICS -1",
)
