-- Everything in a BLOB column named value, state, skipped, replay or hash is sealed for its place. What stays visible: how many rows there are, their
-- sizes, their order, and which rows belong together.
CREATE TABLE writer (one INTEGER PRIMARY KEY CHECK (one = 1), epoch INTEGER NOT NULL);
INSERT INTO writer VALUES (1, 0);
CREATE TABLE meta (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE account (no INTEGER PRIMARY KEY, value BLOB NOT NULL);
CREATE TABLE device (no INTEGER PRIMARY KEY, account INTEGER NOT NULL, value BLOB NOT NULL, replay BLOB);
CREATE TABLE conversation (no INTEGER PRIMARY KEY, value BLOB NOT NULL);
CREATE TABLE session (conversation INTEGER NOT NULL, device INTEGER NOT NULL, state BLOB NOT NULL, skipped BLOB, PRIMARY KEY (conversation, device));
CREATE TABLE chain (no INTEGER PRIMARY KEY, conversation INTEGER NOT NULL, device INTEGER NOT NULL, value BLOB NOT NULL);
CREATE INDEX chain_of ON chain (conversation, device);
-- The hash over the log after each entry, for the newest few thousand.
CREATE TABLE log (conversation INTEGER NOT NULL, seq INTEGER NOT NULL, hash BLOB NOT NULL, PRIMARY KEY (conversation, seq)) WITHOUT ROWID;
-- pos is the seq, or the largest integer while pending. change and arrival count up over all entries.
CREATE TABLE entry (
    no INTEGER PRIMARY KEY AUTOINCREMENT,
    conversation INTEGER NOT NULL,
    pos INTEGER NOT NULL,
    role INTEGER NOT NULL,
    change INTEGER NOT NULL,
    arrival INTEGER,
    chain INTEGER,
    k INTEGER,
    broken INTEGER,
    value BLOB NOT NULL
);
CREATE INDEX entry_pos ON entry (conversation, pos);
CREATE INDEX entry_change ON entry (conversation, change);
CREATE UNIQUE INDEX entry_arrival ON entry (arrival) WHERE arrival IS NOT NULL;
CREATE INDEX entry_chain ON entry (chain, k) WHERE chain IS NOT NULL;
CREATE INDEX entry_broken ON entry (conversation) WHERE broken IS NOT NULL;
CREATE TABLE outbox (no INTEGER PRIMARY KEY AUTOINCREMENT, conversation INTEGER NOT NULL, value BLOB NOT NULL);
CREATE TABLE prekey (id INTEGER PRIMARY KEY, replaced_ms INTEGER, value BLOB NOT NULL);
CREATE TABLE notice (no INTEGER PRIMARY KEY AUTOINCREMENT, value BLOB NOT NULL);
PRAGMA user_version = 1;
