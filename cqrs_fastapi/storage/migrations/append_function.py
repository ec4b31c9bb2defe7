"""The functions that PostgreSQL appends by, as revision 0002 makes them. A later form gets a revision of its own.

The order inside of `append` is the one order of locks in the whole database: idempotency keys, rows of streams, rows of
tags, and last the floor, a shared lock on the position that the sequence has reached. Only under it positions are
drawn: whoever sees that nobody holds a floor below some position knows that all events up to there are committed or
will never be. Every group is locked in the order in which the caller has sorted it.
"""

from __future__ import annotations

TAKE_FLOOR = """
CREATE FUNCTION {schema}{prefix}take_floor() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    source regclass := pg_get_serial_sequence('{schema}{prefix}events', 'position')::regclass;
    reached bigint := coalesce(pg_sequence_last_value(source), 0);
BEGIN
    PERFORM pg_advisory_xact_lock_shared((source::oid::bigint)::bit(32)::int, (reached & 2147483647)::int);
END $$
"""

GUARD_FLOOR = """
CREATE FUNCTION {schema}{prefix}guard_floor() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM {schema}{prefix}take_floor();
    RETURN NULL;
END $$
"""

TRIGGER = """
CREATE TRIGGER {prefix}events_floor BEFORE INSERT ON {schema}{prefix}events
FOR EACH STATEMENT EXECUTE FUNCTION {schema}{prefix}guard_floor()
"""

