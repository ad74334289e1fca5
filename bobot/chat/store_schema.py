"""The tables of the conversation store, one step for each version of the file; a step that was
released is never changed again.
"""

from __future__ import annotations

LADDER: tuple[str, ...] = (
    """
CREATE TABLE conversations (
    id TEXT PRIMARY KEY,
    name TEXT UNIQUE,               -- given by /save; NULL for none
    title TEXT NOT NULL,
    created REAL NOT NULL,          -- seconds since 1970
    updated REAL NOT NULL,
    persona TEXT,
    system TEXT,                    -- the user's own system prompt; NULL: that of the persona
    settings TEXT NOT NULL,         -- JSON: sampling
    extra TEXT NOT NULL,            -- JSON: what only one of the chats needs
    model TEXT,
    is_private INTEGER NOT NULL,    -- never sent to a hosted model
    head INTEGER,                   -- the last message of the branch that is shown
    source TEXT UNIQUE              -- where an imported one comes from
);
CREATE INDEX conversations_updated ON conversations (updated);
CREATE TABLE messages (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    conversation TEXT NOT NULL REFERENCES conversations (id) ON DELETE CASCADE,
    parent INTEGER REFERENCES messages (id) ON DELETE CASCADE,
    role TEXT NOT NULL CHECK (role IN ('system', 'user', 'assistant', 'tool')),
    content TEXT NOT NULL,
    reasoning TEXT NOT NULL,
    model TEXT,
    usage TEXT,                     -- JSON: tokens, seconds, cost
    finish_reason TEXT,
    is_partial INTEGER NOT NULL,    -- an answer that is being written, or was when the program died
    extra TEXT NOT NULL,            -- JSON: tool calls, attachments
    created REAL NOT NULL
);
CREATE INDEX messages_conversation ON messages (conversation, id);
CREATE INDEX messages_parent ON messages (parent);
CREATE VIRTUAL TABLE found USING fts5 (
    content, content = 'messages', content_rowid = 'id',
    tokenize = 'unicode61 remove_diacritics 2'
);
CREATE TRIGGER messages_added AFTER INSERT ON messages BEGIN
    INSERT INTO found (rowid, content) VALUES (new.id, new.content);
END;
CREATE TRIGGER messages_removed AFTER DELETE ON messages BEGIN
    INSERT INTO found (found, rowid, content) VALUES ('delete', old.id, old.content);
END;
CREATE TRIGGER messages_changed AFTER UPDATE OF content ON messages BEGIN
    INSERT INTO found (found, rowid, content) VALUES ('delete', old.id, old.content);
    INSERT INTO found (rowid, content) VALUES (new.id, new.content);
END;
CREATE TABLE votes (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    created REAL NOT NULL,
    model_a TEXT NOT NULL,
    model_b TEXT NOT NULL,
    winner TEXT NOT NULL CHECK (winner IN ('a', 'b', 'tie', 'both_bad')),
    is_blind INTEGER NOT NULL,
    conversation TEXT REFERENCES conversations (id) ON DELETE SET NULL
);
""",
)
