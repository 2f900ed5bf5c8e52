-- no-transaction
-- additive
--
-- Where messages of a time are, for the relay that looks for those which some device has not acknowledged for a while: by ranges of pages, since an entry for each message would cost
-- a fifth of what appending, acknowledging and deleting it costs. So each look reads all pages that were written since the watermark. Built beside the traffic, part by part, which is
-- what takes a transaction of its own for each; the last statement only joins the parts, and is over in a moment. The first one is for a run after one that was cut off.
DROP INDEX IF EXISTS message_at;
DROP INDEX CONCURRENTLY IF EXISTS message_0_at;
CREATE INDEX CONCURRENTLY message_0_at ON message_0 USING brin (at_ms) WITH (pages_per_range = 32, autosummarize = on);
DROP INDEX CONCURRENTLY IF EXISTS message_1_at;
CREATE INDEX CONCURRENTLY message_1_at ON message_1 USING brin (at_ms) WITH (pages_per_range = 32, autosummarize = on);
DROP INDEX CONCURRENTLY IF EXISTS message_2_at;
CREATE INDEX CONCURRENTLY message_2_at ON message_2 USING brin (at_ms) WITH (pages_per_range = 32, autosummarize = on);
DROP INDEX CONCURRENTLY IF EXISTS message_3_at;
CREATE INDEX CONCURRENTLY message_3_at ON message_3 USING brin (at_ms) WITH (pages_per_range = 32, autosummarize = on);
DROP INDEX CONCURRENTLY IF EXISTS message_4_at;
CREATE INDEX CONCURRENTLY message_4_at ON message_4 USING brin (at_ms) WITH (pages_per_range = 32, autosummarize = on);
DROP INDEX CONCURRENTLY IF EXISTS message_5_at;
CREATE INDEX CONCURRENTLY message_5_at ON message_5 USING brin (at_ms) WITH (pages_per_range = 32, autosummarize = on);
DROP INDEX CONCURRENTLY IF EXISTS message_6_at;
CREATE INDEX CONCURRENTLY message_6_at ON message_6 USING brin (at_ms) WITH (pages_per_range = 32, autosummarize = on);
DROP INDEX CONCURRENTLY IF EXISTS message_7_at;
CREATE INDEX CONCURRENTLY message_7_at ON message_7 USING brin (at_ms) WITH (pages_per_range = 32, autosummarize = on);
CREATE INDEX message_at ON message USING brin (at_ms) WITH (pages_per_range = 32, autosummarize = on);

-- How far that relay is: everything up to here has been looked at. Without a row it begins at the present.
CREATE TABLE IF NOT EXISTS log_overdue (
    one          boolean PRIMARY KEY CHECK (one),
    at_ms        bigint  NOT NULL,
    conversation uuid    NOT NULL,
    seq          bigint  NOT NULL
);
