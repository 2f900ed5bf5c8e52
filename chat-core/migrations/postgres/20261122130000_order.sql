-- additive
--
-- Devices are locked once, by one statement, in ascending order. A batch that looked for retries raised the counters of some of its devices first and of the others afterwards; when conversations
-- did not exist yet, whose locks would have kept them apart, two such batches could wait for each other.
--
-- What the devices of a batch with such a conversation have sent is found in one pass; it was looked for among all runs for each of them.

-- Appends a batch in one round trip, in which messages may be retries: looks for each, and makes a row for each.
--
-- Each statement in here sees what was committed before it began, and so, after the locks of the first one, everything that whoever held them has done:
-- other processes append to the same conversations, add devices and clear marks under these locks only.
CREATE FUNCTION log_append_each(
    c_id uuid[], c_low_version bigint[], c_high_version bigint[], c_count bigint[], c_sent smallint[], now_ms bigint,
    m_conversation int[], m_nth bigint[], m_sender uuid[], m_client_msg_id uuid[], m_counter bigint[], m_sender_list bigint[], m_recipient_list bigint[],
    m_flags smallint[], m_data bytea[],
    -- Of each conversation: which of its messages here is the last that is no checkpoint, counted from 1; 0 if all are.
    c_shown bigint[],
    OUT o_base bigint[], OUT o_at_ms bigint[], OUT o_sent smallint[], OUT d_message bigint[], OUT d_seq bigint[], OUT d_at_ms bigint[]
) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    found bigint[];
    placed bigint[];
    times bigint[];
    senders smallint[];
    shown_before bigint[];
    mark uuid[];
BEGIN
    WITH locked AS MATERIALIZED (
        SELECT c.id, i.n, c.head, c.shown, c.unmarked FROM unnest(c_id) WITH ORDINALITY i(id, n) JOIN conversation c ON c.id = i.id
        ORDER BY i.n FOR NO KEY UPDATE OF c
    ), moved AS (
        UPDATE conversation c SET head = c.head + c_count[l.n], at_ms = greatest(c.at_ms, now_ms), sent = c.sent | c_sent[l.n], unmarked = false,
            shown = CASE c_shown[l.n] WHEN 0 THEN c.shown ELSE c.head + c_shown[l.n] END
        FROM locked l WHERE c.id = l.id AND c.low_version = c_low_version[l.n] AND c.high_version = c_high_version[l.n]
        RETURNING l.n, l.id, l.head, l.shown, l.unmarked, c.at_ms, c.sent
    )
    SELECT array_agg(n), array_agg(head), array_agg(at_ms), array_agg(sent), array_agg(shown), array_agg(id) FILTER (WHERE unmarked)
    INTO found, o_base, o_at_ms, o_sent, shown_before, mark FROM (SELECT * FROM moved ORDER BY n) m;

    IF coalesce(cardinality(found), 0) < cardinality(c_id) THEN
        -- Spread over the places that all of them would have.
        placed := o_base;
        times := o_at_ms;
        senders := o_sent;
        o_base := array_fill(-1::bigint, ARRAY[cardinality(c_id)]);
        o_at_ms := array_fill(0::bigint, ARRAY[cardinality(c_id)]);
        o_sent := array_fill(0::smallint, ARRAY[cardinality(c_id)]);
        FOR k IN 1..coalesce(cardinality(found), 0) LOOP
            o_base[found[k]] := placed[k];
            o_at_ms[found[k]] := times[k];
            o_sent[found[k]] := senders[k];
        END LOOP;
    END IF;

    IF mark IS NOT NULL THEN
        UPDATE cursor k SET behind = true
        FROM (SELECT conversation, device FROM cursor WHERE conversation = ANY (mark) AND NOT behind AND NOT retired
              ORDER BY conversation, device FOR NO KEY UPDATE) l
        WHERE k.conversation = l.conversation AND k.device = l.device;
    END IF;

    SELECT array_agg(i.n ORDER BY i.n), array_agg(m.seq ORDER BY i.n), array_agg(m.at_ms ORDER BY i.n) INTO d_message, d_seq, d_at_ms
    FROM unnest(m_conversation, m_sender, m_client_msg_id, m_counter) WITH ORDINALITY i(c, sender, client_msg_id, counter, n)
    CROSS JOIN LATERAL log_find(c_id[i.c], i.sender, i.client_msg_id, i.counter) m
    WHERE o_base[i.c] >= 0;

    UPDATE conversation c SET head = c.head - d.count, shown = shown_before[array_position(found, d.k::bigint)]
    FROM (SELECT m_conversation[n] AS k, count(*) FROM unnest(d_message) n GROUP BY 1) d WHERE c.id = c_id[d.k];

    WITH added AS (
        INSERT INTO message_run (seq, at_ms, counter, sender_list, recipient_list, conversation, sender, client_msg_id, flags, data)
        SELECT o_base[i.c] + row_number() OVER (PARTITION BY i.c ORDER BY i.nth), o_at_ms[i.c], i.counter, i.sender_list, i.recipient_list, c_id[i.c],
            i.sender, i.client_msg_id, i.flags, i.data
        FROM unnest(m_conversation, m_nth, m_sender, m_client_msg_id, m_counter, m_sender_list, m_recipient_list, m_flags, m_data) WITH ORDINALITY
            i(c, nth, sender, client_msg_id, counter, sender_list, recipient_list, flags, data, n)
        WHERE o_base[i.c] >= 0 AND i.n <> ALL (coalesce(d_message, '{}'))
        RETURNING conversation, seq, flags
    )
    UPDATE conversation c SET shown = a.seq
    FROM (SELECT conversation, max(seq) AS seq FROM added WHERE flags & 1 = 0 GROUP BY conversation) a WHERE c.id = a.conversation;
