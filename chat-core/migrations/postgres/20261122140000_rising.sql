-- additive
--
-- That a message is new is told by the row of its device, which is raised anyway, and no longer by a look into an index of eight parts for each run.

-- What the counter was before it was last raised: an update returns what a row has become.
ALTER TABLE log_device ADD COLUMN before bigint NOT NULL DEFAULT 0;

-- Appends a batch in one round trip. In some conversations there may be retries among the messages: these are told, and nothing is done, unless the call says that each message is to be looked
-- for. Whoever calls it guesses which conversations those are and appends them apart, so that a few retries do not make a large batch slow.
--
-- The time of a message is the database's, unless one is given: several gateways have several clocks, and what one of them stamps another one expires.
--
-- Whoever sends something with a higher counter than all that the device has sent before, to whomever, sends something new, which the device's row tells when its counter is raised. Only of the
-- others the runs tell that are kept in the conversation.
--
-- Conversations come in ascending order of id, runs in the order in which they are to be numbered, senders in ascending order. Whoever calls this has seen to it (by settings of
-- the connection) that what is given is looked up in the order in which it is given: so locks are taken in one order everywhere, conversations, then cursors, then devices, each
-- ascending. Each statement in here sees what was committed before the locks that it takes or that were taken before it.
CREATE FUNCTION log_append(
    c_id uuid[], c_low_version bigint[], c_high_version bigint[], c_count bigint[], c_sent smallint[],
    -- Of each conversation: which of its messages here is the last that is no checkpoint, counted from 1; 0 if all are.
    c_shown bigint[],
    -- Of each run: its conversation; which of the conversation's messages here is its last one; how many it has; its sender; the name of a single message; the smallest and the largest
    -- counter in it; what all its messages have in common; the message, or the pack.
    r_conversation int[], r_nth bigint[], r_count smallint[], r_sender uuid[], r_client_msg_id uuid[], r_least bigint[], r_counter bigint[], r_sender_list bigint[],
    r_recipient_list bigint[], r_flags smallint[], r_data bytea[],
    -- Of each sending device: the connection epoch, and the largest and the smallest counter in the batch.
    s_device uuid[], s_epoch bigint[], s_counter bigint[], s_least bigint[],
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
    -- Devices that have sent as high a counter before.
    suspects uuid[];
BEGIN
    IF retries THEN
        SELECT a.o_base, a.o_at_ms, a.o_sent, a.d_message, a.d_seq, a.d_at_ms INTO o_base, o_at_ms, o_sent, d_message, d_seq, d_at_ms
        FROM log_append(c_id, c_low_version, c_high_version, c_count, c_sent, c_shown, r_conversation, r_nth, r_count, r_sender, r_client_msg_id, r_least, r_counter, r_sender_list,
            r_recipient_list, r_flags, r_data, s_device, s_epoch, s_counter, now_ms, true) a;
        RETURN;
    END IF;

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
            -- What was not placed has not been accepted. In the order of s_device, which are all who send something here.
            counters := ARRAY(
                SELECT coalesce(max(counter) FILTER (WHERE o_base[c] >= 0), 0) FROM unnest(r_conversation, r_sender, r_counter) r(c, sender, counter)
                GROUP BY sender ORDER BY sender);
        END IF;

        IF mark IS NOT NULL THEN
            UPDATE conversation SET unmarked = false WHERE id = ANY (mark);
            UPDATE cursor k SET behind = true
            FROM (SELECT conversation, device FROM cursor WHERE conversation = ANY (mark) AND NOT behind AND NOT retired
                  ORDER BY conversation, device FOR NO KEY UPDATE) l
            WHERE k.conversation = l.conversation AND k.device = l.device;
        END IF;

        -- A batch may come late: its gateway stood still, or what it had written was still on its way when it had given up. By then the device may have connected elsewhere and sent the same again;
        -- and when every device has that, the row by which the late one would be known as a retry is gone.
        WITH raised AS (
            UPDATE log_device d SET before = d.counter, counter = greatest(d.counter, s.counter) FROM unnest(s_device, s_epoch, counters, s_least) s(device, epoch, counter, least)
            WHERE d.device = s.device AND d.epoch <= s.epoch
            RETURNING d.device, d.before >= s.least AS again
        )
        SELECT count(*), array_agg(device) FILTER (WHERE again) INTO current, suspects FROM raised;
        IF current < cardinality(s_device) THEN
            RAISE EXCEPTION 'a device has connected anew' USING ERRCODE = '23K01';
        END IF;

        IF suspects IS NOT NULL THEN
            -- A long list would be gone through for each run.
            o_odd := ARRAY(
                SELECT DISTINCT i.c FROM unnest(r_conversation, r_sender, r_least) i(c, sender, least)
                CROSS JOIN LATERAL (SELECT FROM message_run WHERE conversation = c_id[i.c] AND sender = i.sender AND counter >= i.least LIMIT 1) r
                WHERE cardinality(suspects) > 16 OR i.sender = ANY (suspects));
            IF o_odd <> '{}' THEN
                RAISE EXCEPTION 'there may be retries' USING ERRCODE = '23K02';
            END IF;
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
END $$;
