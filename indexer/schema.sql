-- The index, version 1. Run once, in one transaction with application_id and user_version.

CREATE TABLE meta (
  name  TEXT PRIMARY KEY,
  value ANY NOT NULL
) STRICT;

-- 'active' is served, 'preparing' is being filled, 'retired' is being emptied.
CREATE TABLE embedding_space (
  key          INTEGER PRIMARY KEY AUTOINCREMENT,
  id           TEXT NOT NULL,
  n_dimensions INTEGER NOT NULL CHECK (n_dimensions > 0),
  state        TEXT NOT NULL CHECK (state IN ('active', 'preparing', 'retired'))
) STRICT;
CREATE UNIQUE INDEX one_space_of_a_kind ON embedding_space (state) WHERE state != 'retired';

-- Digests are keyed with a secret outside this file: what was written cannot be confirmed by guessing.
-- folder, path: only of files in a folder that the configuration names; path is relative to it.
-- consent: what allowed it. profile: counts for the portrait (JSON), gone with the document.
CREATE TABLE documents (
  key            INTEGER PRIMARY KEY AUTOINCREMENT,
  id             TEXT NOT NULL UNIQUE,
  revision       INTEGER,
  content_digest BLOB NOT NULL,
  text_digest    BLOB NOT NULL,
  origin         TEXT NOT NULL CHECK (origin IN ('push', 'folder')),
  folder         TEXT,
  path           TEXT,
  media_type     TEXT NOT NULL,
  consent        TEXT NOT NULL CHECK (consent IN ('global', 'request', 'document', 'folder')),
  consented_at   REAL NOT NULL,
  indexed_at     REAL NOT NULL,
  n_paragraphs   INTEGER NOT NULL,
  n_words        INTEGER NOT NULL,
  weight         REAL NOT NULL DEFAULT 1.0 CHECK (weight BETWEEN 0 AND 10),
  stale          INTEGER NOT NULL DEFAULT 0 CHECK (stale IN (0, 1)),
  profile        TEXT
) STRICT;

-- AUTOINCREMENT: an id is never used twice, so a late search result cannot name another paragraph.
CREATE TABLE paragraphs (
  id       INTEGER PRIMARY KEY AUTOINCREMENT,
  document INTEGER NOT NULL REFERENCES documents (key) ON DELETE CASCADE,
  position INTEGER NOT NULL,
  digest   BLOB NOT NULL,
  language TEXT NOT NULL,
  n_words  INTEGER NOT NULL,
  n_chars  INTEGER NOT NULL,
  text     TEXT
) STRICT;
CREATE INDEX paragraphs_of_document ON paragraphs (document, position);

-- vector: little-endian float16. Apart from paragraphs, so that two spaces can be there at once.
CREATE TABLE vectors (
  paragraph INTEGER NOT NULL REFERENCES paragraphs (id) ON DELETE CASCADE,
  space     INTEGER NOT NULL REFERENCES embedding_space (key),
  vector    BLOB NOT NULL
) STRICT;
CREATE UNIQUE INDEX vectors_of_paragraph ON vectors (paragraph, space);

-- What was forgotten, so that it does not come back by itself: digests of ids, paths, contents, texts.
CREATE TABLE tombstones (
  kind       TEXT NOT NULL CHECK (kind IN ('document', 'path', 'content', 'text')),
  digest     BLOB NOT NULL,
  deleted_at REAL NOT NULL,
  PRIMARY KEY (kind, digest)
) STRICT, WITHOUT ROWID;

-- What the user decided about single documents; none: as the global consent says.
CREATE TABLE decisions (
  document   TEXT PRIMARY KEY,
  decision   TEXT NOT NULL CHECK (decision IN ('include', 'exclude')),
  decided_at REAL NOT NULL
) STRICT, WITHOUT ROWID;

-- Folders that are watched; `name` is one of the configuration.
CREATE TABLE folders (
  name      TEXT PRIMARY KEY,
  consented INTEGER NOT NULL CHECK (consented IN (0, 1)),
  added_at  REAL NOT NULL
) STRICT, WITHOUT ROWID;

-- What a scan saw, so that the next one reads only what has changed.
CREATE TABLE files (
  path_digest   BLOB PRIMARY KEY,
  folder        TEXT NOT NULL REFERENCES folders (name) ON DELETE CASCADE,
  document      TEXT NOT NULL,
  inode         INTEGER NOT NULL,
  n_bytes       INTEGER NOT NULL,
  mtime_ns      INTEGER NOT NULL,
  error_code    TEXT,
  missing_since REAL
) STRICT, WITHOUT ROWID;

-- No text, no title, no file name, not in errors either.
CREATE TABLE jobs (
  id           TEXT PRIMARY KEY,
  kind         TEXT NOT NULL,
  document     TEXT,
  state        TEXT NOT NULL,
  n_paragraphs INTEGER NOT NULL DEFAULT 0,
  n_embedded   INTEGER NOT NULL DEFAULT 0,
  n_kept       INTEGER NOT NULL DEFAULT 0,
  n_removed    INTEGER NOT NULL DEFAULT 0,
  n_documents  INTEGER NOT NULL DEFAULT 0,
  n_failed     INTEGER NOT NULL DEFAULT 0,
  error_code   TEXT,
  queued_at    REAL NOT NULL,
  finished_at  REAL
) STRICT;
CREATE INDEX jobs_of_document ON jobs (document);