END $$;

-- Appends a batch in one round trip. In some conversations there may be retries among the messages: these are told, and nothing is done, unless the call says that each message is to be looked
-- for. Whoever calls it guesses which conversations those are and appends them apart, so that a few retries do not make a large batch slow.
--
-- The time of a message is the database's, unless one is given: several gateways have several clocks, and what one of them stamps another one expires.
--
-- Conversations come in ascending order of id, runs in the order in which they are to be numbered, senders in ascending order. Whoever calls this has seen to it (by settings of
-- the connection) that what is given is looked up in the order in which it is given: so locks are taken in one order everywhere, conversations, then cursors, then devices, each
-- ascending. Each statement in here sees what was committed before the locks that it takes or that were taken before it.
CREATE OR REPLACE FUNCTION log_append(
    c_id uuid[], c_low_version bigint[], c_high_version bigint[], c_count bigint[], c_sent smallint[],
    -- Of each conversation: which of its messages here is the last that is no checkpoint, counted from 1; 0 if all are.
    c_shown bigint[],
    -- Of each run: its conversation; which of the conversation's messages here is its last one; how many it has; its sender; the name of a single message; the smallest and the largest
    -- counter in it; what all its messages have in common; the message, or the pack.
    r_conversation int[], r_nth bigint[], r_count smallint[], r_sender uuid[], r_client_msg_id uuid[], r_least bigint[], r_counter bigint[], r_sender_list bigint[],
    r_recipient_list bigint[], r_flags smallint[], r_data bytea[],
    -- Of each sending device: the connection epoch, and the largest counter in the batch.
    s_device uuid[], s_epoch bigint[], s_counter bigint[],
    -- Unix milliseconds; NULL for the database's clock.
    now_ms bigint,
    -- Whether each message is to be looked for.
    retries boolean,
    -- Of each conversation: the head before, or -1 if it does not exist or its devices are not those of the given versions, and nothing was done; its
    -- time; who has sent.
    OUT o_base bigint[], OUT o_at_ms bigint[], OUT o_sent smallint[],
    -- Of each message that was there before: its number in the batch, from 1, its seq and its time.
    OUT d_message bigint[], OUT d_seq bigint[], OUT d_at_ms bigint[],
    -- The conversations in which there may be retries, by their numbers in the batch: if there are any, nothing was done.
    OUT o_odd int[]
) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    moment bigint := coalesce(now_ms, (extract(epoch FROM clock_timestamp()) * 1000)::bigint);
    counters bigint[] := s_counter;
    found bigint[];
    placed bigint[];
    times bigint[];
    senders smallint[];
    mark uuid[];
    current bigint;
