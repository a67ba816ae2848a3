-- End-to-end encryption: device and cross-signing keys, device lists, send-to-device messages, key backup.
-- Keys of remote users lie beside those of our own; `remote_lists` says which of them are whole and current.

CREATE TABLE device_keys (
    user_id      TEXT NOT NULL,
    device_id    TEXT NOT NULL,
    keys         BLOB NOT NULL,                            -- JSON as its owner signed it; later signatures are in key_signatures
    display_name TEXT,                                     -- of remote devices only: ours are in the table of devices
    PRIMARY KEY (user_id, device_id)
) WITHOUT ROWID;

-- One-time keys in order of upload. A claimed one stays for a while, so that a repeated upload does not bring it back.
CREATE TABLE one_time_keys (
    position     INTEGER PRIMARY KEY,
    user_id      TEXT NOT NULL,
    device_id    TEXT NOT NULL,
    algorithm    TEXT NOT NULL,
    key_id       TEXT NOT NULL,
    key          BLOB NOT NULL,                            -- JSON
    claimed      INTEGER,                                  -- the stream position of the claim; NULL: not claimed
    UNIQUE (user_id, device_id, algorithm, key_id)
);
CREATE INDEX one_time_keys_free ON one_time_keys (user_id, device_id, algorithm, position) WHERE claimed IS NULL;
CREATE INDEX one_time_keys_claimed ON one_time_keys (user_id, device_id, algorithm, claimed) WHERE claimed IS NOT NULL;

CREATE TABLE fallback_keys (
    user_id      TEXT NOT NULL,
    device_id    TEXT NOT NULL,
    algorithm    TEXT NOT NULL,
    key_id       TEXT NOT NULL,
    key          BLOB NOT NULL,                            -- JSON
    used         INTEGER,                                  -- the stream position of its first use; NULL: not used
    PRIMARY KEY (user_id, device_id, algorithm)
) WITHOUT ROWID;

CREATE TABLE cross_signing_keys (
    user_id      TEXT NOT NULL,
    usage        TEXT NOT NULL,                            -- master, self_signing, user_signing
    public_key   TEXT NOT NULL,                            -- unpadded base64
    key          BLOB NOT NULL,                            -- JSON as uploaded
    PRIMARY KEY (user_id, usage)
) WITHOUT ROWID;

-- Signatures that came after the key itself
CREATE TABLE key_signatures (
    user_id      TEXT NOT NULL,                            -- whose key is signed
    key_id       TEXT NOT NULL,                            -- a device id, or the public half of a master key
    signer       TEXT NOT NULL,                            -- the user who signed
    signing_key  TEXT NOT NULL,                            -- ed25519:…
    signature    TEXT NOT NULL,
    PRIMARY KEY (user_id, key_id, signer, signing_key)
) WITHOUT ROWID;

-- When a user's devices or cross-signing keys last changed
CREATE TABLE device_list_changes (
    user_id      TEXT PRIMARY KEY,
    stream       INTEGER NOT NULL,
    stream_id    INTEGER                                   -- of our own users: of the newest m.device_list_update that servers were told
) WITHOUT ROWID;
CREATE INDEX device_list_changes_by_stream ON device_list_changes (stream);

-- Changes that one user alone can see: their own signatures of others' keys, and their user-signing key
CREATE TABLE private_key_changes (
    user_id      TEXT NOT NULL,                            -- who sees it
    target       TEXT NOT NULL,                            -- whose keys look different
    stream       INTEGER NOT NULL,
    PRIMARY KEY (user_id, target)
) WITHOUT ROWID;
CREATE INDEX private_key_changes_by_stream ON private_key_changes (stream);

-- Remote users whose whole device list is held
CREATE TABLE remote_lists (
    user_id      TEXT PRIMARY KEY,
    stream_id    INTEGER,                                  -- of the owner's server; NULL: it did not say
    stale        INTEGER NOT NULL DEFAULT 0                -- 1: an update was missed, so it has to be asked for again
) WITHOUT ROWID;

CREATE TABLE to_device (
    stream       INTEGER PRIMARY KEY,
    user_id      TEXT NOT NULL,
    device_id    TEXT NOT NULL,
    message      BLOB NOT NULL                             -- JSON: sender, type, content
);
CREATE INDEX to_device_by_device ON to_device (user_id, device_id, stream);

CREATE TABLE to_device_sent (
    user_id      TEXT NOT NULL,
    device_id    TEXT NOT NULL,
    txn_id       TEXT NOT NULL,                            -- with the event type before it
    sent_at      INTEGER NOT NULL,                         -- ms
    PRIMARY KEY (user_id, device_id, txn_id)
) WITHOUT ROWID;
CREATE INDEX to_device_sent_by_age ON to_device_sent (sent_at);

CREATE TABLE to_device_received (
    origin       TEXT NOT NULL,
    message_id   TEXT NOT NULL,
    received_at  INTEGER NOT NULL,                         -- ms
    PRIMARY KEY (origin, message_id)
) WITHOUT ROWID;
CREATE INDEX to_device_received_by_age ON to_device_received (received_at);

CREATE TABLE backup_versions (
    user_id      TEXT NOT NULL,
    version      INTEGER NOT NULL,
    algorithm    TEXT NOT NULL,
    auth_data    BLOB NOT NULL,                            -- JSON
    etag         INTEGER NOT NULL DEFAULT 0,               -- grows with every change of the keys
    keys         INTEGER NOT NULL DEFAULT 0,               -- how many there are
    deleted      INTEGER NOT NULL DEFAULT 0,               -- the row stays, so that a version is never given out twice
    PRIMARY KEY (user_id, version)
) WITHOUT ROWID;

CREATE TABLE backup_keys (
    user_id             TEXT NOT NULL,
    version             INTEGER NOT NULL,
    room_id             TEXT NOT NULL,
    session_id          TEXT NOT NULL,
    first_message_index INTEGER NOT NULL,
    forwarded_count     INTEGER NOT NULL,
    is_verified         INTEGER NOT NULL,
    session_data        BLOB NOT NULL,                     -- JSON
    PRIMARY KEY (user_id, version, room_id, session_id)
) WITHOUT ROWID;
