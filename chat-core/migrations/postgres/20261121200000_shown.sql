-- additive
--
-- Ticks tell nobody of a checkpoint, which its recipient does not see: whoever could have one acknowledged in silence could watch when a device is on.

ALTER TABLE conversation
    -- The newest entry that is no checkpoint.
    ADD COLUMN shown bigint NOT NULL DEFAULT 0;
UPDATE conversation SET shown = head;

ALTER TABLE cursor
    -- What the sender may be told of: as far as was acknowledged, but never beyond the newest entry that was none then. 0 for what lies before `start`.
    ADD COLUMN delivered bigint NOT NULL DEFAULT 0;
UPDATE cursor SET delivered = seq WHERE seq > start;

-- Appends a batch in one round trip. Conversations come in ascending order of id, messages in the order in which they are to be numbered.
--
-- Each statement in here sees what was committed before it began, and so, after the locks of the first one, everything that whoever held them has done:
-- other processes append to the same conversations, add devices and clear marks under these locks only.
--
-- Locks are taken in one order everywhere: conversations, then cursors, then devices, each ascending.
CREATE FUNCTION log_append(
    c_id uuid[], c_low_version bigint[], c_high_version bigint[], c_count bigint[], c_sent smallint[], now_ms bigint,
    m_conversation int[], m_nth bigint[], m_sender uuid[], m_client_msg_id uuid[], m_counter bigint[], m_sender_list bigint[], m_recipient_list bigint[],
    m_flags smallint[], m_data bytea[],
    -- Of each conversation: which of its messages here is the last that is no checkpoint, counted from 1; 0 if all are.
    c_shown bigint[],
    -- Of each conversation: the head before, or -1 if it does not exist or its devices are not those of the given versions, and nothing was done; its
    -- time; who has sent.
    OUT o_base bigint[], OUT o_at_ms bigint[], OUT o_sent smallint[],
    -- Of each message that was there before: its number in the batch, from 1, its seq and its time.
    OUT d_message bigint[], OUT d_seq bigint[], OUT d_at_ms bigint[]
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

    BEGIN
        INSERT INTO message (seq, at_ms, counter, sender_list, recipient_list, conversation, sender, client_msg_id, flags, data)
        SELECT o_base[i.c] + i.nth, o_at_ms[i.c], i.counter, i.sender_list, i.recipient_list, c_id[i.c], i.sender, i.client_msg_id, i.flags, i.data
        FROM unnest(m_conversation, m_nth, m_sender, m_client_msg_id, m_counter, m_sender_list, m_recipient_list, m_flags, m_data)
            i(c, nth, sender, client_msg_id, counter, sender_list, recipient_list, flags, data)
        WHERE o_base[i.c] >= 0;
    EXCEPTION WHEN unique_violation THEN
        -- Some are retries. Cheaper to find out so than to look for each one beforehand.
        SELECT array_agg(i.n ORDER BY i.n), array_agg(m.seq ORDER BY i.n), array_agg(m.at_ms ORDER BY i.n) INTO d_message, d_seq, d_at_ms
        FROM unnest(m_conversation, m_sender, m_client_msg_id) WITH ORDINALITY i(c, sender, client_msg_id, n)
        JOIN message m ON m.conversation = c_id[i.c] AND m.sender = i.sender AND m.client_msg_id = i.client_msg_id
        WHERE o_base[i.c] >= 0;
        IF d_message IS NULL THEN
            RAISE;
        END IF;
        UPDATE conversation c SET head = c.head - d.count, shown = shown_before[array_position(found, d.k::bigint)]
        FROM (SELECT m_conversation[n] AS k, count(*) FROM unnest(d_message) n GROUP BY 1) d WHERE c.id = c_id[d.k];
        WITH added AS (
            INSERT INTO message (seq, at_ms, counter, sender_list, recipient_list, conversation, sender, client_msg_id, flags, data)
            SELECT o_base[i.c] + row_number() OVER (PARTITION BY i.c ORDER BY i.nth), o_at_ms[i.c], i.counter, i.sender_list, i.recipient_list, c_id[i.c],
                i.sender, i.client_msg_id, i.flags, i.data
            FROM unnest(m_conversation, m_nth, m_sender, m_client_msg_id, m_counter, m_sender_list, m_recipient_list, m_flags, m_data) WITH ORDINALITY
                i(c, nth, sender, client_msg_id, counter, sender_list, recipient_list, flags, data, n)
            WHERE o_base[i.c] >= 0 AND i.n <> ALL (d_message)
            RETURNING conversation, seq, flags
        )
        UPDATE conversation c SET shown = a.seq
        FROM (SELECT conversation, max(seq) AS seq FROM added WHERE flags & 1 = 0 GROUP BY conversation) a WHERE c.id = a.conversation;
    END;

    UPDATE log_device d SET counter = i.counter
    FROM (SELECT sender, max(counter) AS counter FROM unnest(m_conversation, m_sender, m_counter) i(c, sender, counter)
          WHERE o_base[c] >= 0 GROUP BY sender ORDER BY sender) i
    WHERE d.device = i.sender AND d.counter < i.counter;
END $$;

-- As older programs call it, until the last of them is gone.
CREATE OR REPLACE FUNCTION log_append(
    c_id uuid[], c_low_version bigint[], c_high_version bigint[], c_count bigint[], c_sent smallint[], now_ms bigint,
    m_conversation int[], m_nth bigint[], m_sender uuid[], m_client_msg_id uuid[], m_counter bigint[], m_sender_list bigint[], m_recipient_list bigint[],
    m_flags smallint[], m_data bytea[],
    OUT o_base bigint[], OUT o_at_ms bigint[], OUT o_sent smallint[], OUT d_message bigint[], OUT d_seq bigint[], OUT d_at_ms bigint[]
) LANGUAGE plpgsql AS $$
BEGIN
    SELECT a.o_base, a.o_at_ms, a.o_sent, a.d_message, a.d_seq, a.d_at_ms INTO o_base, o_at_ms, o_sent, d_message, d_seq, d_at_ms
    FROM log_append(c_id, c_low_version, c_high_version, c_count, c_sent, now_ms, m_conversation, m_nth, m_sender, m_client_msg_id, m_counter,
        m_sender_list, m_recipient_list, m_flags, m_data,
        ARRAY(SELECT coalesce(max(i.nth) FILTER (WHERE i.flags & 1 = 0), 0) FROM unnest(m_conversation, m_nth, m_flags) i(c, nth, flags)
              GROUP BY i.c ORDER BY i.c)) a;
END $$;
