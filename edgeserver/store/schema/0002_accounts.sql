-- People and their devices: accounts, tokens, profiles, account data, filters, push rules, pushers.
-- Rows that a client can miss carry `stream`, a position of the one global stream (store/database.py).

CREATE TABLE accounts (
    user_id        TEXT PRIMARY KEY,
    password       TEXT,                                   -- argon2id in its own text form; NULL: no log-in by password
    admin          INTEGER NOT NULL DEFAULT 0,
    appservice_id  TEXT,                                   -- the application service that registered the user
    created_at     INTEGER NOT NULL,                       -- ms
    deactivated_at INTEGER                                 -- ms; the name stays taken
) WITHOUT ROWID;

CREATE TABLE devices (
    user_id        TEXT NOT NULL,
    device_id      TEXT NOT NULL,
    display_name   TEXT,
    last_seen_at   INTEGER,                                -- ms; written late, and seldom
    last_seen_ip   TEXT,
    PRIMARY KEY (user_id, device_id)
) WITHOUT ROWID;

-- One row is an access token and the refresh token that came with it. Only hashes (blake2b) are kept.
CREATE TABLE tokens (
    token          INTEGER PRIMARY KEY,
    user_id        TEXT NOT NULL,
    device_id      TEXT NOT NULL,
    access_hash    BLOB NOT NULL UNIQUE,
    refresh_hash   BLOB UNIQUE,                            -- NULL: cannot be refreshed
    expires_at     INTEGER,                                -- ms, of the access token; NULL: never
    replaces       INTEGER                                 -- the row that it was refreshed from, which lives until this one is first used
);
CREATE INDEX tokens_by_device ON tokens (user_id, device_id);
CREATE UNIQUE INDEX tokens_by_replaced ON tokens (replaces) WHERE replaces IS NOT NULL;

CREATE TABLE registration_tokens (
    token          TEXT PRIMARY KEY,
    uses_left      INTEGER,                                -- NULL: any number
    expires_at     INTEGER                                 -- ms; NULL: never
) WITHOUT ROWID;

CREATE TABLE profiles (
    user_id        TEXT NOT NULL,
    field          TEXT NOT NULL,
    value          BLOB NOT NULL,                          -- JSON
    stream         INTEGER NOT NULL,
    PRIMARY KEY (user_id, field)
) WITHOUT ROWID;

CREATE TABLE account_data (
    user_id        TEXT NOT NULL,
    room_id        TEXT NOT NULL,                          -- '': not of one room
    type           TEXT NOT NULL,
    content        BLOB NOT NULL,                          -- JSON object
    stream         INTEGER NOT NULL,
    PRIMARY KEY (user_id, room_id, type)
) WITHOUT ROWID;
CREATE INDEX account_data_by_stream ON account_data (user_id, stream);

CREATE TABLE filters (
    user_id        TEXT NOT NULL,
    filter_id      INTEGER NOT NULL,
    filter         BLOB NOT NULL,                          -- canonical JSON
    PRIMARY KEY (user_id, filter_id)
) WITHOUT ROWID;

CREATE TABLE pushers (
    user_id        TEXT NOT NULL,
    app_id         TEXT NOT NULL,
    pushkey        TEXT NOT NULL,
    device_id      TEXT,                                   -- the device that set it; it goes with that device
    pusher         BLOB NOT NULL,                          -- JSON: as in GET /pushers
    PRIMARY KEY (user_id, app_id, pushkey)
) WITHOUT ROWID;
CREATE INDEX pushers_by_key ON pushers (app_id, pushkey);
