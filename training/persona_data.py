"""Runs of consecutive paragraphs by author and work: `python -m training.persona_data --out FILE ...`.

What the style encoder and the persona are trained and measured on. Authors are split once and for all:
`test` are the corpus's held-out authors, which no model of ours has seen; `dev` are chosen by a hash of the
name, seen by the base model but by neither encoder nor persona; the rest is `train`.
"""

from __future__ import annotations

import argparse
import json
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pushkin_runtime.control_tokens import LANGUAGES
from training.corpora import DEFAULT_DATA, Work, all_works, held_out_works, training_works

MIN_WORDS, MAX_WORDS = 30, 220  # of one paragraph, as the index merges and splits them
RUN_PARAGRAPHS = 8
MAX_RUNS = 24  # of one work
MAX_WORKS = 8  # of one author
N_DEV = 8  # authors a language
GENRES = ("prose", "essay", "letters")
_MARGIN = 0.02  # of a work's paragraphs at either end: title pages, contents, notes

# One person under several slugs; the archives name authors differently.
ALIASES: dict[str, str] = {
    "a_m_barnard": "louisa_may_alcott",
    "aka_lewis_carroll_charles_dodgson": "lewis_carroll",
    "bronte_c": "charlotte_bronte",
    "dickens": "charles_dickens",
    "doyle": "arthur_conan_doyle",
    "e_nesbit": "edith_nesbit",
    "edward_morgan_forster": "e_m_forster",
    "eliot": "george_pseud_eliot",
    "elizabeth_cleghorn_gaskell": "elizabeth_gaskell",
    "fyodor_dostoyevsky": "feodor_dostoevsky",
    "hardy": "thomas_hardy",
    "henri_rene_guy_de_maupassant": "guy_de_maupassant",
    "henry_d_thoreau": "henry_david_thoreau",
    "j_w_von_goethe": "johann_wolfgang_von_goethe",
    "james_m_barrie": "j_m_barrie",
    "james_matthew_barrie": "j_m_barrie",
    "kipling": "rudyard_kipling",
    "lawrence": "d_h_lawrence",
    "lewis_pseud_carroll": "lewis_carroll",
    "lyof_n_tolstoi": "leo_tolstoy",
    "richard_f_burton": "richard_francis_burton",
    "stevenson": "robert_louis_stevenson",
    "thackeray": "william_makepeace_thackeray",
    "trollope": "anthony_trollope",
}
# English by several translators: not one hand.
TRANSLATED: frozenset[str] = frozenset(
    [
        "aeschylus",
        "aesop",
        "alexandre_dumas",
        "dante_alighieri",
        "emile_zola",
        "feodor_dostoevsky",
        "gaston_leroux",
        "guy_de_maupassant",
        "gustave_flaubert",
        "hans_christian_andersen",
        "henryk_sienkiewicz",
        "homer",
        "honore_de_balzac",
        "ivan_alekseyevich_bunin",
        "johann_wolfgang_von_goethe",
        "jules_verne",
        "knut_hamsun",
        "leo_tolstoy",
        "lucian",
        "nikolai_gogol",
        "plato",
        "thomas_mann",
        "victor_hugo",
        "virgil",
        "voltaire",
        "charles_perrault",
        "jacob_grimm",
        "hermann_sudermann",
        "henrik_ibsen",
    ]
)


@dataclass(frozen=True)
class WorkRuns:
    """A work as runs of consecutive paragraphs; runs do not overlap and are in the work's order."""

    language: str
    author: str
    title: str
    genre: str
    split: str  # train, dev or test
    runs: tuple[tuple[str, ...], ...]

    @property
    def paragraphs(self) -> Iterator[str]:
        """All paragraphs, run by run."""
        return (paragraph for run in self.runs for paragraph in run)


def paragraphs_of(text: str) -> list[str]:
    """Units of MIN_WORDS to MAX_WORDS: short paragraphs merged with what follows, long ones split."""
    units: list[str] = []
    gathered: list[str] = []
    n_words = 0
    for part in text.split("\n\n"):
        for piece in _split_long(part.strip()):
            gathered.append(piece)
            n_words += len(piece.split())
            if n_words >= MIN_WORDS:
                units.append("\n\n".join(gathered))
                gathered, n_words = [], 0
    return units


