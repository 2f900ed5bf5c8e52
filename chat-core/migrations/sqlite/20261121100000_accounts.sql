-- Accounts, devices, keys. Times are Unix milliseconds. Rows of accounts and devices are never deleted, so that no id is ever used again.

CREATE TABLE account (
    no              INTEGER PRIMARY KEY,
    id              BLOB    NOT NULL UNIQUE,
    -- Folded to lower case.
    username        TEXT    NOT NULL UNIQUE,
    -- The present identity and recovery keys; zeros for a declined recovery key.
    aik             BLOB    NOT NULL,
    recovery        BLOB    NOT NULL,
    -- The newest statement in device_list.
    list_version    INTEGER NOT NULL,
    list_hash       BLOB    NOT NULL,
    created_ms      INTEGER NOT NULL,
    -- Others see neither online nor last seen.
    presence_hidden INTEGER NOT NULL DEFAULT 0,
    -- When its last connection ended.
    last_seen_ms    INTEGER NOT NULL DEFAULT 0
) STRICT;

-- A current device is one with revoked_ms IS NULL.
CREATE TABLE device (
    no               INTEGER PRIMARY KEY,
    account_no       INTEGER NOT NULL REFERENCES account (no),
    id               BLOB    NOT NULL,
    ed25519          BLOB    NOT NULL,
    certificate_hash BLOB    NOT NULL,
    name             TEXT,
    linked_ms        INTEGER NOT NULL,
    -- The list version since which it is on the list.
    list_since       INTEGER NOT NULL,
    -- When it last logged in or refreshed its tokens.
    last_seen_ms     INTEGER NOT NULL DEFAULT 0,
    revoked_ms       INTEGER,
    -- The largest connection epoch and send counter seen; written by the message log.
    epoch            INTEGER NOT NULL DEFAULT 0,
    counter          INTEGER NOT NULL DEFAULT 0,
    -- The largest prekey id ever uploaded, and how many one-time prekeys are left, so that nobody has to count.
    prekey_highest   INTEGER NOT NULL DEFAULT 0,
    one_time         INTEGER NOT NULL DEFAULT 0,
    one_time_kem     INTEGER NOT NULL DEFAULT 0,
    UNIQUE (account_no, id)
) STRICT;

-- A device id known under another account is refused.
CREATE UNIQUE INDEX device_by_id ON device (id);

-- Every signed version of every account.
CREATE TABLE device_list (
    account_no INTEGER NOT NULL REFERENCES account (no),
    version    INTEGER NOT NULL,
    -- 1 a list, 2 a rotation.
    kind       INTEGER NOT NULL,
    signed     BLOB    NOT NULL,
    signature  BLOB    NOT NULL,
    UNIQUE (account_no, version)
) STRICT;

-- Certificates, each with the version in which it first appears.
CREATE TABLE device_certificate (
    account_no       INTEGER NOT NULL REFERENCES account (no),
    version          INTEGER NOT NULL,
    signed           BLOB    NOT NULL,
    aik_signature    BLOB    NOT NULL,
    accept_signature BLOB    NOT NULL
) STRICT;

CREATE INDEX device_certificate_by_version ON device_certificate (account_no, version);

-- Devices that have left by their own signature. The next list does not name them.
CREATE TABLE device_leave (
    account_no INTEGER NOT NULL REFERENCES account (no),
    -- Of the list being left.
    version    INTEGER NOT NULL,
    signed     BLOB    NOT NULL,
    signature  BLOB    NOT NULL
) STRICT;

CREATE INDEX device_leave_by_version ON device_leave (account_no, version);

CREATE TABLE prekey (
    device_no  INTEGER NOT NULL REFERENCES device (no),
    -- 0 one-time X25519, 1 signed X25519, 2 one-time KEM, 3 last-resort KEM. Of 1 and 3 only the newest is kept.
    kind       INTEGER NOT NULL,
    id         INTEGER NOT NULL,
    created_ms INTEGER NOT NULL,
    key        BLOB    NOT NULL,
    -- Empty for kind 0.
    signature  BLOB    NOT NULL,
    UNIQUE (device_no, kind, id)
) STRICT;

-- Token buckets of handed-out one-time prekeys, as the time (microseconds) at which the bucket is full again. requester_no 0 is all requesters together.
CREATE TABLE prekey_fetch (
    device_no    INTEGER NOT NULL,
    requester_no INTEGER NOT NULL,
    full_at_us   INTEGER NOT NULL,
    UNIQUE (device_no, requester_no)
) STRICT;

-- One row per login. Hashes of the newest refresh token and of the one before it.
CREATE TABLE refresh_token (
    family     BLOB    NOT NULL PRIMARY KEY,
    device_no  INTEGER NOT NULL REFERENCES device (no),
    current    BLOB    NOT NULL,
    previous   BLOB,
    rotated_ms INTEGER NOT NULL,
    expires_ms INTEGER NOT NULL
) STRICT;

CREATE INDEX refresh_token_by_device ON refresh_token (device_no, rotated_ms);

CREATE TABLE invite (
    hash       BLOB    NOT NULL PRIMARY KEY,
    created_ms INTEGER NOT NULL,
    expires_ms INTEGER NOT NULL,
    used_ms    INTEGER
) STRICT;

-- Random keys of this server, made when first asked for.
CREATE TABLE server_secret (
    name  TEXT NOT NULL PRIMARY KEY,
    value BLOB NOT NULL
) STRICT;
