"""Rows begin with the control prefix, lose no text and come in one fixed order."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from pushkin_runtime.control_tokens import AUTHOR, BOS, EOS
from training.corpora import Work
from training.shards import RowOrder, build_shards, encode_text, load_order, work_rows


@pytest.fixture
def works(english: str, russian: str, tmp_path: Path) -> list[Work]:
    """Two English works and a Russian one."""
    made = []
    for author, language, text in (
        ("a_b", "en", english),
        ("c", "en", english[:5000]),
        ("d", "ru", russian),
    ):
        path = tmp_path / f"{author}.txt"
        path.write_text(text, encoding="utf-8")
        made.append(Work(language, author, "w", "prose", "CC0", "here", path))
    return made


def test_every_row_is_full_and_begins_with_its_prefix(
    tokenizer: Tokenizer, works: list[Work]
) -> None:
    rows, rest = work_rows(tokenizer, works[0], 64, random.Random(0))
    names = [tokenizer.token_to_id(name) for name in (BOS, "<lang:en>", "<genre:prose>")]
    assert all(len(row) == 65 for row in rows)
    assert all(row[:3] == names for row in [*rows, rest])
    with_author = sum(row[3] == tokenizer.token_to_id(AUTHOR) for row in rows)
    assert 0.3 < with_author / len(rows) < 0.7
    assert rest[-1] == tokenizer.token_to_id(EOS)


def test_the_rows_hold_the_whole_work(tokenizer: Tokenizer, works: list[Work]) -> None:
    rows, rest = work_rows(tokenizer, works[0], 64, random.Random(0))
    text = works[0].read()
    pieces = [tokenizer.decode(row) for row in [*rows, rest]]
    at = 0
    for piece in pieces:
        own = piece.removeprefix("A B\n")
        found = text.find(own, 0)
        assert 0 <= found <= at
        at = found + len(own)
    assert at == len(text)


def test_long_texts_are_encoded_as_in_one_call(tokenizer: Tokenizer, english: str) -> None:
    text = english * 4
    assert len(text) > 60_000
    assert encode_text(tokenizer, text) == tokenizer.encode(text, add_special_tokens=False).ids


def test_the_mixture_is_60_40_and_an_epoch_uses_every_row() -> None:
    english = np.arange(60, dtype=np.uint16).repeat(3).reshape(60, 3)
    russian = 1000 + np.arange(40, dtype=np.uint16).repeat(3).reshape(40, 3)
    order = RowOrder((english, russian), seed=5)
    seen = order.batch(0, 100)[:, 0].tolist()
    assert sorted(seen) == [*range(60), *range(1000, 1040)]
    assert [row < 1000 for row in seen[:10]].count(True) == 6
    assert seen[:20] != sorted(seen[:20])
    assert (order.batch(37, 9) == order.batch(30, 20)[7:16]).all()


def test_shards_are_the_same_for_the_same_seed(
    tokenizer: Tokenizer, works: list[Work], tmp_path: Path
) -> None:
    counts = build_shards(works, tokenizer, tmp_path / "a", row_length=64, seed=3)
    build_shards(works, tokenizer, tmp_path / "b", row_length=64, seed=3)
    first, second = load_order(tmp_path / "a", 0), load_order(tmp_path / "b", 0)
    assert counts == {"en": len(first.tables[0]), "ru": len(first.tables[1])}
    assert all((a == b).all() for a, b in zip(first.tables, second.tables, strict=True))


def test_missing_shards_say_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"training\.shards"):
        load_order(tmp_path, 0)