APPEND = """
CREATE FUNCTION {schema}{prefix}append(
    -- Whether to wait for rows that somebody else has locked, or to leave the members that need them.
    waits boolean,
    -- When it was recorded, by the clock of the caller.
    recorded timestamptz,
    -- One for each stream, sorted by tenant and name, each once.
    s_tenant text[], s_stream text[], s_category text[], s_creates boolean[],
    -- How many of the checks belong to each member.
    m_checks int[],
    -- One for each stream of each member: which stream, what is expected (-1 any, -2 exists, 0 none), how many events.
    c_stream int[], c_expected bigint[], c_count int[],
    -- One for each event, in the order in which it shall be stored: its check and its number among that check's events.
    e_check int[], e_number int[], e_id uuid[], e_type text[], e_schema_version int[], e_data text[], e_metadata text[],
    -- What the outbox has besides for those that are sent; the topic of the others is NULL.
    e_topic text[], e_bucket int[], e_time timestamptz[],
    -- Tags of events, and what to lock for tags and conditions: sorted, each once, tags before types.
    t_id uuid[], t_tag text[], l_tenant text[], l_tag text[], l_shared boolean[],
    -- The condition of an append that is alone: nothing that fits came after a position, but for those seen.
    q_tenant text, q_after bigint, q_seen bigint[], q_items json,
    -- Rows of the outbox for what is sent and not stored.
    o_member int[], o_id uuid[], o_aggregatetype text[], o_aggregateid text[], o_type text[], o_topic text[],
    o_key text[], o_bucket int[], o_headers text[], o_payload bytea[], o_available_at timestamptz[], o_tenant text[],
    -- Idempotency records, sorted by all that identifies them.
    i_member int[], i_tenant text[], i_user text[], i_key text[], i_command text[], i_ordinal int[],
    i_fingerprint text[], i_response text[],
    -- For each member 0 appended, 1 conflict, 2 left, 3 repeated, 4 closed, 5 condition broken; the check that failed
    -- and the version or position found there. For each check the version before its events, -1 where none are stored.
    OUT outcome int[], OUT failed int[], OUT actual bigint[], OUT bases bigint[]
) LANGUAGE plpgsql
-- Every look-up is by an index. A plan made while the tables were empty would scan them, for as long as it is kept.
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET plan_cache_mode = force_generic_plan SET jit = off
AS $$
DECLARE
    members int := cardinality(m_checks);
    versions bigint[] := array_fill(NULL::bigint, ARRAY[cardinality(s_stream)]);
    seen boolean[] := array_fill(false, ARRAY[cardinality(s_stream)]);
    closed boolean[] := array_fill(false, ARRAY[cardinality(s_stream)]);
    changed boolean[] := array_fill(false, ARRAY[cardinality(s_stream)]);
    appended boolean := false;
    hit bigint;
    next_check int := 1;
    m int; c int; s int; wanted bigint; present bigint; verdict int; r record;
BEGIN
    outcome := array_fill(0, ARRAY[members]);
    failed := array_fill(0, ARRAY[members]);
    actual := array_fill(0::bigint, ARRAY[members]);
    bases := array_fill((-1)::bigint, ARRAY[cardinality(c_stream)]);
    IF current_setting('idle_in_transaction_session_timeout') = '0' THEN
        PERFORM set_config('idle_in_transaction_session_timeout', '60s', true);
    END IF;
    IF current_setting('lock_timeout') = '0' THEN
        PERFORM set_config('lock_timeout', CASE WHEN waits THEN '10s' ELSE '100ms' END, true);
    END IF;

    IF cardinality(i_member) > 0 THEN
        FOR r IN
            WITH wanted AS (
                SELECT * FROM unnest(i_member, i_tenant, i_user, i_key, i_command, i_ordinal, i_fingerprint, i_response)
                    WITH ORDINALITY AS w(member, tenant, user_id, key, command, ordinal, fingerprint, response, nr)
            ), taken AS (
                INSERT INTO {schema}{prefix}idempotency AS i
                    (tenant, user_id, key, command, ordinal, fingerprint, response, created_at)
                SELECT w.tenant, w.user_id, w.key, w.command, w.ordinal, w.fingerprint, w.response::json, recorded
                FROM wanted w ORDER BY w.nr
                ON CONFLICT DO NOTHING
                RETURNING i.tenant, i.user_id, i.key, i.command, i.ordinal
            )
            SELECT w.member FROM wanted w WHERE NOT EXISTS (
                SELECT FROM taken t WHERE (t.tenant, t.user_id, t.key, t.command, t.ordinal)
                    = (w.tenant, w.user_id, w.key, w.command, w.ordinal))
        LOOP
            outcome[r.member] := 3;
        END LOOP;
    END IF;

    IF true = ANY (s_creates) THEN
        INSERT INTO {schema}{prefix}streams (tenant, stream, category, version)
        SELECT n.tenant, n.stream, n.category, 0
        FROM unnest(s_tenant, s_stream, s_category, s_creates) WITH ORDINALITY
            AS n(tenant, stream, category, creates, nr)
        WHERE n.creates ORDER BY n.nr
        ON CONFLICT DO NOTHING;
    END IF;
    IF waits THEN
        FOR r IN
            SELECT n.nr, t.version, t.archived OR t.deleted_at IS NOT NULL AS closed
            FROM unnest(s_tenant, s_stream) WITH ORDINALITY AS n(tenant, stream, nr)
            JOIN {schema}{prefix}streams t ON t.tenant = n.tenant AND t.stream = n.stream
            ORDER BY n.nr FOR NO KEY UPDATE OF t
        LOOP
            versions[r.nr] := r.version; seen[r.nr] := true; closed[r.nr] := r.closed;
        END LOOP;
    ELSE
        FOR r IN
            SELECT n.nr, t.version, t.archived OR t.deleted_at IS NOT NULL AS closed
            FROM unnest(s_tenant, s_stream) WITH ORDINALITY AS n(tenant, stream, nr)
            JOIN {schema}{prefix}streams t ON t.tenant = n.tenant AND t.stream = n.stream
            ORDER BY n.nr FOR NO KEY UPDATE OF t SKIP LOCKED
        LOOP
            versions[r.nr] := r.version; seen[r.nr] := true; closed[r.nr] := r.closed;
        END LOOP;
        IF false = ANY (seen) THEN
            FOR r IN
                SELECT n.nr FROM unnest(s_tenant, s_stream, seen) WITH ORDINALITY AS n(tenant, stream, seen, nr)
                WHERE NOT n.seen AND NOT EXISTS (
                    SELECT FROM {schema}{prefix}streams t WHERE t.tenant = n.tenant AND t.stream = n.stream)
            LOOP
                seen[r.nr] := true;
            END LOOP;
        END IF;
    END IF;

    IF cardinality(l_tag) > 0 THEN
        INSERT INTO {schema}{prefix}tags (tenant, tag)
        SELECT n.tenant, n.tag FROM unnest(l_tenant, l_tag) WITH ORDINALITY AS n(tenant, tag, nr) ORDER BY n.nr
        ON CONFLICT DO NOTHING;
        FOR m IN 1..cardinality(l_tag) LOOP
            IF l_shared[m] THEN
                PERFORM FROM {schema}{prefix}tags t WHERE t.tenant = l_tenant[m] AND t.tag = l_tag[m] FOR SHARE;
            ELSE
                PERFORM FROM {schema}{prefix}tags t WHERE t.tenant = l_tenant[m] AND t.tag = l_tag[m] FOR UPDATE;
            END IF;
        END LOOP;
    END IF;
    IF q_items IS NOT NULL THEN
        SELECT min(e.position) INTO hit
        FROM {schema}{prefix}events e, json_to_recordset(q_items) AS q(types text[], tags text[])
        WHERE e.tenant = q_tenant AND e.position > q_after AND NOT e.position = ANY (q_seen)
            AND (cardinality(q.types) = 0 OR e.type = ANY (q.types))
            AND (SELECT count(*) FROM {schema}{prefix}event_tags t
                WHERE t.tenant = e.tenant AND t.position = e.position AND t.tag = ANY (q.tags)) = cardinality(q.tags);
        IF hit IS NOT NULL AND outcome[1] = 0 THEN
            outcome[1] := 5;
            actual[1] := hit;
        END IF;
    END IF;

    -- Each member in its turn sees what those before it have added to its streams.
    FOR m IN 1..members LOOP
        verdict := outcome[m];
        FOR c IN next_check..next_check + m_checks[m] - 1 LOOP
            EXIT WHEN verdict <> 0;
            s := c_stream[c]; wanted := c_expected[c]; present := coalesce(versions[s], 0);
            IF NOT seen[s] AND NOT waits THEN verdict := 2;
            ELSIF closed[s] THEN verdict := 4;
            ELSIF NOT (wanted = -1 OR wanted = present OR (wanted = -2 AND present > 0)) THEN verdict := 1;
            END IF;
            IF verdict <> 0 THEN failed[m] := c; actual[m] := present; END IF;
        END LOOP;
        outcome[m] := verdict;
        IF verdict = 0 THEN
            appended := true;
            FOR c IN next_check..next_check + m_checks[m] - 1 LOOP
                s := c_stream[c];
                bases[c] := coalesce(versions[s], 0);
                versions[s] := bases[c] + c_count[c];
                changed[s] := true;
            END LOOP;
        END IF;
        next_check := next_check + m_checks[m];
    END LOOP;

    IF appended AND cardinality(e_check) > 0 THEN
        PERFORM {schema}{prefix}take_floor();
        WITH stored AS (
            INSERT INTO {schema}{prefix}events (message_id, tenant, stream, version, category, type, schema_version,
                data, metadata, recorded_at)
            SELECT e.id, s_tenant[c_stream[e.of_check]], s_stream[c_stream[e.of_check]],
                bases[e.of_check] + e.number, s_category[c_stream[e.of_check]], e.type, e.schema_version,
                e.data::json, e.metadata::json, recorded
            FROM unnest(e_check, e_number, e_id, e_type, e_schema_version, e_data, e_metadata) WITH ORDINALITY
                AS e(of_check, number, id, type, schema_version, data, metadata, nr)
            WHERE bases[e.of_check] >= 0
            ORDER BY e.nr
            RETURNING position, tenant, message_id
        )
        INSERT INTO {schema}{prefix}event_tags (tenant, tag, position)
        SELECT stored.tenant, t.tag, stored.position
        FROM unnest(t_id, t_tag) AS t(id, tag) JOIN stored ON stored.message_id = t.id;
        UPDATE {schema}{prefix}streams t SET version = n.version
        FROM unnest(s_tenant, s_stream, versions, changed) AS n(tenant, stream, version, changed)
        WHERE n.changed AND t.tenant = n.tenant AND t.stream = n.stream;
    END IF;
    IF appended AND cardinality(array_remove(e_topic, NULL)) > 0 THEN
        INSERT INTO {schema}{prefix}outbox (id, aggregatetype, aggregateid, type, topic, key, bucket, headers, payload,
            available_at, tenant, created_at)
        SELECT e.id, s_category[c_stream[e.of_check]], s_stream[c_stream[e.of_check]], e.type, e.topic,
            s_stream[c_stream[e.of_check]], e.bucket, e.metadata::json, convert_to(e.data, 'UTF8'), e.time,
            s_tenant[c_stream[e.of_check]], e.time
        FROM unnest(e_check, e_id, e_type, e_data, e_metadata, e_topic, e_bucket, e_time) WITH ORDINALITY
            AS e(of_check, id, type, data, metadata, topic, bucket, time, nr)
        WHERE e.topic IS NOT NULL AND bases[e.of_check] >= 0
        ORDER BY e.nr;
    END IF;
    IF appended AND cardinality(o_member) > 0 THEN
        INSERT INTO {schema}{prefix}outbox (id, aggregatetype, aggregateid, type, topic, key, bucket, headers, payload,
            available_at, tenant, created_at)
        SELECT o.id, o.aggregatetype, o.aggregateid, o.type, o.topic, o.key, o.bucket, o.headers::json, o.payload,
            o.available_at, o.tenant, o.available_at
        FROM unnest(o_member, o_id, o_aggregatetype, o_aggregateid, o_type, o_topic, o_key, o_bucket, o_headers,
            o_payload, o_available_at, o_tenant) WITH ORDINALITY AS o(member, id, aggregatetype,
            aggregateid, type, topic, key, bucket, headers, payload, available_at, tenant, nr)
        WHERE outcome[o.member] = 0
        ORDER BY o.nr;
    END IF;

    -- What was made for members that then failed goes again.
    IF EXISTS (SELECT FROM unnest(outcome) AS o WHERE o <> 0) THEN
        DELETE FROM {schema}{prefix}streams t USING unnest(s_tenant, s_stream, s_creates) AS n(tenant, stream, creates)
        WHERE n.creates AND t.tenant = n.tenant AND t.stream = n.stream AND t.version = 0 AND t.deleted_at IS NULL;
        DELETE FROM {schema}{prefix}idempotency i
        USING unnest(i_member, i_tenant, i_user, i_key, i_command, i_ordinal)
            AS n(member, tenant, user_id, key, command, ordinal)
        WHERE outcome[n.member] NOT IN (0, 3) AND (i.tenant, i.user_id, i.key, i.command, i.ordinal)
            = (n.tenant, n.user_id, n.key, n.command, n.ordinal);
    END IF;
END $$
"""

FUNCTIONS = (TAKE_FLOOR, GUARD_FLOOR, TRIGGER, APPEND)

DROP_TRIGGER = "DROP TRIGGER {prefix}events_floor ON {schema}{prefix}events"
DROP_FUNCTIONS = (
    "DROP FUNCTION {schema}{prefix}append",
    "DROP FUNCTION {schema}{prefix}guard_floor",
    "DROP FUNCTION {schema}{prefix}take_floor",
)
