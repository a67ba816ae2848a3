-- The full-text index of what rooms say in the clear. The rows' ids are the events' stream positions. The texts themselves are not
-- stored again (a contentless table): to take a row out, its words are derived once more from the event (store/search_index.py).
CREATE VIRTUAL TABLE search_index USING fts5 (
    body, name, topic,
    content = '', columnsize = 0,
    tokenize = "unicode61 remove_diacritics 2 categories 'L* N* Co M*'"
);

-- Which part of the stream is in the index: positions in (low, high]
CREATE TABLE search_progress (
    id          INTEGER PRIMARY KEY CHECK (id = 0),
    low         INTEGER NOT NULL,
    high        INTEGER NOT NULL,
    form        TEXT NOT NULL                              -- how words were made of texts; another one: the index is made anew
);
