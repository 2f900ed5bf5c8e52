-- additive
--
-- The index of all rows by sender and counter, with its parts: chains, and the indexes of what is on none, have taken its place.
DROP INDEX IF EXISTS message_sent;
