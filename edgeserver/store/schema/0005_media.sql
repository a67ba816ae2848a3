-- The index of the content repository. The bytes are files named by their SHA-256 (edgeserver/media/files.py).

CREATE TABLE media (
    server_name  TEXT NOT NULL,
    media_id     TEXT NOT NULL,
    hash         TEXT,                                     -- SHA-256 in hex, the file's name; NULL: created, not uploaded yet
    size         INTEGER NOT NULL DEFAULT 0,               -- bytes
    content_type TEXT NOT NULL DEFAULT 'application/octet-stream',
    filename     TEXT,
    user_id      TEXT,                                     -- who uploaded it; NULL: fetched from another server
    created_at   INTEGER NOT NULL,                         -- ms
    expires_at   INTEGER,                                  -- ms; of a row without content: upload before then
    used_at      INTEGER NOT NULL,                         -- ms, to the day: what has been unused longest is dropped first
    PRIMARY KEY (server_name, media_id)
) WITHOUT ROWID;
CREATE INDEX media_by_user ON media (user_id, size) WHERE user_id IS NOT NULL;
CREATE INDEX media_pending ON media (expires_at) WHERE hash IS NULL;
CREATE INDEX media_fetched ON media (used_at) WHERE user_id IS NULL;
CREATE INDEX media_by_hash ON media (hash) WHERE hash IS NOT NULL;

CREATE TABLE thumbnails (
    server_name  TEXT NOT NULL,
    media_id     TEXT NOT NULL,
    width        INTEGER NOT NULL,                         -- pixels, of the fixed list of sizes
    height       INTEGER NOT NULL,
    method       TEXT NOT NULL,                            -- crop, scale
    hash         TEXT NOT NULL,                            -- SHA-256 in hex, the file's name
    size         INTEGER NOT NULL,                         -- bytes
    content_type TEXT NOT NULL,
    used_at      INTEGER NOT NULL,                         -- ms, to the day
    PRIMARY KEY (server_name, media_id, width, height, method)
) WITHOUT ROWID;
CREATE INDEX thumbnails_by_use ON thumbnails (used_at);
CREATE INDEX thumbnails_by_hash ON thumbnails (hash);
