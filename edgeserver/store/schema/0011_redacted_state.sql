-- Of state events that were redacted here: what the authorization rules still read of their content. Whether a redaction came before or
-- after an event that is judged by what it redacts must make no difference, or servers would disagree for good.
CREATE TABLE redacted_state (
    event       INTEGER PRIMARY KEY REFERENCES events (event),
    content     BLOB NOT NULL                              -- JSON object: never shown to clients, nor sent
);
