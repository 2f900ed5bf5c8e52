-- The message log. Times are Unix milliseconds, a sequence number counts from 1.
--
-- conversation, message and cursor are keyed by the conversation first: an engine that spreads tables over machines places by it, and every statement on
-- the way of a message stays on one shard, but for the counter in log_device, which is the sender's. What goes to all shards: finding the conversations of
-- an account (when a device is linked or revoked; who has both written), of a device (what it is behind on), and the sweep for what has expired.
-- message is the only table that grows large; it is cut by hash, so that it is vacuumed in parts and its indexes stay low.

-- What an account's devices are for the log. Locked by whoever adds or revokes one, and shared by whoever creates a conversation.
CREATE TABLE log_account (
    account uuid   PRIMARY KEY,
    -- One up with every change of the set of current devices. Conversations carry it, so that an append learns of a change under the lock it takes anyway.
    version bigint NOT NULL
);

-- Written with every message of the device: narrow, and with room for its next version on the same page.
CREATE TABLE log_device (
    device  uuid    PRIMARY KEY,
    account uuid    NOT NULL,
    -- The largest connection epoch and the largest send counter accepted.
    epoch   bigint  NOT NULL DEFAULT 0,
    counter bigint  NOT NULL DEFAULT 0,
    retired boolean NOT NULL DEFAULT false
) WITH (fillfactor = 50);

CREATE INDEX log_device_of_account ON log_device (account);

CREATE TABLE conversation (
    id           uuid     PRIMARY KEY,
    -- The member with the lower account id and the one with the higher.
    low          uuid     NOT NULL,
    high         uuid     NOT NULL,
    -- log_account.version of both. Whoever changes a set of devices changes these under the row's lock.
    low_version  bigint   NOT NULL,
    high_version bigint   NOT NULL,
    -- The newest seq and when it was accepted; 0 until the first one is.
    head         bigint   NOT NULL DEFAULT 0,
    at_ms        bigint   NOT NULL DEFAULT 0,
    -- The oldest seq kept; head + 1 when none is.
    first        bigint   NOT NULL DEFAULT 1,
    -- Bit 0: low has sent. Bit 1: high has sent.
    sent         smallint NOT NULL DEFAULT 0,
    -- Some current cursor here is not marked as behind: the next append marks them all.
    unmarked     boolean  NOT NULL DEFAULT true
) WITH (fillfactor = 50);

-- None of the columns that an append changes is in an index, so that changes stay on their page.
CREATE INDEX conversation_low ON conversation (low);
CREATE INDEX conversation_high ON conversation (high);

CREATE TABLE message (
    seq            bigint   NOT NULL,
    at_ms          bigint   NOT NULL,
    -- The sending device's own counter, and the versions of both device lists that it wrote with.
    counter        bigint   NOT NULL,
    sender_list    bigint   NOT NULL,
    recipient_list bigint   NOT NULL,
    conversation   uuid     NOT NULL,
    sender         uuid     NOT NULL,
    client_msg_id  uuid     NOT NULL,
    -- Bit 0: checkpoint. Bit 1: the sender is the higher member.
    flags          smallint NOT NULL,
    -- Body and slices.
    data           bytea    NOT NULL,
    PRIMARY KEY (conversation, seq),
    -- In this order because what comes second tells messages apart soonest.
    CONSTRAINT message_once UNIQUE (conversation, client_msg_id, sender)
) PARTITION BY HASH (conversation);

-- Ciphertext does not compress.
ALTER TABLE message ALTER COLUMN data SET STORAGE EXTERNAL;

