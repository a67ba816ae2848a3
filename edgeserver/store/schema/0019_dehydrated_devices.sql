-- Dehydrated devices (MSC3814). The device itself, its keys and the messages for it lie where those of any device do.

CREATE TABLE dehydrated_devices (
    user_id      TEXT PRIMARY KEY,
    device_id    TEXT NOT NULL,
    data         BLOB NOT NULL                             -- JSON: what its owner will bring it to life with
) WITHOUT ROWID;
