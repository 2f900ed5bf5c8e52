-- additive
-- Login challenges that were used, each until after it would have ended: whoever comes again with one, at whatever gateway, finds it here. Written under the row lock of the device.
CREATE TABLE spent_challenge (
    device    uuid   NOT NULL,
    challenge uuid   NOT NULL,
    until_ms  bigint NOT NULL,
    PRIMARY KEY (device, challenge)
);

CREATE INDEX spent_challenge_until ON spent_challenge (until_ms);