-- Most messages are deleted soon after they came: vacuum early and without pauses, so that their room is used again and the tables do not grow.
DO $$
BEGIN
    FOR part IN 0..7 LOOP
        EXECUTE format(
            'CREATE TABLE message_%s PARTITION OF message FOR VALUES WITH (MODULUS 8, REMAINDER %s)
             WITH (autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 10000, autovacuum_vacuum_insert_scale_factor = 0.2,
                   autovacuum_analyze_scale_factor = 0.2, autovacuum_vacuum_cost_delay = 0)', part, part);
    END LOOP;
END $$;

-- How far a device is. Watermarks of an account are the largest of its devices', for which those of revoked devices stay.
CREATE TABLE cursor (
    conversation uuid     NOT NULL,
    device       uuid     NOT NULL,
    -- 0 a device of the lower member, 1 of the higher.
    side         smallint NOT NULL,
    -- The head when the device was linked: it gets nothing up to here.
    start        bigint   NOT NULL,
    -- Acknowledged up to here.
    seq          bigint   NOT NULL,
    -- Seen by the user up to here, as this device said.
    read         bigint   NOT NULL DEFAULT 0,
    -- May have something to fetch. Set under the conversation's lock by the first append since it was cleared; cleared when the device has long been level.
    behind       boolean  NOT NULL DEFAULT false,
    -- The device was revoked.
    retired      boolean  NOT NULL DEFAULT false,
    PRIMARY KEY (conversation, device)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_cost_delay = 0);

CREATE INDEX cursor_behind ON cursor (device) WHERE behind;

-- Written by whoever must know that everything before is on disk.
CREATE TABLE log_flush (
    one   boolean PRIMARY KEY CHECK (one),
    times bigint NOT NULL
);

INSERT INTO log_flush VALUES (true, 0);

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
    mark uuid[];
BEGIN
    WITH locked AS MATERIALIZED (
        SELECT c.id, i.n, c.head, c.unmarked FROM unnest(c_id) WITH ORDINALITY i(id, n) JOIN conversation c ON c.id = i.id
        ORDER BY i.n FOR NO KEY UPDATE OF c
    ), moved AS (
        UPDATE conversation c SET head = c.head + c_count[l.n], at_ms = greatest(c.at_ms, now_ms), sent = c.sent | c_sent[l.n], unmarked = false
        FROM locked l WHERE c.id = l.id AND c.low_version = c_low_version[l.n] AND c.high_version = c_high_version[l.n]
        RETURNING l.n, l.id, l.head, l.unmarked, c.at_ms, c.sent
    )
    SELECT array_agg(n), array_agg(head), array_agg(at_ms), array_agg(sent), array_agg(id) FILTER (WHERE unmarked)
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
        UPDATE conversation c SET head = c.head - d.count
        FROM (SELECT c_id[m_conversation[n]] AS id, count(*) FROM unnest(d_message) n GROUP BY 1) d WHERE c.id = d.id;
        INSERT INTO message (seq, at_ms, counter, sender_list, recipient_list, conversation, sender, client_msg_id, flags, data)
        SELECT o_base[i.c] + row_number() OVER (PARTITION BY i.c ORDER BY i.nth), o_at_ms[i.c], i.counter, i.sender_list, i.recipient_list, c_id[i.c],
            i.sender, i.client_msg_id, i.flags, i.data
        FROM unnest(m_conversation, m_nth, m_sender, m_client_msg_id, m_counter, m_sender_list, m_recipient_list, m_flags, m_data) WITH ORDINALITY
            i(c, nth, sender, client_msg_id, counter, sender_list, recipient_list, flags, data, n)
        WHERE o_base[i.c] >= 0 AND i.n <> ALL (d_message);
    END;

    UPDATE log_device d SET counter = i.counter
    FROM (SELECT sender, max(counter) AS counter FROM unnest(m_conversation, m_sender, m_counter) i(c, sender, counter)
          WHERE o_base[c] >= 0 GROUP BY sender ORDER BY sender) i
    WHERE d.device = i.sender AND d.counter < i.counter;
END $$;

-- Deletes from the given conversations (ascending) what every current device has, and what came at or before `cutoff_ms`; at most `most` of each. Returns
-- those in which something was deleted: how much of both kinds, and whether there is more.
CREATE FUNCTION log_purge(c_id uuid[], cutoff_ms bigint, most bigint)
RETURNS TABLE (o_delivered bigint, o_expired bigint, o_more boolean) LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
    PERFORM FROM conversation WHERE id = ANY (c_id) ORDER BY id FOR NO KEY UPDATE;
    RETURN QUERY
    WITH covered AS MATERIALIZED (
        SELECT c.id, c.first, c.head, least(c.head, coalesce(k.seq, c.head)) AS everyone,
            CASE WHEN m.seq IS NOT NULL THEN m.seq - 1 WHEN cutoff_ms IS NULL THEN 0 ELSE c.head END AS expired
        FROM unnest(c_id) i(id) JOIN conversation c ON c.id = i.id
        CROSS JOIN LATERAL (SELECT min(seq) AS seq FROM cursor WHERE conversation = c.id AND NOT retired) k
        LEFT JOIN LATERAL (
            -- Times do not fall within a conversation. With nothing to expire no row is looked at but the first.
            SELECT seq FROM message WHERE conversation = c.id AND seq >= c.first AND (cutoff_ms IS NULL OR at_ms > cutoff_ms OR seq >= c.first + most)
            ORDER BY seq LIMIT 1) m ON true
        WHERE c.first <= c.head
    ), bounds AS MATERIALIZED (
        SELECT id, first, greatest(everyone, expired) AS wanted, least(greatest(everyone, expired), first + most - 1) AS upto, everyone
        FROM covered WHERE greatest(everyone, expired) >= first
    ), gone AS (
        DELETE FROM message m USING bounds b WHERE m.conversation = b.id AND m.seq BETWEEN b.first AND b.upto
    ), moved AS (
        UPDATE conversation c SET first = b.upto + 1 FROM bounds b WHERE c.id = b.id
    )
    SELECT least(greatest(everyone - first + 1, 0), upto - first + 1), upto - first + 1 - least(greatest(everyone - first + 1, 0), upto - first + 1),
        wanted > upto
    FROM bounds;
END $$;

-- Clears the marks of devices that are level in the given conversations.
CREATE FUNCTION log_unmark(c_id uuid[]) RETURNS void LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
    PERFORM FROM conversation WHERE id = ANY (c_id) ORDER BY id FOR NO KEY UPDATE;
    WITH level AS MATERIALIZED (
        SELECT k.conversation, k.device FROM cursor k JOIN conversation c ON c.id = k.conversation
        WHERE k.conversation = ANY (c_id) AND k.behind AND k.seq >= c.head
        ORDER BY k.conversation, k.device FOR NO KEY UPDATE OF k
    ), cleared AS (
        UPDATE cursor k SET behind = false FROM level l WHERE k.conversation = l.conversation AND k.device = l.device
        RETURNING k.conversation
    )
    UPDATE conversation c SET unmarked = true WHERE c.id IN (SELECT conversation FROM cleared);
END $$;

-- Makes direct conversations with the cursors of both members' current devices. Those that exist, and those with a member unknown, are left as they are.
CREATE FUNCTION log_create(c_id uuid[], c_low uuid[], c_high uuid[]) RETURNS void LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    made uuid[];
BEGIN
    -- A device that is being added waits for us, or we for it: it finds the conversation, or we find it.
    PERFORM FROM log_account WHERE account = ANY (c_low || c_high) ORDER BY account FOR SHARE;
    WITH new AS (
        INSERT INTO conversation (id, low, high, low_version, high_version)
        SELECT i.id, i.low, i.high, l.version, h.version FROM unnest(c_id, c_low, c_high) i(id, low, high)
        JOIN log_account l ON l.account = i.low JOIN log_account h ON h.account = i.high ORDER BY i.id
        ON CONFLICT (id) DO NOTHING RETURNING id
    )
    SELECT array_agg(id) INTO made FROM new;
    INSERT INTO cursor (conversation, device, side, start, seq)
    SELECT c.id, d.device, CASE d.account WHEN c.low THEN 0 ELSE 1 END, 0, 0
    FROM conversation c JOIN log_device d ON d.account IN (c.low, c.high) WHERE c.id = ANY (made) AND NOT d.retired;
END $$;

-- Locks the conversations of an account, tells them of a new set of devices, and returns them in ascending order.
CREATE FUNCTION log_change_devices(whose uuid, new_version bigint) RETURNS uuid[] LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    found uuid[];
BEGIN
    found := ARRAY(SELECT id FROM conversation WHERE low = whose OR high = whose ORDER BY id FOR NO KEY UPDATE);
    UPDATE conversation SET unmarked = true,
        low_version = CASE low WHEN whose THEN new_version ELSE low_version END,
        high_version = CASE high WHEN whose THEN new_version ELSE high_version END
    WHERE id = ANY (found);
    RETURN found;
END $$;

-- New devices of an account start at the head of every conversation that exists. Part of the transaction that adds them.
CREATE FUNCTION log_enroll(whose uuid, devices uuid[]) RETURNS void LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    new_version bigint;
    found uuid[];
BEGIN
    INSERT INTO log_account (account, version) VALUES (whose, 1)
    ON CONFLICT (account) DO UPDATE SET version = log_account.version + 1 RETURNING version INTO new_version;
    found := log_change_devices(whose, new_version);
    INSERT INTO cursor (conversation, device, side, start, seq)
    SELECT c.id, d.device, CASE whose WHEN c.low THEN 0 ELSE 1 END, c.head, c.head
    FROM conversation c CROSS JOIN unnest(devices) d(device) WHERE c.id = ANY (found) ORDER BY c.id, d.device;
    INSERT INTO log_device (device, account) SELECT d.device, whose FROM unnest(devices) d(device) ORDER BY d.device;
END $$;

-- Revoked devices hold nothing back any more. Part of the transaction that revokes them.
CREATE FUNCTION log_retire(whose uuid, devices uuid[]) RETURNS void LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    new_version bigint;
    found uuid[];
BEGIN
    UPDATE log_account SET version = version + 1 WHERE account = whose RETURNING version INTO new_version;
    found := log_change_devices(whose, new_version);
    UPDATE cursor k SET retired = true, behind = false
    FROM (SELECT conversation, device FROM cursor WHERE conversation = ANY (found) AND device = ANY (devices)
          ORDER BY conversation, device FOR NO KEY UPDATE) l
    WHERE k.conversation = l.conversation AND k.device = l.device;
    UPDATE log_device d SET retired = true
    FROM (SELECT device FROM log_device WHERE device = ANY (devices) AND account = whose ORDER BY device FOR NO KEY UPDATE) l
    WHERE d.device = l.device;
END $$;
