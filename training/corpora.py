"""Public-domain works for pre-training: found, labelled, held out and de-duplicated.

Every work carries a language, an author, a genre, a licence and a source; a work without a licence
or a source is an error, never a default. Held-out authors are matched by slug in every archive and
in translations, and any work that shares text with theirs is dropped too.
"""

from __future__ import annotations

import re
import tarfile
import unicodedata
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

ARCHIVES: tuple[str, ...] = ("authors-en", "authors-ru", "corpus-en", "corpus-ru")
MANIFEST_NAME = "corpus-manifest.tsv"
DEFAULT_DATA = Path("../shared/data")

# Held-out author -> every slug (or part of a slug) under which the archives file the author.
HELD_OUT: dict[str, dict[str, tuple[str, ...]]] = {
    "en": {"collins": ("collins", "wilkie"), "conrad": ("conrad", "korzeniowski")},
    "ru": {
        "chekhov": ("chekhov", "checkov", "chekov", "tchekhov", "tchekoff", "cechov", "чехов"),
        "herzen": ("herzen", "gertsen", "gercen", "hertzen", "герцен"),
    },
}
# Anthologies that are known to print a held-out author among others.
EXCLUDED_WORKS: frozenset[str] = frozenset({"the_lock_and_key_library"})

_AUTHOR_ARCHIVES: dict[str, tuple[str, str]] = {
    "en": ("public domain (Project Gutenberg text)", "Project Gutenberg"),
    "ru": ("public domain (author died before 1950)", "d0rj/RusLit"),
}
_SENTENCE_END = re.compile(r"[.!?…\n]+")
_NOT_WORD = re.compile(r"[\W_]+")
_SPEAKER_LINE = re.compile(
    r"^(?:[A-ZА-ЯЁ][A-ZА-ЯЁ .'’-]{1,30}|[А-ЯЁA-Z][а-яёa-z]+(?: \(.*?\))?)[.:]"
)
_SKETCH_ONE_IN = 16
_MIN_SENTENCE_CHARS = 40


class CorpusError(ValueError):
    """The corpora are missing or not as described; the message says what to do."""


@dataclass(frozen=True)
class Work:
    """One text and what is known of it. `path` is UTF-8; `licence` and `source` are never empty."""

    language: str
    author: str
    title: str
    genre: str
    licence: str
    source: str
    path: Path

    def __post_init__(self) -> None:
        if not self.licence.strip() or not self.source.strip():
            raise CorpusError(
                f"{self.author}/{self.title}: licence and source are required, "
                f"got licence={self.licence!r} source={self.source!r}; fill in {MANIFEST_NAME}"
            )

    def read(self) -> str:
        """The text, NFC, with quotes, dashes and the letter ё kept; only line ends are unified."""
        return clean(self.path.read_text(encoding="utf-8"))


def clean(text: str) -> str:
    """NFC, unix line ends, no byte-order mark or NULs, no trailing blanks, at most one blank line."""
    text = unicodedata.normalize("NFC", text.replace("\r\n", "\n").replace("\r", "\n"))
    text = text.replace("\ufeff", "").replace("\x00", "").replace("\u00ad", "")
    text = re.sub(r"[ \t\u00a0]+\n", "\n", text)
    return re.sub(r"\n{3,}", "\n\n", text).strip("\n") + "\n"


def is_held_out(author: str, title: str = "") -> bool:
    """Whether a slug names a held-out author, as the author or inside the title (reminiscences)."""
    words = f"{author} {title}".casefold()
    slugs = (slug for authors in HELD_OUT.values() for names in authors.values() for slug in names)
    return title in EXCLUDED_WORKS or any(slug in words for slug in slugs)


def unpack(data: Path, cache: Path) -> None:
    """Extract into `cache/NAME` each archive of `data` that is not there yet.

    Raises CorpusError, naming all missing archives at once, when neither is present.
    """
    missing = []
    for name in ARCHIVES:
        if (cache / name).is_dir():
            continue
        archive = data / f"{name}.tar.xz"
        if not archive.is_file():
            missing.append(archive.name)
            continue
        with tarfile.open(archive) as tar:
            tar.extractall(cache / name, filter="data")
    if missing:
        raise CorpusError(
            f"no corpus found: {', '.join(missing)} not in {data} and not unpacked in {cache}. "
            "Pass --data DIR, the folder that holds the archives and " + MANIFEST_NAME
        )


def genre_of(text: str, title: str, source: str) -> str:
    """prose, drama, verse, letters or essay, from the source, the title, then the line shapes."""
    if "rusdracor" in source or re.search(r"_pyesa|(^|_)(a_play|drama|comedy|tragedy)(_|$)", title):
        return "drama"
    if re.search(r"(^|_)(letters|correspondence|pisma)(_|$)", title):
        return "letters"
    if re.search(r"(^|_)(essays?|diary|autobiography|problem|analysis|on_liberty)(_|$)", title):
        return "essay"
    lines = [line for line in text[20_000:120_000].split("\n") if line.strip()]
    lines = lines or [line for line in text.split("\n") if line.strip()]
    if not lines:
        return "prose"
    speakers = sum(1 for line in lines if _SPEAKER_LINE.match(line)) / len(lines)
    lengths = sorted(len(line) for line in lines)
    if speakers > 0.5:
        return "drama"
    return "verse" if lengths[int(len(lengths) * 0.9)] < 75 and len(lines) > 100 else "prose"