def _split_long(paragraph: str) -> Iterator[str]:
    """Parts of at most about MAX_WORDS, cut at sentence ends."""
    words = 0
    kept: list[str] = []
    for sentence in re.split(r"(?<=[.!?…])\s+(?=[A-ZА-ЯЁ“«—\"'])", paragraph):
        length = len(sentence.split())
        if kept and words + length > MAX_WORDS:
            yield " ".join(kept)
            kept, words = [], 0
        kept.append(sentence)
        words += length
    if kept and kept != [""]:
        yield " ".join(kept)


def runs_of(paragraphs: Sequence[str], max_runs: int = MAX_RUNS) -> tuple[tuple[str, ...], ...]:
    """At most `max_runs` runs of RUN_PARAGRAPHS, evenly spaced, the margins of the work left out."""
    margin = int(len(paragraphs) * _MARGIN)
    inner = paragraphs[margin : len(paragraphs) - margin]
    n_whole = max(1, len(inner) // RUN_PARAGRAPHS)
    n_runs = min(max_runs, n_whole)
    starts = [index * n_whole // n_runs * RUN_PARAGRAPHS for index in range(n_runs)]
    return tuple(tuple(inner[start : start + RUN_PARAGRAPHS]) for start in starts if inner[start:])


def dev_authors(works: Iterable[Work], language: str) -> frozenset[str]:
    """N_DEV authors with two works or more, chosen by a hash of the name."""
    counts: dict[str, int] = {}
    for work in works:
        if work.language == language and work.genre in GENRES:
            author = ALIASES.get(work.author, work.author)
            counts[author] = counts.get(author, 0) + 1
    several = [name for name, n in counts.items() if n > 1 and name not in TRANSLATED]
    ranked = sorted(several, key=lambda name: zlib.crc32(name.encode()))
    return frozenset(ranked[:N_DEV])


def build(works: Sequence[Work]) -> Iterator[WorkRuns]:
    """Every usable work of all three splits."""
    kept, _ = training_works(works)
    for language in LANGUAGES:
        dev = dev_authors(kept, language)
        n_works: dict[str, int] = {}
        for work in kept:
            author = ALIASES.get(work.author, work.author)
            usable = work.genre in GENRES and author not in TRANSLATED
            if work.language != language or not usable or author.endswith("_ed"):
                continue
            n_works[author] = n_works.get(author, 0) + 1
            if n_works[author] <= MAX_WORKS:
                yield from _work_runs(work, author, "dev" if author in dev else "train")
        for author, own in held_out_works(works, language).items():
            for work in own:
                yield from _work_runs(work, author, "test")


def _work_runs(work: Work, author: str, split: str) -> Iterator[WorkRuns]:
    runs = runs_of(paragraphs_of(work.read()))
    if runs and len(runs[0]) == RUN_PARAGRAPHS:
        yield WorkRuns(work.language, author, work.title, work.genre, split, runs)


def save(path: Path, works: Iterable[WorkRuns]) -> int:
    """Write JSON lines, a work each; how many."""
    count = 0
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        for work in works:
            file.write(json.dumps(asdict(work), ensure_ascii=False) + "\n")
            count += 1
    temporary.replace(path)
    return count


def load(path: Path, splits: Sequence[str] = ("train", "dev", "test")) -> list[WorkRuns]:
    """The works of some splits, as they were saved."""
    works: list[WorkRuns] = []
    with path.open(encoding="utf-8") as file:
        for line in file:
            content = json.loads(line)
            if content["split"] in splits:
                content["runs"] = tuple(map(tuple, content["runs"]))
                works.append(WorkRuns(**content))
    return works


def main(argv: Sequence[str] | None = None) -> None:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="training.persona_data", description=__doc__)
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA)
    parser.add_argument("--cache", type=Path, required=True, help="where archives are unpacked")
    parser.add_argument("--out", type=Path, required=True, help="the .jsonl to write")
    args = parser.parse_args(argv)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    n_works = save(args.out, build(all_works(args.data, args.cache)))
    print(f"{n_works} works -> {args.out}")


if __name__ == "__main__":
    main()
