"""Token rows for pre-training: one uint16 `.npy` a language, memory-mapped, plus shards.json.

A row holds `row_length` + 1 tokens (inputs and the shifted targets) of one work and begins with the
control prefix, the author dropped out of half of the rows. Works end with <eos>; what is left of
them is packed together, so no token is padding. Rows are shuffled here with a seed and mixed
60:40 by `RowOrder`, which is a pure function of the seed: position n always names the same row.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from pushkin_runtime.control_tokens import EOS, LANGUAGES, prefix_ids
from training.corpora import DEFAULT_DATA, Work, all_works, author_name, training_works
from training.tokenizer import load_tokenizer

Tokens = npt.NDArray[np.uint16]
ROW_LENGTH = 1024
ENGLISH_SHARE = 0.6
_BACKTRACK = 96  # a row may repeat this many tokens to begin at a paragraph
_ENCODE_CHARS = 50_000


def encode_text(tokenizer: Tokenizer, text: str) -> list[int]:
    """Ids of a long text, cut at line ends so that pieces are as in one call, nothing added."""
    parts: list[str] = []
    start = 0
    while start < len(text):
        end = min(len(text), start + _ENCODE_CHARS)
        cut = text.rfind("\n", start, end)
        end = len(text) if end == len(text) else (cut + 1 if cut > start else end)
        while 0 < end < len(text) and text[end] == "\n":
            end += 1
        parts.append(text[start:end])
        start = end
    encodings = tokenizer.encode_batch(parts, add_special_tokens=False)
    return [token for encoding in encodings for token in encoding.ids]


def _special_id(tokenizer: Tokenizer, name: str) -> int:
    token = tokenizer.token_to_id(name)
    if token is None:
        raise ValueError(f"the tokenizer has no {name}: train it with training.tokenizer")
    return int(token)


def work_prefix(tokenizer: Tokenizer, work: Work, with_author: bool) -> list[int]:
    """The control prefix of one row of a work."""
    return prefix_ids(
        lambda name: _special_id(tokenizer, name),
        lambda text: list(tokenizer.encode(text, add_special_tokens=False).ids),
        work.language,
        work.genre,
        author_name(work.author) if with_author else None,
    )


def work_rows(
    tokenizer: Tokenizer, work: Work, row_length: int, rng: random.Random
) -> tuple[list[list[int]], list[int]]:
    """Full rows of a work, each `row_length` + 1 tokens, and the rest with its prefix and <eos>."""
    tokens = [*encode_text(tokenizer, work.read()), _special_id(tokenizer, EOS)]
    line_ends = {
        token for piece, token in tokenizer.get_vocab().items() if piece and set(piece) == {"\n"}
    }
    prefixes = {flag: work_prefix(tokenizer, work, flag) for flag in (False, True)}
    rows: list[list[int]] = []
    start = 0
    while True:
        prefix = prefixes[rng.random() < 0.5]
        room = row_length + 1 - len(prefix)
        if start + room > len(tokens):
            return rows, prefix + tokens[start:]
        rows.append(prefix + tokens[start : start + room])
        # The last token was only a target; begin there or at the last paragraph before it.
        following = start + room - 1
        for back in range(min(_BACKTRACK, room // 4)):
            if tokens[following - back - 1] in line_ends:
                following -= back
                break
        start = following


def build_shards(
    works: Sequence[Work],
    tokenizer: Tokenizer,
    out: Path,
    row_length: int = ROW_LENGTH,
    seed: int = 0,
) -> dict[str, int]:
    """Write `LANGUAGE.npy` of shape (n_rows, row_length + 1) and shards.json; rows by language."""
    out.mkdir(parents=True, exist_ok=True)
    counts: dict[str, int] = {}
    for language in LANGUAGES:
        rng = random.Random(f"{seed}-{language}")
        chosen = [work for work in works if work.language == language]
        rng.shuffle(chosen)
        blocks: list[Tokens] = []
        rest: list[int] = []
        for work in chosen:
            rows, tail = work_rows(tokenizer, work, row_length, rng)
            if rows:
                blocks.append(np.asarray(rows, dtype=np.uint16))
            rest += tail
        n_rest = len(rest) // (row_length + 1)
        packed = np.asarray(rest[: n_rest * (row_length + 1)], dtype=np.uint16)
        table = np.concatenate([*blocks, packed.reshape(n_rest, row_length + 1)])
        np.random.default_rng(seed).shuffle(table)
        np.save(out / f"{language}.npy", table)
        counts[language] = len(table)
    about = {"row_length": row_length, "seed": seed, "rows": counts, "n_works": len(works)}
    (out / "shards.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    return counts


@dataclass(frozen=True)
class RowOrder:
    """Which row comes n-th: language by a fixed 60:40 pattern, rows in a seeded permutation.

    `tables` are (n_rows, row_length + 1) uint16, one a language, EN first; each language starts
    again with a new permutation when it is used up.
    """

    tables: tuple[Tokens, ...]
    seed: int
    english_share: float = ENGLISH_SHARE

    @property
    def row_length(self) -> int:
        """Inputs of a row, one less than its tokens."""
        return int(self.tables[0].shape[1]) - 1

    def row(self, position: int) -> Tokens:
        """The row at a position counted from 0 since the start of training."""
        n_english = int((position + 1) * self.english_share) - int(position * self.english_share)
        before = int(position * self.english_share)
        if len(self.tables) == 1:
            table, index = 0, position
        else:
            table, index = (0, before) if n_english else (1, position - before)
        rows = self.tables[table]
        epoch, offset = divmod(index, len(rows))
        return np.asarray(rows[_shuffled(offset, len(rows), self.seed + 7919 * epoch)])

    def batch(self, position: int, n_rows: int) -> Tokens:
        """Rows position .. position + n_rows - 1, shape (n_rows, row_length + 1)."""
        return np.stack([self.row(position + index) for index in range(n_rows)])


def _shuffled(index: int, size: int, seed: int) -> int:
    """A seeded bijection of range(size): an affine map, since the rows are already shuffled."""
    step = 2 * (seed % max(1, size // 2)) + 1
    while np.gcd(step, size) != 1:
        step += 2
    return (index * step + seed) % size


def load_order(folder: Path, seed: int) -> RowOrder:
    """Memory-map the shards of a folder. Raises FileNotFoundError with what to run."""
    paths = [folder / f"{language}.npy" for language in LANGUAGES]
    paths = [path for path in paths if path.is_file()]
    if not paths:
        raise FileNotFoundError(
            f"no shards in {folder}: run python -m training.shards --out {folder}"
        )
    return RowOrder(tuple(np.load(path, mmap_mode="r") for path in paths), seed)


def main(argv: Sequence[str] | None = None) -> None:
    """Command line: tokenise every training work."""
    parser = argparse.ArgumentParser(prog="training.shards", description=__doc__)
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA)
    parser.add_argument("--cache", type=Path, required=True, help="where archives are unpacked")
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    tokenizer = load_tokenizer(args.tokenizer)
    works, _ = training_works(all_works(args.data, args.cache))
    counts = build_shards(works, tokenizer, args.out, seed=args.seed)
    print(f"rows of {ROW_LENGTH} tokens: {counts} -> {args.out}")


if __name__ == "__main__":
    main()
