-- additive
--
-- Appends a batch in one round trip, as before, and more cheaply: conversations are locked by the update itself, and the counters of the senders are raised by the statement
-- that looks whether one of them has connected anew.
--
-- The time of a message is the database's, unless one is given: several gateways have several clocks, and what one of them stamps another one expires.
--
-- Conversations come in ascending order of id, messages in the order in which they are to be numbered, senders in ascending order. Whoever calls this has seen to it (by settings of
-- the connection) that what is given is looked up in the order in which it is given: so locks are taken in one order everywhere, conversations, then cursors, then devices, each
-- ascending. Each statement in here sees what was committed before the locks that it takes or that were taken before it.
CREATE FUNCTION log_append(
    c_id uuid[], c_low_version bigint[], c_high_version bigint[], c_count bigint[], c_sent smallint[],
    -- Of each conversation: which of its messages here is the last that is no checkpoint, counted from 1; 0 if all are.
    c_shown bigint[],
    m_conversation int[], m_nth bigint[], m_sender uuid[], m_client_msg_id uuid[], m_counter bigint[], m_sender_list bigint[], m_recipient_list bigint[],
    m_flags smallint[], m_data bytea[],
    -- Of each sending device: the connection epoch, and the largest counter in the batch.
    s_device uuid[], s_epoch bigint[], s_counter bigint[],
    -- Unix milliseconds; NULL for the database's clock.
    now_ms bigint,
    -- Of each conversation: the head before, or -1 if it does not exist or its devices are not those of the given versions, and nothing was done; its
    -- time; who has sent.
    OUT o_base bigint[], OUT o_at_ms bigint[], OUT o_sent smallint[],
    -- Of each message that was there before: its number in the batch, from 1, its seq and its time.
    OUT d_message bigint[], OUT d_seq bigint[], OUT d_at_ms bigint[]
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

        INSERT INTO message (seq, at_ms, counter, sender_list, recipient_list, conversation, sender, client_msg_id, flags, data)
        SELECT o_base[i.c] + i.nth, o_at_ms[i.c], i.counter, i.sender_list, i.recipient_list, c_id[i.c], i.sender, i.client_msg_id, i.flags, i.data
        FROM unnest(m_conversation, m_nth, m_sender, m_client_msg_id, m_counter, m_sender_list, m_recipient_list, m_flags, m_data)
            i(c, nth, sender, client_msg_id, counter, sender_list, recipient_list, flags, data)
        WHERE o_base[i.c] >= 0;
    EXCEPTION WHEN unique_violation THEN
        -- Some are retries. Cheaper to find out so than to look for each one beforehand: nothing of the above has happened, and the slower way knows them.
        SELECT a.o_base, a.o_at_ms, a.o_sent, a.d_message, a.d_seq, a.d_at_ms INTO o_base, o_at_ms, o_sent, d_message, d_seq, d_at_ms
        FROM log_append(c_id, c_low_version, c_high_version, c_count, c_sent, moment, m_conversation, m_nth, m_sender, m_client_msg_id, m_counter, m_sender_list,
            m_recipient_list, m_flags, m_data, c_shown) a;
    END;

    IF -1 = ANY (o_base) THEN
        -- What was not placed has not been accepted.
        counters := ARRAY(
            SELECT coalesce((SELECT max(m.counter) FROM unnest(m_conversation, m_sender, m_counter) m(c, sender, counter)
                             WHERE m.sender = s.device AND o_base[m.c] >= 0), 0)
            FROM unnest(s_device) WITH ORDINALITY s(device, n) ORDER BY s.n);
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
