-- no-transaction
-- additive
--
-- Messages in the order of time, for the relay that looks for those which some device has not acknowledged for a while. Built beside the traffic, part by part, which is
-- what takes a transaction of its own for each; the last statement only joins the parts, and is over in a moment. The first one is for a run after one that was cut off.
DROP INDEX IF EXISTS message_at;
DROP INDEX CONCURRENTLY IF EXISTS message_0_at;
CREATE INDEX CONCURRENTLY message_0_at ON message_0 (at_ms);
DROP INDEX CONCURRENTLY IF EXISTS message_1_at;
CREATE INDEX CONCURRENTLY message_1_at ON message_1 (at_ms);
DROP INDEX CONCURRENTLY IF EXISTS message_2_at;
CREATE INDEX CONCURRENTLY message_2_at ON message_2 (at_ms);
DROP INDEX CONCURRENTLY IF EXISTS message_3_at;
CREATE INDEX CONCURRENTLY message_3_at ON message_3 (at_ms);
DROP INDEX CONCURRENTLY IF EXISTS message_4_at;
CREATE INDEX CONCURRENTLY message_4_at ON message_4 (at_ms);
DROP INDEX CONCURRENTLY IF EXISTS message_5_at;
CREATE INDEX CONCURRENTLY message_5_at ON message_5 (at_ms);
DROP INDEX CONCURRENTLY IF EXISTS message_6_at;
CREATE INDEX CONCURRENTLY message_6_at ON message_6 (at_ms);
DROP INDEX CONCURRENTLY IF EXISTS message_7_at;
CREATE INDEX CONCURRENTLY message_7_at ON message_7 (at_ms);
CREATE INDEX message_at ON message (at_ms);

-- How far that relay is: everything up to here has been looked at. Without a row it begins at the present.
CREATE TABLE IF NOT EXISTS log_overdue (
    one          boolean PRIMARY KEY CHECK (one),
    at_ms        bigint  NOT NULL,
    conversation uuid    NOT NULL,
    seq          bigint  NOT NULL
);
