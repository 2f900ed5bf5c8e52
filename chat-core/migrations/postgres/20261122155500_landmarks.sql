-- no-transaction
-- additive
--
-- The rows that are on no chain, which are all that there are yet, and the landmarks of chains (see the next migration). Built beside the traffic, part by part; what is dropped is left by a run that
-- was cut off. Nobody waits long behind what needs the tables for itself: if somebody reads them for longer, the migration fails and is run again.
SET lock_timeout = '5s';
DROP INDEX IF EXISTS message_unchained;
DROP INDEX IF EXISTS message_landmark;
SET lock_timeout = 0;
DROP INDEX CONCURRENTLY IF EXISTS message_0_unchained;
CREATE INDEX CONCURRENTLY message_0_unchained ON message_0 (conversation, sender, counter) WHERE previous IS NULL;
DROP INDEX CONCURRENTLY IF EXISTS message_1_unchained;
CREATE INDEX CONCURRENTLY message_1_unchained ON message_1 (conversation, sender, counter) WHERE previous IS NULL;
DROP INDEX CONCURRENTLY IF EXISTS message_2_unchained;
CREATE INDEX CONCURRENTLY message_2_unchained ON message_2 (conversation, sender, counter) WHERE previous IS NULL;
DROP INDEX CONCURRENTLY IF EXISTS message_3_unchained;
CREATE INDEX CONCURRENTLY message_3_unchained ON message_3 (conversation, sender, counter) WHERE previous IS NULL;
DROP INDEX CONCURRENTLY IF EXISTS message_4_unchained;
CREATE INDEX CONCURRENTLY message_4_unchained ON message_4 (conversation, sender, counter) WHERE previous IS NULL;
DROP INDEX CONCURRENTLY IF EXISTS message_5_unchained;
CREATE INDEX CONCURRENTLY message_5_unchained ON message_5 (conversation, sender, counter) WHERE previous IS NULL;
DROP INDEX CONCURRENTLY IF EXISTS message_6_unchained;
CREATE INDEX CONCURRENTLY message_6_unchained ON message_6 (conversation, sender, counter) WHERE previous IS NULL;
DROP INDEX CONCURRENTLY IF EXISTS message_7_unchained;
CREATE INDEX CONCURRENTLY message_7_unchained ON message_7 (conversation, sender, counter) WHERE previous IS NULL;
DROP INDEX CONCURRENTLY IF EXISTS message_0_landmark;
CREATE INDEX CONCURRENTLY message_0_landmark ON message_0 (conversation, sender, counter) WHERE previous > 0 AND seq / 64 <> previous / 64;
DROP INDEX CONCURRENTLY IF EXISTS message_1_landmark;
CREATE INDEX CONCURRENTLY message_1_landmark ON message_1 (conversation, sender, counter) WHERE previous > 0 AND seq / 64 <> previous / 64;
DROP INDEX CONCURRENTLY IF EXISTS message_2_landmark;
CREATE INDEX CONCURRENTLY message_2_landmark ON message_2 (conversation, sender, counter) WHERE previous > 0 AND seq / 64 <> previous / 64;
DROP INDEX CONCURRENTLY IF EXISTS message_3_landmark;
CREATE INDEX CONCURRENTLY message_3_landmark ON message_3 (conversation, sender, counter) WHERE previous > 0 AND seq / 64 <> previous / 64;
DROP INDEX CONCURRENTLY IF EXISTS message_4_landmark;
CREATE INDEX CONCURRENTLY message_4_landmark ON message_4 (conversation, sender, counter) WHERE previous > 0 AND seq / 64 <> previous / 64;
DROP INDEX CONCURRENTLY IF EXISTS message_5_landmark;
CREATE INDEX CONCURRENTLY message_5_landmark ON message_5 (conversation, sender, counter) WHERE previous > 0 AND seq / 64 <> previous / 64;
DROP INDEX CONCURRENTLY IF EXISTS message_6_landmark;
CREATE INDEX CONCURRENTLY message_6_landmark ON message_6 (conversation, sender, counter) WHERE previous > 0 AND seq / 64 <> previous / 64;
DROP INDEX CONCURRENTLY IF EXISTS message_7_landmark;
CREATE INDEX CONCURRENTLY message_7_landmark ON message_7 (conversation, sender, counter) WHERE previous > 0 AND seq / 64 <> previous / 64;
SET lock_timeout = '5s';
CREATE INDEX message_unchained ON message_run (conversation, sender, counter) WHERE previous IS NULL;
CREATE INDEX message_landmark ON message_run (conversation, sender, counter) WHERE previous > 0 AND seq / 64 <> previous / 64;
SET lock_timeout = 0;
