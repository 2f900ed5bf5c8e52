-- additive
--
-- A device's rows in a conversation point back at one another, and the conversation knows the newest of each device: so a retry is found, and most rows need no second index for it, which was
-- a tenth of what a message that comes alone costs. In an index are the rows that are on no such chain (from before, of programs that do not know of it, of a batch in which there were
-- retries), and in another landmarks: each first row in a stretch of 64 seqs, but for the one with which a chain begins. So at most 65 rows of a chain are followed to reach any of them.

ALTER TABLE conversation
    -- The devices that have a chain here, sixteen at most, and the seq of the newest row of each. One more place in `last` is written for all others and means nothing.
    ADD COLUMN senders uuid[] NOT NULL DEFAULT '{}',
    ADD COLUMN last bigint[] NOT NULL DEFAULT '{}',
    -- What the place in `last` that was written last was before: an update returns what a row has become. 0 if the chain begins, NULL if there is none.
    ADD COLUMN previous bigint;

-- The lowest rows of a device here whose counters reach a number, 64 at most of those on no chain; and of its chain at least the lowest one, since counters rise along it. Each is looked up by its
-- own key: joins let the planner read the whole conversation instead.
CREATE FUNCTION log_reached(of_conversation uuid, of_sender uuid, number bigint) RETURNS TABLE (seq bigint) LANGUAGE sql STABLE AS $$
    WITH RECURSIVE chain AS (
        (SELECT r.seq, r.previous FROM (
            (SELECT seq, counter, previous FROM message_run
             WHERE conversation = of_conversation AND sender = of_sender AND counter >= number AND previous > 0 AND seq / 64 <> previous / 64 ORDER BY counter LIMIT 1)
            UNION ALL
            SELECT seq, counter, previous FROM message_run WHERE conversation = of_conversation AND counter >= number
                AND seq = (SELECT last[array_position(senders, of_sender)] FROM conversation WHERE id = of_conversation)
        ) r ORDER BY r.counter LIMIT 1)
        UNION ALL
        SELECT r.seq, r.previous FROM chain k
        CROSS JOIN LATERAL (SELECT seq, previous FROM message_run WHERE conversation = of_conversation AND seq = k.previous AND counter >= number LIMIT 1) r
    )
    (SELECT seq FROM chain ORDER BY seq)
    UNION ALL
    (SELECT seq FROM message_run WHERE conversation = of_conversation AND sender = of_sender AND counter >= number AND previous IS NULL ORDER BY counter LIMIT 64)
$$;

-- The message that a device has sent under this name and with this counter, if it is kept. A device counts one up with each new message, so that the first run which reaches the counter is the
-- one; a few more are looked at for those who count otherwise, and no more, so that it costs little whatever they do. For the same reason a pack is taken apart only if the name is in it.
CREATE OR REPLACE FUNCTION log_find(of_conversation uuid, of_sender uuid, name uuid, number bigint) RETURNS TABLE (seq bigint, at_ms bigint) LANGUAGE sql STABLE AS $$
    SELECT coalesce(r.seq - r.count + m.n, r.seq), r.at_ms
    FROM log_reached(of_conversation, of_sender, number) i CROSS JOIN LATERAL (SELECT * FROM message_run WHERE conversation = of_conversation AND seq = i.seq LIMIT 1) r
    LEFT JOIN LATERAL log_unpack(r.data, r.count) m ON r.client_msg_id IS NULL AND position(uuid_send(name) IN substring(r.data FOR 28 * r.count)) > 0
    WHERE coalesce(m.client_msg_id, r.client_msg_id) = name
    LIMIT 1
$$;

-- Whether a device has a row here whose counter reaches a number: the newest of its chain, or one that is on none.
CREATE FUNCTION log_reaches(of_conversation uuid, of_sender uuid, number bigint) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT EXISTS (SELECT FROM message_run WHERE conversation = of_conversation AND sender = of_sender AND counter >= number AND previous IS NULL)
        OR EXISTS (SELECT FROM message_run WHERE conversation = of_conversation AND counter >= number
                       AND seq = (SELECT last[array_position(senders, of_sender)] FROM conversation WHERE id = of_conversation))
$$;

-- Older programs ask the same in functions of their own, which would go through the whole conversation without the index.
DO $$
DECLARE
    before text;
    after text;
    replaced int := 0;
