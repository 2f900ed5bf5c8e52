-- How far the relay is that looks for messages which some device has not acknowledged for a while: rows of the journal up to this number have been looked at, at this
-- time. Without a row it begins at the present.
CREATE TABLE log_overdue(
    only INTEGER PRIMARY KEY CHECK (only = 1),
    upto INTEGER NOT NULL,
    at_ms INTEGER NOT NULL
) STRICT;
