-- Signing keys of other servers, and their key responses as they signed them (a notary passes those on).

CREATE TABLE server_keys (
    server_name TEXT NOT NULL,
    key_id      TEXT NOT NULL,
    verify_key  BLOB NOT NULL,                             -- 32 bytes
    valid_until INTEGER NOT NULL,                          -- ms; of an old key: when it expired
    trust       INTEGER NOT NULL,                          -- 0 through a notary, at first sight; 1 from the server itself; 2 pinned by pairing
    PRIMARY KEY (server_name, key_id)
) WITHOUT ROWID;

CREATE TABLE server_key_responses (
    server_name TEXT PRIMARY KEY,
    response    BLOB NOT NULL,                             -- canonical JSON, with the server's own signatures
    fetched_at  INTEGER NOT NULL,                          -- ms
    valid_until INTEGER NOT NULL                           -- ms
) WITHOUT ROWID;