BEGIN
    FOR before IN SELECT pg_get_functiondef(p.oid) FROM pg_proc p JOIN pg_class c ON c.relnamespace = p.pronamespace
                  WHERE c.oid = 'conversation'::regclass AND p.proname = 'log_append' AND p.prosrc LIKE '%FROM message_run WHERE%' LOOP
        after := replace(before, '(SELECT FROM message_run WHERE conversation = c_id[i.c] AND sender = i.sender AND counter >= i.least LIMIT 1)',
            '(SELECT WHERE log_reaches(c_id[i.c], i.sender, i.least))');
        replaced := replaced + (after <> before)::int;
        EXECUTE after;
    END LOOP;
    IF replaced <> 2 THEN
        RAISE EXCEPTION '% functions are as they were made, not 2', replaced;
    END IF;
END $$;

-- Appends a batch in one round trip. In some conversations there may be retries among the messages: these are told, and nothing is done, unless the call says that each message is to be looked
-- for. Whoever calls it guesses which conversations those are and appends them apart, so that a few retries do not make a large batch slow.
--
-- The time of a message is the database's, unless one is given: several gateways have several clocks, and what one of them stamps another one expires.
--
-- Whoever sends something with a higher counter than all that the device has sent before, to whomever, sends something new, which the device's row tells when its counter is raised. Only of the
-- others the runs tell that are kept in the conversation. So counters rise along a chain.
--
-- Conversations come in ascending order of id, runs in the order in which they are to be numbered, senders in ascending order. Whoever calls this has seen to it (by settings of
-- the connection) that what is given is looked up in the order in which it is given: so locks are taken in one order everywhere, conversations, then cursors, then devices, each
-- ascending. Each statement in here sees what was committed before the locks that it takes or that were taken before it.
CREATE FUNCTION log_append(
    c_id uuid[], c_low_version bigint[], c_high_version bigint[], c_count bigint[], c_sent smallint[],
    -- Of each conversation: which of its messages here is the last that is no checkpoint, counted from 1; 0 if all are.
    c_shown bigint[],
    -- Of each conversation: the device whose rows here go on a chain, and which of the messages here is its last one.
    c_sender uuid[], c_last bigint[],
    -- Of each run: its conversation; which of the conversation's messages here is its last one; how many it has; its sender; the name of a single message; the smallest and the largest
    -- counter in it; what all its messages have in common; the message, or the pack.
    r_conversation int[], r_nth bigint[], r_count smallint[], r_sender uuid[], r_client_msg_id uuid[], r_least bigint[], r_counter bigint[], r_sender_list bigint[],
    r_recipient_list bigint[], r_flags smallint[], r_data bytea[],
    -- Of each run: which of the conversation's messages here its sender has sent before it, with a smaller counter, 0 if none; NULL if it goes on no chain.
    r_after bigint[],
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
    -- Of each conversation: the newest row on the chain before.
    before bigint[];
    newest bigint[];
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
                shown = CASE i.shown WHEN 0 THEN c.shown ELSE c.head + i.shown END,
                previous = CASE WHEN i.sender = ANY (c.senders) THEN c.last[array_position(c.senders, i.sender)] WHEN cardinality(c.senders) < 16 THEN 0 END,
                senders = CASE WHEN i.sender = ANY (c.senders) OR cardinality(c.senders) >= 16 THEN c.senders ELSE c.senders || i.sender END,
                last[coalesce(array_position(c.senders, i.sender), cardinality(c.senders) + 1)] = c.head + i.last
            FROM unnest(c_id, c_low_version, c_high_version, c_count, c_sent, c_shown, c_sender, c_last) WITH ORDINALITY
                i(id, low_version, high_version, count, sent, shown, sender, last, n)
            WHERE c.id = i.id AND c.low_version = i.low_version AND c.high_version = i.high_version
            RETURNING i.n, c.id, c.head - i.count AS base, c.unmarked, c.at_ms, c.sent, c.previous
        )
        SELECT array_agg(n), array_agg(base), array_agg(at_ms), array_agg(sent), array_agg(m.previous), array_agg(id) FILTER (WHERE unmarked)
        INTO found, o_base, o_at_ms, o_sent, before, mark FROM (SELECT * FROM moved ORDER BY n) m;

        IF coalesce(cardinality(found), 0) < cardinality(c_id) THEN
            -- Spread over the places that all of them would have.
            placed := o_base;
            times := o_at_ms;
            senders := o_sent;
            newest := before;
            o_base := array_fill(-1::bigint, ARRAY[cardinality(c_id)]);
            o_at_ms := array_fill(0::bigint, ARRAY[cardinality(c_id)]);
            o_sent := array_fill(0::smallint, ARRAY[cardinality(c_id)]);
            before := array_fill(NULL::bigint, ARRAY[cardinality(c_id)]);
            FOR k IN 1..coalesce(cardinality(found), 0) LOOP
                o_base[found[k]] := placed[k];
                o_at_ms[found[k]] := times[k];
                o_sent[found[k]] := senders[k];
                before[found[k]] := newest[k];
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
            -- A long list would be gone through for each run. As log_reaches asks, but that the newest row of the conversation's own chain is already the next one.
            o_odd := ARRAY(
                SELECT DISTINCT i.c FROM unnest(r_conversation, r_sender, r_least) i(c, sender, least)
                WHERE (cardinality(suspects) > 16 OR i.sender = ANY (suspects)) AND (
                    EXISTS (SELECT FROM message_run r WHERE r.conversation = c_id[i.c] AND r.sender = i.sender AND r.counter >= i.least AND r.previous IS NULL)
                    OR EXISTS (
                        SELECT FROM message_run r WHERE r.conversation = c_id[i.c] AND r.counter >= i.least
                            AND r.seq = CASE WHEN i.sender = c_sender[i.c] THEN before[i.c]
                                        ELSE (SELECT c.last[array_position(c.senders, i.sender)] FROM conversation c WHERE c.id = c_id[i.c]) END)));
            IF o_odd <> '{}' THEN
                RAISE EXCEPTION 'there may be retries' USING ERRCODE = '23K02';
            END IF;
        END IF;

        INSERT INTO message_run (seq, at_ms, counter, sender_list, recipient_list, conversation, sender, client_msg_id, flags, data, count, previous)
        SELECT o_base[i.c] + i.nth, o_at_ms[i.c], i.counter, i.sender_list, i.recipient_list, c_id[i.c], i.sender, i.client_msg_id, i.flags, i.data, i.count,
            CASE WHEN before[i.c] IS NOT NULL THEN CASE i.after WHEN 0 THEN before[i.c] ELSE o_base[i.c] + i.after END END
        FROM unnest(r_conversation, r_nth, r_count, r_sender, r_client_msg_id, r_counter, r_sender_list, r_recipient_list, r_flags, r_data, r_after)
            i(c, nth, count, sender, client_msg_id, counter, sender_list, recipient_list, flags, data, after)
        WHERE o_base[i.c] >= 0;
    EXCEPTION WHEN SQLSTATE '23K02' THEN
        -- Nothing of the above has happened.
        o_base := NULL;
        o_at_ms := NULL;
        o_sent := NULL;
        RETURN;
    END;
