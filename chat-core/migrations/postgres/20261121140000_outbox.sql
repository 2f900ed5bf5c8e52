-- additive
-- Events that are to be published with a change: written in its transaction, deleted when they are on the bus. Nearly empty nearly always.
--
-- Whoever writes a row holds the lock of what its key names (the account's or the conversation's row) from before the insert until the commit: so rows of
-- one key get their numbers in the order in which they are committed. Over all keys that is not so, and nothing depends on it.

CREATE TABLE outbox (
    no         bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    -- Of the bus. A relay passes over topics that it does not know: a newer one will come.
    topic      text        COLLATE "C" NOT NULL,
    key        uuid        NOT NULL,
    payload    bytea       NOT NULL,
    written_at timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
