-- Login challenges that were used, each until after it would have ended: whoever comes again with one finds it here.
CREATE TABLE spent_challenge (
    device_no INTEGER NOT NULL REFERENCES device (no),
    challenge BLOB    NOT NULL,
    until_ms  INTEGER NOT NULL,
    UNIQUE (device_no, challenge)
) STRICT;