END $$;

-- Deletes from the given conversations (ascending) what every current device has, and what came at or before `cutoff_ms`; at most `most` of each. Returns
-- those in which something was deleted: how much of both kinds, and whether there is more. A run goes when all of it may. Where
-- nothing is left all chains end, so that there is room for those of other devices.
CREATE OR REPLACE FUNCTION log_purge(c_id uuid[], cutoff_ms bigint, most bigint)
RETURNS TABLE (o_delivered bigint, o_expired bigint, o_more boolean) LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
    PERFORM FROM conversation WHERE id = ANY (c_id) ORDER BY id FOR NO KEY UPDATE;
    RETURN QUERY
    WITH covered AS MATERIALIZED (
        SELECT c.id, c.first, c.head, least(c.head, coalesce(k.seq, c.head)) AS everyone,
            CASE WHEN m.before IS NOT NULL THEN m.before WHEN cutoff_ms IS NULL THEN 0 ELSE c.head END AS expired
        FROM unnest(c_id) i(id) JOIN conversation c ON c.id = i.id
        CROSS JOIN LATERAL (SELECT min(seq) AS seq FROM cursor WHERE conversation = c.id AND NOT retired) k
        LEFT JOIN LATERAL (
            -- Times do not fall within a conversation. With nothing to expire no row is looked at but the first.
            SELECT seq - count AS before FROM message_run
            WHERE conversation = c.id AND seq >= c.first AND (cutoff_ms IS NULL OR at_ms > cutoff_ms OR seq - count >= c.first + most)
            ORDER BY seq LIMIT 1) m ON true
        WHERE c.first <= c.head
    ), bounds AS MATERIALIZED (
        SELECT id, first, greatest(everyone, expired) AS wanted, least(greatest(everyone, expired), first + most - 1) AS upto, everyone
        FROM covered WHERE greatest(everyone, expired) >= first
    ), gone AS (
        DELETE FROM message_run m USING bounds b WHERE m.conversation = b.id AND m.seq BETWEEN b.first AND b.upto
    ), moved AS (
        UPDATE conversation c SET first = b.upto + 1,
            senders = CASE c.head WHEN b.upto THEN '{}' ELSE c.senders END, last = CASE c.head WHEN b.upto THEN '{}' ELSE c.last END
        FROM bounds b WHERE c.id = b.id
    )
    SELECT least(greatest(everyone - first + 1, 0), upto - first + 1), upto - first + 1 - least(greatest(everyone - first + 1, 0), upto - first + 1),
        wanted > upto
    FROM bounds;
END $$;