BEGIN
    IF retries THEN
        SELECT a.o_base, a.o_at_ms, a.o_sent, a.d_message, a.d_seq, a.d_at_ms INTO o_base, o_at_ms, o_sent, d_message, d_seq, d_at_ms
        FROM (
            SELECT array_agg(c ORDER BY k, n) AS c, array_agg(nth ORDER BY k, n) AS nth, array_agg(sender ORDER BY k, n) AS sender, array_agg(name ORDER BY k, n) AS name,
                array_agg(number ORDER BY k, n) AS number, array_agg(sender_list ORDER BY k, n) AS sender_list, array_agg(recipient_list ORDER BY k, n) AS recipient_list,
                array_agg(flags ORDER BY k, n) AS flags, array_agg(content ORDER BY k, n) AS content
            FROM (
                SELECT r.*, m.n, r.last - r.count + coalesce(m.n, 1) AS nth, coalesce(m.client_msg_id, r.client_msg_id) AS name, coalesce(m.counter, r.counter) AS number,
                    coalesce(m.data, r.data) AS content
                FROM unnest(r_conversation, r_nth, r_count, r_sender, r_client_msg_id, r_counter, r_sender_list, r_recipient_list, r_flags, r_data) WITH ORDINALITY
                    r(c, last, count, sender, client_msg_id, counter, sender_list, recipient_list, flags, data, k)
                LEFT JOIN LATERAL log_unpack(r.data, r.count) m ON r.client_msg_id IS NULL
            ) i
        ) b CROSS JOIN LATERAL log_append_each(c_id, c_low_version, c_high_version, c_count, c_sent, moment, b.c, b.nth, b.sender, b.name, b.number, b.sender_list, b.recipient_list,
            b.flags, b.content, c_shown) a;
    ELSE
        BEGIN
            WITH moved AS (
                UPDATE conversation c SET head = c.head + i.count, at_ms = greatest(c.at_ms, moment), sent = c.sent | i.sent,
                    shown = CASE i.shown WHEN 0 THEN c.shown ELSE c.head + i.shown END
                FROM unnest(c_id, c_low_version, c_high_version, c_count, c_sent, c_shown) WITH ORDINALITY i(id, low_version, high_version, count, sent, shown, n)
                WHERE c.id = i.id AND c.low_version = i.low_version AND c.high_version = i.high_version
                RETURNING i.n, c.id, c.head - i.count AS base, c.unmarked, c.at_ms, c.sent
            )
            SELECT array_agg(n), array_agg(base), array_agg(at_ms), array_agg(sent), array_agg(id) FILTER (WHERE unmarked)
            INTO found, o_base, o_at_ms, o_sent, mark FROM (SELECT * FROM moved ORDER BY n) m;

            -- Whoever sends something new has sent nothing before with as high a counter.
            o_odd := ARRAY(
                SELECT DISTINCT i.c FROM unnest(r_conversation, r_sender, r_least) i(c, sender, least)
                CROSS JOIN LATERAL (SELECT FROM message_run WHERE conversation = c_id[i.c] AND sender = i.sender AND counter >= i.least LIMIT 1) r);
            IF o_odd <> '{}' THEN
                RAISE EXCEPTION 'there may be retries' USING ERRCODE = '23K02';
            END IF;

            IF coalesce(cardinality(found), 0) < cardinality(c_id) THEN
                -- Spread over the places that all of them would have.
                placed := o_base;
                times := o_at_ms;
                senders := o_sent;
                o_base := array_fill(-1::bigint, ARRAY[cardinality(c_id)]);
                o_at_ms := array_fill(0::bigint, ARRAY[cardinality(c_id)]);
                o_sent := array_fill(0::smallint, ARRAY[cardinality(c_id)]);
                FOR k IN 1..coalesce(cardinality(found), 0) LOOP
                    o_base[found[k]] := placed[k];
                    o_at_ms[found[k]] := times[k];
                    o_sent[found[k]] := senders[k];
                END LOOP;
            END IF;

            IF mark IS NOT NULL THEN
                UPDATE conversation SET unmarked = false WHERE id = ANY (mark);
                UPDATE cursor k SET behind = true
                FROM (SELECT conversation, device FROM cursor WHERE conversation = ANY (mark) AND NOT behind AND NOT retired
                      ORDER BY conversation, device FOR NO KEY UPDATE) l
                WHERE k.conversation = l.conversation AND k.device = l.device;
            END IF;

            INSERT INTO message_run (seq, at_ms, counter, sender_list, recipient_list, conversation, sender, client_msg_id, flags, data, count)
            SELECT o_base[i.c] + i.nth, o_at_ms[i.c], i.counter, i.sender_list, i.recipient_list, c_id[i.c], i.sender, i.client_msg_id, i.flags, i.data, i.count
            FROM unnest(r_conversation, r_nth, r_count, r_sender, r_client_msg_id, r_counter, r_sender_list, r_recipient_list, r_flags, r_data)
                i(c, nth, count, sender, client_msg_id, counter, sender_list, recipient_list, flags, data)
            WHERE o_base[i.c] >= 0;
        EXCEPTION WHEN SQLSTATE '23K02' THEN
            -- Nothing of the above has happened.
            o_base := NULL;
            o_at_ms := NULL;
            o_sent := NULL;
            RETURN;
        END;
    END IF;

    IF -1 = ANY (o_base) THEN
        -- What was not placed has not been accepted.
        -- In the order of s_device, which are all who send something here.
        counters := ARRAY(
            SELECT coalesce(max(counter) FILTER (WHERE o_base[c] >= 0), 0) FROM unnest(r_conversation, r_sender, r_counter) r(c, sender, counter)
            GROUP BY sender ORDER BY sender);
    END IF;
    UPDATE log_device d SET counter = greatest(d.counter, s.counter) FROM unnest(s_device, s_epoch, counters) s(device, epoch, counter)
    WHERE d.device = s.device AND d.epoch <= s.epoch;
    GET DIAGNOSTICS current = ROW_COUNT;
    IF current < cardinality(s_device) THEN
        -- A batch may come late: its gateway stood still, or what it had written was still on its way when it had given up. By then the device may have connected elsewhere and
        -- sent the same again; and when every device has that, the row by which the late one would be known as a retry is gone.
        RAISE EXCEPTION 'a device has connected anew' USING ERRCODE = '23K01';
    END IF;
END $$;
