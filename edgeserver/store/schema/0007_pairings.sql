-- Who is paired with this box, and for whom it is a gateway.

CREATE TABLE pairings (
    public_key  BLOB PRIMARY KEY,                  -- ed25519, 32 bytes
    name        TEXT NOT NULL,                     -- server name of a box; what a client device calls itself
    is_box      INTEGER NOT NULL,
    link        TEXT,                              -- name of the link on which we call it; NULL: it calls us
    fronted     INTEGER NOT NULL DEFAULT 0,        -- we carry its requests to the internet and the internet's to it
    gateway     INTEGER NOT NULL DEFAULT 0,        -- it does that for us
    paired_at   INTEGER NOT NULL                   -- ms
) WITHOUT ROWID;

-- Server names that are reached through a fronted box: its own, and those that it fronts for in turn
CREATE TABLE gateway_routes (
    server_name TEXT PRIMARY KEY,
    via         BLOB NOT NULL REFERENCES pairings (public_key) ON DELETE CASCADE,
    delegation  BLOB NOT NULL,                     -- signed JSON of the named box: who may front for it
    key_response BLOB                              -- its newest GET /_matrix/key/v2/server answer, served while it is away
) WITHOUT ROWID;