def _authors_works(root: Path, language: str) -> Iterator[Work]:
    licence, source = _AUTHOR_ARCHIVES[language]
    for path in sorted((root / language).glob("*/*.txt")):
        title = re.sub(r"\s+", "_", path.stem.casefold())
        genre = genre_of(path.read_text(encoding="utf-8"), title, source)
        yield Work(language, path.parent.name, title, genre, licence, source, path)


def _manifest_works(manifest: Path, cache: Path) -> Iterator[Work]:
    lines = manifest.read_text(encoding="utf-8").splitlines()
    header = lines[0].split("\t")
    for line in lines[1:]:
        row = dict(zip(header, line.split("\t"), strict=True))
        language = row["lang"]
        name = f"{row['author']}__{row['work']}.txt"
        path = cache / f"corpus-{language}" / language / name
        if not path.is_file():
            raise CorpusError(f"{manifest.name} lists {name}, which is not in {path.parent}")
        genre = genre_of(path.read_text(encoding="utf-8"), row["work"], row["repo"])
        yield Work(
            language, row["author"], row["work"], genre, row["why_public_domain"], row["repo"], path
        )


def all_works(data: Path, cache: Path) -> list[Work]:
    """Every work of the archives, held-out ones included, in a stable order.

    Args: data, the folder with the archives and the manifest; cache, where they are unpacked.
    """
    unpack(data, cache)
    manifest = data / MANIFEST_NAME
    if not manifest.is_file():
        raise CorpusError(f"{MANIFEST_NAME} not in {data}: it gives each work's licence and source")
    works = list(_authors_works(cache / "authors-en", "en"))
    works += _authors_works(cache / "authors-ru", "ru")
    return works + list(_manifest_works(manifest, cache))


def sketch(text: str) -> frozenset[int]:
    """Hashes of one in sixteen of the long sentences, case and punctuation ignored."""
    hashes = set()
    for sentence in _SENTENCE_END.split(text.casefold().replace("ё", "е")):
        if len(sentence) < _MIN_SENTENCE_CHARS:
            continue
        value = zlib.crc32(_NOT_WORD.sub("", sentence).encode())
        if value % _SKETCH_ONE_IN == 0:
            hashes.add(value)
    return frozenset(hashes)


def training_works(
    works: Iterable[Work], duplicate_share: float = 0.3, leak_share: float = 0.02
) -> tuple[list[Work], list[tuple[Work, str]]]:
    """The works to train on, and the dropped ones with the reason.

    Dropped are held-out authors, hard-wrapped prose, works of which `leak_share` of the sentences are a held-out
    author's, and works of which `duplicate_share` of the sentences were seen in kept works.
    """
    works = list(works)
    held = [work for work in works if is_held_out(work.author, work.title)]
    dropped = [(work, "held-out author") for work in held]
    held_sentences: set[int] = set()
    for work in held:
        held_sentences |= sketch(work.read())
    held_paths = {work.path for work in held}
    kept: list[Work] = []
    seen: set[int] = set()
    for work in works:
        if work.path in held_paths:
            continue
        text = work.read()
        own = sketch(text)
        if work.genre == "prose" and is_hard_wrapped(text):
            dropped.append((work, "hard-wrapped lines"))
        elif len(own & held_sentences) > max(1, leak_share * len(own)):
            dropped.append((work, "shares text with a held-out author"))
        elif len(own & seen) > max(2, duplicate_share * len(own)):
            dropped.append((work, "near-duplicate"))
        else:
            kept.append(work)
            seen |= own
    return kept, dropped


def is_hard_wrapped(text: str) -> bool:
    """Whether most paragraphs begin in the middle of a sentence: lines were taken for paragraphs."""
    starts = [part.lstrip(' —–-«"“')[:1] for part in text.split("\n\n")]
    return sum(start.islower() for start in starts) > 0.5 * len(starts)


def held_out_works(works: Iterable[Work], language: str) -> dict[str, list[Work]]:
    """Prose in the original language of each held-out author: author -> works.

    No text twice, and no hard-wrapped copy where a clean one exists.
    """
    chosen: dict[str, list[Work]] = {author: [] for author in HELD_OUT[language]}
    seen: set[int] = set()
    for work in works:
        if work.language != language or work.genre != "prose":
            continue
        for author, slugs in HELD_OUT[language].items():
            if not any(slug in work.author.casefold() for slug in slugs):
                continue
            text = work.read()
            own = sketch(text)
            if len(own & seen) <= max(1, 0.1 * len(own)) and not is_hard_wrapped(text):
                chosen[author].append(work)
                seen |= own
    return chosen


def author_name(slug: str) -> str:
    """The author as written in a control prefix: `joseph_conrad` -> `Joseph Conrad`."""
    return " ".join(part.capitalize() for part in slug.split("_") if part)
