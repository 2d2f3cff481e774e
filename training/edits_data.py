"""Rewriting pairs made by people: LAMP's expert edits, IteraTeR's revisions, RUSpellRU's corrections.

Research data, used for training and measuring only; none of its text is copied into the product.
LAMP (salesforce/creativity_eval, BSD-3), IteraTeR R3 (Apache-2.0), RUSpellRU (MIT). A paragraph pair
becomes pairs of the sentences that differ, and the split goes by original.
"""

from __future__ import annotations

import json
import re
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from pathlib import Path

from training.degraded_data import sentences
from training.task_examples import Pair

HELD_OUT_ONE_IN = 8
_SHINGLE_WORDS = 8
_MAX_SENTENCES = 3
_MAX_CHARS = 600
_REVISION = re.compile(r"rev_depth_(\d+)")
_EDGES = re.compile(r"^(\W*)(.*?)(\W*)$", re.DOTALL)


def is_held_out_group(group: str) -> bool:
    """Whether the originals of a group are kept for measuring: one group in eight, by its name."""
    return zlib.crc32(group.encode()) % HELD_OUT_ONE_IN == 0


def _shingles(text: str) -> set[str]:
    words = text.split()
    last = max(1, len(words) - _SHINGLE_WORDS + 1)
    return {" ".join(words[index : index + _SHINGLE_WORDS]) for index in range(last)}


def group_by_shared_text(documents: Sequence[Sequence[str]]) -> list[int]:
    """A group number for each document (its versions): those that share eight words in a row share it."""
    parent = list(range(len(documents)))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    owner: dict[str, int] = {}
    for index, versions in enumerate(documents):
        for shingle in set().union(*map(_shingles, versions)):
            one, other = root(index), root(owner.setdefault(shingle, index))
            parent[max(one, other)] = min(one, other)  # the first document names its group
    return [root(index) for index in range(len(documents))]


def sentence_pairs(kind: str, group: str, draft: str, revised: str) -> Iterator[Pair]:
    """The rewritten stretches of an English paragraph, at most three sentences each way, with context."""
    old, new = sentences(draft), sentences(revised)
    matcher = SequenceMatcher(None, old, new, autojunk=False)
    for tag, a_start, a_end, b_start, b_end in matcher.get_opcodes():
        source, target = " ".join(old[a_start:a_end]), " ".join(new[b_start:b_end])
        too_long = max(a_end - a_start, b_end - b_start) > _MAX_SENTENCES
        if tag != "replace" or too_long or max(len(source), len(target)) > _MAX_CHARS:
            continue
        # A stretch that has become another text altogether teaches nothing about rewriting.
        if SequenceMatcher(None, source.split(), target.split()).ratio() < 0.3:
            continue
        before = " ".join(old[max(0, a_start - 1) : a_start])
        yield Pair("en", kind, group, source, target, before=before[-160:])


def lamp_pairs(folder: Path) -> list[Pair]:
    """LAMP: language models' drafts → what professional writers made of them, as sentences."""
    path = folder / "writing" / "lamp_pairs_train_reconstructed.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    groups = group_by_shared_text([(row["pre"], row["post"]) for row in rows])
    return [
        pair
        for row, group in zip(rows, groups, strict=True)
        for pair in sentence_pairs("lamp", f"lamp-{group}", row["pre"], row["post"])
    ]


def iterater_pairs(folder: Path) -> list[Pair]:
    """IteraTeR R3: encyclopaedia, news and abstracts → the revisions that people accepted, as sentences.

    Only its `system_human` part holds whole texts; the other parts list edits without them.
    """
    pairs: list[Pair] = []
    with zipfile.ZipFile(folder / "edits" / "iterater_r3" / "R3_eval_data.zip") as archive:
        for name in sorted(archive.namelist()):
            if not name.startswith("R3_eval_data/system_human/") or not name.endswith(".json"):
                continue
            content = json.loads(archive.read(name))
            for key in sorted(key for key in content if _REVISION.fullmatch(key)):
                document = content[key]["doc"]
                revised = document.get("after_human_evaluation")
                if revised is None:
                    continue
                group = str(document["doc_id"]).split("-depth")[0]
                draft = " ".join(document["before_revision"].split())
                revised = " ".join(revised.split())
                pairs += sentence_pairs("iterater", f"iterater-{group}", draft, revised)
    return list(dict.fromkeys(pairs))


def with_punctuation(source: str, corrected: str) -> str:
    """RUSpellRU's correction in the punctuation of its source: the corrections have lost theirs.

    Words that agree but for their marks are taken from the source; replaced ones keep the source's edges.
    """
    old = source.split()
    new = corrected.split()
    cores = [_edges(word)[1].casefold() for word in old]
    matcher = SequenceMatcher(None, cores, [word.casefold() for word in new], autojunk=False)
    result: list[str] = []
    for tag, a_start, a_end, b_start, b_end in matcher.get_opcodes():
        if tag == "equal":
            result += old[a_start:a_end]
        elif tag == "delete":
            result += [word for word in old[a_start:a_end] if not _edges(word)[1]]
        elif b_start < b_end:
            words = new[b_start:b_end]
            if a_start < a_end:
                words = [_edges(old[a_start])[0] + words[0], *words[1:]]
                words[-1] += _edges(old[a_end - 1])[2]
            result += words
    return " ".join(result)


def _edges(word: str) -> tuple[str, str, str]:
    match = _EDGES.match(word)
    return (match[1], match[2], match[3]) if match else ("", word, "")


def ruspell_pairs(folder: Path) -> list[Pair]:
    """RUSpellRU: Russian web sentences → their spelling corrected by people."""
    root = folder / "edits" / "ruspellru"
    sources = (root / "sources.txt").read_text(encoding="utf-8").splitlines()
    corrected = (root / "corrections.txt").read_text(encoding="utf-8").splitlines()
    pairs = [
        Pair("ru", "ruspell", "", " ".join(old.split()), with_punctuation(old, new))
        for old, new in zip(sources, corrected, strict=True)
        if old.strip() and len(old) <= _MAX_CHARS
    ]
    groups = group_by_shared_text([(pair.source, pair.target) for pair in pairs])
    return [
        Pair("ru", "ruspell", f"ruspell-{group}", pair.source, pair.target)
        for pair, group in zip(pairs, groups, strict=True)
    ]


def human_pairs(folder: Path) -> list[Pair]:
    """Every pair of the three collections. Raises FileNotFoundError naming what is missing."""
    return [*lamp_pairs(folder), *iterater_pairs(folder), *ruspell_pairs(folder)]
