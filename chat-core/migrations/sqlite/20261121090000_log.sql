-- The message log. Accounts and devices are referred to by their numbers (tables account and device).
--
-- `entry` is the journal: its rows are appended in commit order and carry everything. All other tables are a summary of it that is written about once a
-- second and rebuilt from the rows after log_meta.summarised when the database is opened.

-- One conversation. head, first and at_ms are as of its last summary; sent is always current.
CREATE TABLE conversation(
    no INTEGER PRIMARY KEY,
    id BLOB NOT NULL UNIQUE,
    -- The member with the lower account id and the one with the higher.
    low INTEGER NOT NULL,
    high INTEGER NOT NULL,
    -- The newest seq, and when it was accepted.
    head INTEGER NOT NULL DEFAULT 0,
    at_ms INTEGER NOT NULL DEFAULT 0,
    -- The oldest seq kept; head + 1 when none is.
    first INTEGER NOT NULL DEFAULT 1,
    -- Bit 0: low has sent. Bit 1: high has sent.
    sent INTEGER NOT NULL DEFAULT 0,
    low_read INTEGER NOT NULL DEFAULT 0,
    high_read INTEGER NOT NULL DEFAULT 0,
    low_delivered INTEGER NOT NULL DEFAULT 0,
    high_delivered INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX conversation_low ON conversation(low);
CREATE INDEX conversation_high ON conversation(high);

-- The journal. No index: it is appended to and deleted from at its end and its start, and found by number.
CREATE TABLE entry(
    no INTEGER PRIMARY KEY,
    conversation INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    -- The sending device and its counter.
    sender INTEGER NOT NULL,
    counter INTEGER NOT NULL,
    at_ms INTEGER NOT NULL,
    -- Bit 0: checkpoint. Bit 1: the sender is the higher member.
    flags INTEGER NOT NULL,
    client_msg_id BLOB NOT NULL,
    sender_list INTEGER NOT NULL,
    recipient_list INTEGER NOT NULL,
    -- Body and slices.
    data BLOB NOT NULL
) STRICT;

-- Where to find the entries that some device still lacks after the summary; most entries are deleted before they would get here.
CREATE TABLE kept(
    conversation INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    no INTEGER NOT NULL,
    -- Keyed digest of sender and client message id.
    digest INTEGER NOT NULL,
    PRIMARY KEY (conversation, seq)
) STRICT, WITHOUT ROWID;
CREATE INDEX kept_digest ON kept(conversation, digest, no);

-- How far a device has acknowledged.
CREATE TABLE cursor(
    conversation INTEGER NOT NULL,
    device INTEGER NOT NULL,
    -- The head when the device was linked: it gets nothing up to here.
    start INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    -- 1 if seq < head as of the last summary. Written when it changes, not with every entry.
    behind INTEGER NOT NULL,
    PRIMARY KEY (conversation, device)
) STRICT, WITHOUT ROWID;
CREATE INDEX cursor_behind ON cursor(device, conversation) WHERE behind = 1;

-- The devices that have their cursors in the conversations which existed when they were linked.
CREATE TABLE enrolled(device INTEGER PRIMARY KEY) STRICT;

CREATE TABLE log_meta(
    only INTEGER PRIMARY KEY CHECK (only = 1),
    -- Entries up to this number are in the summary.
    summarised INTEGER NOT NULL,
    -- Keys the digests.
    digest_key BLOB NOT NULL
) STRICT;
INSERT INTO log_meta(only, summarised, digest_key) VALUES (1, 0, randomblob(16));
