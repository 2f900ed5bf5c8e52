-- Accounts, devices, keys. Times are Unix milliseconds. Rows of accounts and devices are never deleted, so that no id is ever used again.
--
-- Every table is keyed by the account or by the device whose rows are used together, so that a distributed engine can place them by it. What is unique
-- over all accounts (a name, a device id) is looked at when an account registers or a device is added, never on the way of a message.

CREATE TABLE account (
    id              uuid    PRIMARY KEY,
    -- Folded to lower case; ASCII.
    username        text    COLLATE "C" NOT NULL UNIQUE,
    -- The present identity and recovery keys; zeros for a declined recovery key.
    aik             bytea   NOT NULL,
    recovery        bytea   NOT NULL,
    -- The newest statement in device_list.
    list_version    bigint  NOT NULL,
    list_hash       bytea   NOT NULL,
    created_ms      bigint  NOT NULL,
    -- Others see neither online nor last seen.
    presence_hidden boolean NOT NULL DEFAULT false,
    -- When its last connection ended.
    last_seen_ms    bigint  NOT NULL DEFAULT 0
) WITH (fillfactor = 85);

-- A current device is one with revoked_ms IS NULL. What the message log knows of a device is in its own tables.
CREATE TABLE device (
    id               uuid    PRIMARY KEY,
    account          uuid    NOT NULL REFERENCES account (id),
    ed25519          bytea   NOT NULL,
    certificate_hash bytea   NOT NULL,
    name             text,
    linked_ms        bigint  NOT NULL,
    -- The list version since which it is on the list.
    list_since       bigint  NOT NULL,
    -- When it last logged in or refreshed its tokens.
    last_seen_ms     bigint  NOT NULL DEFAULT 0,
    revoked_ms       bigint,
    -- The largest prekey id ever uploaded, and how many one-time prekeys are left, so that nobody has to count.
    prekey_highest   bigint  NOT NULL DEFAULT 0,
    one_time         integer NOT NULL DEFAULT 0 CHECK (one_time >= 0),
    one_time_kem     integer NOT NULL DEFAULT 0 CHECK (one_time_kem >= 0)
) WITH (fillfactor = 85);

CREATE INDEX device_current ON device (account) WHERE revoked_ms IS NULL;

-- Every signed version of every account.
CREATE TABLE device_list (
    account   uuid     NOT NULL REFERENCES account (id),
    version   bigint   NOT NULL,
    -- 1 a list, 2 a rotation.
    kind      smallint NOT NULL,
    signed    bytea    NOT NULL,
    signature bytea    NOT NULL,
    PRIMARY KEY (account, version)
);

-- Certificates, each with the version in which it first appears.
CREATE TABLE device_certificate (
    account          uuid   NOT NULL,
    version          bigint NOT NULL,
    device           uuid   NOT NULL,
    signed           bytea  NOT NULL,
    aik_signature    bytea  NOT NULL,
    accept_signature bytea  NOT NULL,
    PRIMARY KEY (account, version, device)
);

-- Devices that have left by their own signature. The next list does not name them.
CREATE TABLE device_leave (
    account   uuid   NOT NULL,
    -- Of the list being left.
    version   bigint NOT NULL,
    device    uuid   NOT NULL,
    signed    bytea  NOT NULL,
    signature bytea  NOT NULL,
    PRIMARY KEY (account, version, device)
);

-- Written and deleted under the row lock of the device, which also guards device.one_time and device.one_time_kem.
CREATE TABLE prekey (
    device     uuid     NOT NULL,
    -- 0 one-time X25519, 1 signed X25519, 2 one-time KEM, 3 last-resort KEM. Of 1 and 3 only the newest is kept.
    kind       smallint NOT NULL,
    id         bigint   NOT NULL,
    created_ms bigint   NOT NULL,
    key        bytea    NOT NULL,
    -- Empty for kind 0.
    signature  bytea    NOT NULL,
    PRIMARY KEY (device, kind, id)
);

-- Token buckets of handed-out one-time prekeys, as the time (microseconds) at which the bucket is full again. The requester of zeros is all of them
-- together.
CREATE TABLE prekey_fetch (
    device     uuid   NOT NULL,
    requester  uuid   NOT NULL,
    full_at_us bigint NOT NULL,
    PRIMARY KEY (device, requester)
);

CREATE INDEX prekey_fetch_full ON prekey_fetch (full_at_us);

-- One row per login. Hashes of the newest refresh token and of the one before it. Written under the row lock of the device.
CREATE TABLE refresh_token (
    family     uuid   PRIMARY KEY,
    device     uuid   NOT NULL,
    current    bytea  NOT NULL,
    previous   bytea,
    rotated_ms bigint NOT NULL,
    expires_ms bigint NOT NULL
);

CREATE INDEX refresh_token_of_device ON refresh_token (device);
CREATE INDEX refresh_token_expires ON refresh_token (expires_ms);

CREATE TABLE invite (
    hash       bytea  PRIMARY KEY,
    created_ms bigint NOT NULL,
    expires_ms bigint NOT NULL,
    used_ms    bigint
);

CREATE INDEX invite_expires ON invite (expires_ms);

-- Random keys of this service, made when first asked for.
CREATE TABLE server_secret (
    name  text  COLLATE "C" PRIMARY KEY,
    value bytea NOT NULL
);

-- Written to see whether the storage takes writes.
CREATE TABLE probe (
    one   boolean PRIMARY KEY CHECK (one),
    times bigint  NOT NULL
);
