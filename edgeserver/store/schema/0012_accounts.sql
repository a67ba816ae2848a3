-- What an administrator or the owner may do to an account: lock, suspend, deactivate with erasure; and email addresses.

ALTER TABLE accounts ADD COLUMN locked INTEGER NOT NULL DEFAULT 0;
ALTER TABLE accounts ADD COLUMN suspended INTEGER NOT NULL DEFAULT 0;

-- Deactivated accounts that have not left all their rooms yet; the row goes when they have
CREATE TABLE departures (
    user_id      TEXT PRIMARY KEY,
    tries        INTEGER NOT NULL DEFAULT 0                -- rounds in which some room could not be left
) WITHOUT ROWID;

-- Whose events are given out redacted, to those who came into the room after this stream position
CREATE TABLE erasures (
    user_id      TEXT PRIMARY KEY,
    stream       INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE email_addresses (
    address      TEXT PRIMARY KEY,                         -- in lower case
    user_id      TEXT NOT NULL,
    validated_at INTEGER NOT NULL,                         -- ms
    added_at     INTEGER NOT NULL                          -- ms
) WITHOUT ROWID;
CREATE INDEX email_addresses_by_user ON email_addresses (user_id);

-- Addresses to which a link has been sent. Of the client's secret and of the link's token only hashes (blake2b) are kept.
CREATE TABLE email_validations (
    sid          TEXT PRIMARY KEY,
    address      TEXT NOT NULL,
    purpose      TEXT NOT NULL,                            -- register, add, password
    secret_hash  BLOB NOT NULL,
    token_hash   BLOB NOT NULL UNIQUE,
    attempt      INTEGER NOT NULL,                         -- the highest send_attempt for which a mail was sent
    next_link    TEXT,
    expires_at   INTEGER NOT NULL,                         -- ms
    validated_at INTEGER                                   -- ms; NULL: the link has not been followed
) WITHOUT ROWID;
CREATE UNIQUE INDEX email_validations_by_secret ON email_validations (secret_hash, address, purpose);
CREATE INDEX email_validations_by_expiry ON email_validations (expires_at);
