-- Application services (bridges): how far each has been sent what concerns it, and the rooms that they list in networks of their own.

CREATE TABLE bridge_positions (
    service     TEXT PRIMARY KEY,                          -- the id of its registration
    position    INTEGER NOT NULL,                          -- stream position up to which everything has been taken by it
    pending     INTEGER                                    -- end of a transaction that failed and is sent again; NULL: none did
) WITHOUT ROWID;

CREATE TABLE bridge_rooms (
    service     TEXT NOT NULL,
    network_id  TEXT NOT NULL,
    room_id     TEXT NOT NULL,
    PRIMARY KEY (service, network_id, room_id)
) WITHOUT ROWID;

CREATE INDEX accounts_by_service ON accounts (appservice_id) WHERE appservice_id IS NOT NULL;
