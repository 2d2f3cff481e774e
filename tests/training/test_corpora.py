"""Works are labelled, held-out authors never reach training, copies are dropped."""

from __future__ import annotations

import random
import re
from dataclasses import replace
from pathlib import Path

import pytest

from training.corpora import (
    ARCHIVES,
    DEFAULT_DATA,
    CorpusError,
    Work,
    all_works,
    clean,
    genre_of,
    held_out_works,
    is_held_out,
    training_works,
)

_HEADER = "lang\tauthor\twork\tbytes\trepo\tpath\tcommit\twhy_public_domain"


def _prose(seed: int) -> str:
    rng = random.Random(seed)
    words = [f"{rng.choice('bdfgk')}{rng.choice('aeiou')}{rng.choice('lmnrst')}" for _ in range(60)]
    sentences = [" ".join(rng.choices(words, k=14)).capitalize() + "." for _ in range(300)]
    return "\n\n".join(" ".join(sentences[at : at + 3]) for at in range(0, 300, 3)) + "\n"


@pytest.fixture
def archives(tmp_path: Path) -> tuple[Path, Path]:
    """A data folder with a manifest and a cache with five authors, one of them twice."""
    data, cache = tmp_path / "data", tmp_path / "cache"
    data.mkdir()
    texts = {
        "authors-en/en/conrad/nostromo_1904.txt": _prose(1),
        "authors-en/en/dickens/bleak_1853.txt": _prose(2),
        "authors-ru/ru/chekhov/Степь.txt": _prose(3),
        "corpus-en/en/anton_tchekoff__the_steppe.txt": _prose(4),
        "corpus-en/en/charles_dickens__bleak_house.txt": "A new preface.\n\n" + _prose(2),
        "corpus-ru/ru/chekhov__step.txt": _prose(3),
        "corpus-en/en/an_editor__an_anthology.txt": _prose(5) + _prose(1),
        "corpus-ru/ru/gogol__shinel.txt": _prose(6),
        "corpus-en/en/wrapped__lines.txt": re.sub(r"((?:\w+\W+){23})", r"\1\n\n", _prose(7)),
    }
    rows = [_HEADER]
    for name, text in texts.items():
        path = cache / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        if name.startswith("corpus"):
            author, work = path.stem.split("__")
            rows.append(f"{path.parent.name}\t{author}\t{work}\t1\trepo\tp\tc\tpublic domain")
    (data / "corpus-manifest.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return data, cache


def test_held_out_authors_copies_and_leaks_are_dropped(archives: tuple[Path, Path]) -> None:
    kept, dropped = training_works(all_works(*archives))
    assert [work.author for work in kept] == ["dickens", "gogol"]
    assert {work.title: reason for work, reason in dropped} == {
        "step": "held-out author",
        "lines": "hard-wrapped lines",
        "nostromo_1904": "held-out author",
        "степь": "held-out author",
        "the_steppe": "held-out author",
        "bleak_house": "near-duplicate",
        "an_anthology": "shares text with a held-out author",
    }


def test_held_out_works_are_in_the_original_language_and_not_twice(
    archives: tuple[Path, Path],
) -> None:
    chosen = held_out_works(all_works(*archives), "ru")
    assert [work.title for work in chosen["chekhov"]] == ["степь"]
    assert chosen["herzen"] == []


@pytest.mark.parametrize(
    "slug",
    [
        "joseph_conrad",
        "wilkie_collins",
        "collins",
        "anton_checkov",
        "chekhov",
        "herzen",
        "a_gertsen",
    ],
)
def test_every_alias_is_held_out(slug: str) -> None:
    assert is_held_out(slug)


def test_a_title_about_a_held_out_author_is_held_out_too() -> None:
    assert is_held_out("maxim_gorky", "reminiscences_of_anton_chekhov")
    assert not is_held_out("charles_dickens", "bleak_house")


def test_a_work_without_licence_or_source_is_refused(archives: tuple[Path, Path]) -> None:
    work = all_works(*archives)[0]
    with pytest.raises(CorpusError, match="licence and source are required"):
        replace(work, licence=" ")
    with pytest.raises(CorpusError, match="licence and source are required"):
        replace(work, source="")


def test_missing_archives_are_all_named(tmp_path: Path) -> None:
    with pytest.raises(CorpusError) as error:
        all_works(tmp_path, tmp_path / "cache")
    assert all(f"{name}.tar.xz" in str(error.value) for name in ARCHIVES)
    assert "--data" in str(error.value)


def test_cleaning_keeps_letters_quotes_and_dashes() -> None:
    assert clean("\ufeffЁлка — «е\u0308ж»…\r\n\r\n\r\n\r\n“So,” he  said.\u00a0\n") == (
        "Ёлка — «ёж»…\n\n“So,” he  said.\n"
    )


def test_genres_by_source_title_and_shape() -> None:
    play = "\n".join(f"HAMLET. Line number {n}, my lord." for n in range(200))
    poem = "\n".join(f"A short line of verse {n}" for n in range(200))
    assert genre_of("x", "x", "dracor-org/rusdracor") == "drama"
    assert genre_of("x", "letters_of_a_friend", "x") == "letters"
    assert genre_of(play, "x", "x") == "drama"
    assert genre_of(poem, "x", "x") == "verse"
    assert genre_of(_prose(1), "x", "x") == "prose"


def test_the_real_archives_hold_no_held_out_author_in_training() -> None:
    manifest = DEFAULT_DATA / "corpus-manifest.tsv"
    if not manifest.is_file():
        pytest.skip(f"the real archives are not in {DEFAULT_DATA}: pass --data to the trainer")
    rows = [line.split("\t") for line in manifest.read_text(encoding="utf-8").splitlines()[1:]]
    held = {row[1] for row in rows if is_held_out(row[1], row[2])}
    expected = {"joseph_conrad", "wilkie_collins", "anton_checkov", "anton_chekhov", "chekhov"}
    assert held >= expected | {"herzen"}
    left = {row[1] for row in rows} - held
    assert not [
        slug for slug in left if any(name in slug for name in ("collins", "conrad", "herzen"))
    ]


def test_work_is_read_clean(tmp_path: Path) -> None:
    path = tmp_path / "w.txt"
    path.write_text("a\r\nb", encoding="utf-8", newline="")
    assert Work("en", "a", "w", "prose", "CC0", "here", path).read() == "a\nb\n"
