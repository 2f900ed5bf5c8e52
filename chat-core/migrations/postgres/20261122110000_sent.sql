-- no-transaction
-- additive
--
-- By this a retry is found: a device counts what it sends, and a retry repeats its number. Built beside the traffic, part by part, as the index by time was; the first statement is for a
-- run after one that was cut off.
DROP INDEX IF EXISTS message_sent;
DROP INDEX CONCURRENTLY IF EXISTS message_0_sent;
CREATE INDEX CONCURRENTLY message_0_sent ON message_0 (conversation, sender, counter);
DROP INDEX CONCURRENTLY IF EXISTS message_1_sent;
CREATE INDEX CONCURRENTLY message_1_sent ON message_1 (conversation, sender, counter);
DROP INDEX CONCURRENTLY IF EXISTS message_2_sent;
CREATE INDEX CONCURRENTLY message_2_sent ON message_2 (conversation, sender, counter);
DROP INDEX CONCURRENTLY IF EXISTS message_3_sent;
CREATE INDEX CONCURRENTLY message_3_sent ON message_3 (conversation, sender, counter);
DROP INDEX CONCURRENTLY IF EXISTS message_4_sent;
CREATE INDEX CONCURRENTLY message_4_sent ON message_4 (conversation, sender, counter);
DROP INDEX CONCURRENTLY IF EXISTS message_5_sent;
CREATE INDEX CONCURRENTLY message_5_sent ON message_5 (conversation, sender, counter);
DROP INDEX CONCURRENTLY IF EXISTS message_6_sent;
CREATE INDEX CONCURRENTLY message_6_sent ON message_6 (conversation, sender, counter);
DROP INDEX CONCURRENTLY IF EXISTS message_7_sent;
CREATE INDEX CONCURRENTLY message_7_sent ON message_7 (conversation, sender, counter);
CREATE INDEX message_sent ON message (conversation, sender, counter);
