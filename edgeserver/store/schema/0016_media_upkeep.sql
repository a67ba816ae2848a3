-- Media: what unauthenticated downloads may still give, what is quarantined, animated thumbnails, uploads in parts, previews of URLs.

-- Spec: client-server API, "Content repository": what was there before downloads without a token were frozen stays reachable that way.
ALTER TABLE media ADD COLUMN before_freeze INTEGER NOT NULL DEFAULT 0;
UPDATE media SET before_freeze = 1;

-- Apart from the media themselves: what is evicted from the cache stays quarantined, so that it is not fetched again.
CREATE TABLE quarantined_media (
    server_name  TEXT NOT NULL,
    media_id     TEXT NOT NULL,
    since        INTEGER NOT NULL,                         -- ms
    PRIMARY KEY (server_name, media_id)
) WITHOUT ROWID;

CREATE TABLE thumbnails_new (
    server_name  TEXT NOT NULL,
    media_id     TEXT NOT NULL,
    width        INTEGER NOT NULL,                         -- pixels, of the fixed list of sizes
    height       INTEGER NOT NULL,
    method       TEXT NOT NULL,                            -- crop, scale
    animated     INTEGER NOT NULL,                         -- 1: asked for as moving pictures
    hash         TEXT NOT NULL,                            -- SHA-256 in hex, the file's name
    size         INTEGER NOT NULL,                         -- bytes
    content_type TEXT NOT NULL,
    used_at      INTEGER NOT NULL,                         -- ms, to the day
    PRIMARY KEY (server_name, media_id, width, height, method, animated)
) WITHOUT ROWID;
INSERT INTO thumbnails_new SELECT server_name, media_id, width, height, method, 0, hash, size, content_type, used_at FROM thumbnails;
DROP TABLE thumbnails;
ALTER TABLE thumbnails_new RENAME TO thumbnails;
CREATE INDEX thumbnails_by_use ON thumbnails (used_at);
CREATE INDEX thumbnails_by_hash ON thumbnails (hash);

-- Uploads in parts (draft-ietf-httpbis-resumable-upload). The bytes lie in a file of the upload's name until they are whole.
CREATE TABLE partial_uploads (
    upload_id    TEXT PRIMARY KEY,
    user_id      TEXT NOT NULL,
    media_id     TEXT NOT NULL,                            -- what it will be, on this server
    is_created   INTEGER NOT NULL,                         -- 1: the id was made by POST /media/v1/create before
    received     INTEGER NOT NULL DEFAULT 0,               -- bytes that are on the disk for certain
    length       INTEGER,                                  -- bytes of the whole, once the client has said so
    is_complete  INTEGER NOT NULL DEFAULT 0,               -- 1: it has become the media; kept for who missed the answer
    content_type TEXT NOT NULL,
    filename     TEXT,
    expires_at   INTEGER NOT NULL                          -- ms
) WITHOUT ROWID;
CREATE INDEX partial_uploads_by_user ON partial_uploads (user_id);
CREATE INDEX partial_uploads_by_expiry ON partial_uploads (expires_at);

CREATE TABLE url_previews (
    url          TEXT PRIMARY KEY,
    fetched_at   INTEGER NOT NULL,                         -- ms
    expires_at   INTEGER NOT NULL,                         -- ms
    image        TEXT,                                     -- media id on this server of the preview's image
    body         TEXT NOT NULL                             -- the answer, JSON
) WITHOUT ROWID;
CREATE INDEX url_previews_by_age ON url_previews (fetched_at);
