-- Usage statistics, version 1. Run once, in one transaction with application_id and user_version.

CREATE TABLE meta (
  name  TEXT PRIMARY KEY,
  value ANY NOT NULL
) STRICT;

-- feature: "POST /v1/continue", the route as a template.
CREATE TABLE features (
  day     TEXT NOT NULL,
  feature TEXT NOT NULL,
  n       INTEGER NOT NULL,
  PRIMARY KEY (day, feature)
) STRICT, WITHOUT ROWID;

-- A choice that a person saw. No text, no id of a request or a document.
CREATE TABLE suggestions (
  key              INTEGER PRIMARY KEY,
  day              TEXT NOT NULL,
  task             TEXT NOT NULL,
  adapters         TEXT NOT NULL,
  min_p            REAL NOT NULL,
  persona_strength REAL NOT NULL,
  outcome          TEXT NOT NULL CHECK (outcome IN ('shown', 'accepted', 'edited', 'rejected')),
  n_chars          INTEGER NOT NULL,
  accepted_chars   INTEGER NOT NULL
) STRICT;
CREATE INDEX suggestions_by_day ON suggestions (day);

-- From here on text: only while the user agrees to it.
CREATE TABLE prompts (
  key         INTEGER PRIMARY KEY,
  digest      BLOB NOT NULL UNIQUE,
  task        TEXT NOT NULL,
  prompt      TEXT NOT NULL,
  suffix      TEXT NOT NULL,
  before      TEXT NOT NULL,
  after       TEXT NOT NULL,
  instruction TEXT NOT NULL,
  language    TEXT NOT NULL,
  adapters    TEXT NOT NULL,
  asked_at    REAL NOT NULL
) STRICT;

CREATE TABLE judgements (
  prompt    INTEGER NOT NULL REFERENCES prompts (key) ON DELETE CASCADE,
  text      TEXT NOT NULL,
  is_good   INTEGER NOT NULL CHECK (is_good IN (0, 1)),
  judged_at REAL NOT NULL,
  PRIMARY KEY (prompt, text)
) STRICT, WITHOUT ROWID;
