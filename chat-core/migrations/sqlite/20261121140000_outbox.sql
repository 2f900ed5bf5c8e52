-- Events that are to be published with a change: written in its transaction, deleted when they are on the bus. There is one writer, so numbers are in the
-- order of commits.

CREATE TABLE outbox (
    no         INTEGER PRIMARY KEY AUTOINCREMENT,
    -- Of the bus.
    topic      TEXT    NOT NULL,
    key        BLOB    NOT NULL,
    payload    BLOB    NOT NULL,
    written_ms INTEGER NOT NULL
) STRICT;
