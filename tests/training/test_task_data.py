"""Rewriting pairs: the target is never touched, originals and held-out authors stay on their side."""

from __future__ import annotations

import json
import random
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from pushkin_runtime.tokenizer import TextTokenizer
from pushkin_runtime.types import Task
from training.corpora import Work
from training.degraded_data import Selection, degrade, degraded_pair, selections, sentences
from training.edits_data import (
    group_by_shared_text,
    human_pairs,
    is_held_out_group,
    with_punctuation,
)
from training.task_data import Mixture, build
from training.task_examples import Pair, TaskExample

_WORDS = {
    "en": "the old house river stood by and she said nothing to him for it was late winter snow",
    "ru": "он не сказал было зима снег дом старый река потом уже тихо вечер мы она стояла",
}
_MIXTURE = Mixture(n_train=60, n_held_out=8, n_completion=16)


def _work(folder: Path, language: str, author: str, marker: str) -> Work:
    """A work of word salad in which every sentence carries its author's own word."""
    rng = random.Random(author)
    words = _WORDS[language].split()
    paragraphs = []
    for _ in range(120):
        own = [[*(rng.choice(words) for _ in range(9)), marker] for _ in range(3)]
        for line in own:
            rng.shuffle(line)
        paragraphs.append(" ".join(" ".join(line).capitalize() + "." for line in own))
    path = folder / f"{author}.txt"
    path.write_text("\n\n".join(paragraphs) + "\n", encoding="utf-8")
    return Work(language, author, f"work_of_{author}", "prose", "public domain", "test", path)


@pytest.fixture(scope="module")
def works(tmp_path_factory: pytest.TempPathFactory) -> list[Work]:
    """Two free authors and the held-out ones, each with a word of their own."""
    folder = tmp_path_factory.mktemp("works")
    named = [
        ("en", "walter_scott", "waverley"),
        ("en", "wilkie_collins", "moonstone"),
        ("en", "joseph_conrad", "typhoon"),
        ("ru", "gogol", "шинель"),
        ("ru", "chekhov", "чайка"),
        ("ru", "herzen", "колокол"),
    ]
    return [_work(folder, *entry) for entry in named]


@pytest.fixture(scope="module")
def human() -> list[Pair]:
    return [
        Pair("en", "lamp", f"lamp-{index // 2}", f"She went went {index}", f"She went {index}")
        for index in range(200)
    ]


def _built(
    task: Task, works: list[Work], human: list[Pair], tokenizer: Tokenizer
) -> dict[str, list[TaskExample]]:
    return build(task, works, human, TextTokenizer(tokenizer, 512), _MIXTURE)


@pytest.mark.parametrize("task", ["continue", "rephrase", "story"])
def test_no_word_of_a_held_out_author_is_trained_on(
    task: Task, works: list[Work], human: list[Pair], tokenizer: Tokenizer
) -> None:
    splits = _built(task, works, human, tokenizer)
    assert len(splits["train"]) == _MIXTURE.n_train
    assert {example.language for example in splits["train"]} == {"en", "ru"}
    held_words = ("moonstone", "typhoon", "чайка", "колокол")
    trained = " ".join(f"{each.source} {each.target}" for each in splits["train"]).casefold()
    assert not [word for word in held_words if word in trained]
    tested = [example for example in splits["held_out"] if example.kind != "lamp"]
    assert {example.group for example in tested} <= {
        *("wilkie_collins", "joseph_conrad", "chekhov", "herzen")
    }
    assert len({example.language for example in tested}) == 2


def test_no_original_is_in_two_splits(
    works: list[Work], human: list[Pair], tokenizer: Tokenizer
) -> None:
    splits = _built("rephrase", works, human, tokenizer)
    groups = {
        split: {example.group for example in examples if example.kind == "lamp"}
        for split, examples in splits.items()
    }
    assert groups["train"]
    assert groups["held_out"] == {pair.group for pair in human if is_held_out_group(pair.group)}
    assert not groups["train"] & groups["held_out"]


def test_copying_comes_before_rewriting(
    works: list[Work], human: list[Pair], tokenizer: Tokenizer
) -> None:
    mixture = replace(_MIXTURE, n_train=120, copying=0.5)
    text_tokenizer = TextTokenizer(tokenizer, 512)
    examples = build("rephrase", works, human, text_tokenizer, mixture)["train"]
    early, late = (
        sum(example.source == example.target for example in part)
        for part in (examples[:30], examples[-30:])
    )
    assert early >= 15
    assert late <= 10


def test_both_versions_of_an_original_share_its_group() -> None:
    text = "one two three four five six seven eight nine ten"
    swapped = text.replace("three", "THREE")
    groups = group_by_shared_text([(text + " a", "x"), ("y", text + " b"), (swapped, "z")])
    assert groups[0] == groups[1] != groups[2]


@pytest.mark.parametrize("language", ["en", "ru"])
def test_degrading_is_seeded_and_stops_at_zero_edits(language: str) -> None:
    text = " ".join(_WORDS[language].split() * 2).capitalize() + ", and so. It was."
    first, again = (degrade(text, random.Random(7), language, 5) for _ in range(2))
    assert first == again != text
    assert degrade(text, random.Random(7), language, 0) == text


@pytest.mark.parametrize("seed", range(40))
def test_a_degraded_pair_keeps_the_authors_text(seed: int) -> None:
    rng = random.Random(seed)
    text = "The old house, by the river, was silent. She said nothing to him!"
    pair = degraded_pair(Selection("Before.", text, "After."), rng, "en", "author")
    assert pair.target == text
    assert (pair.kind == "copy") == (pair.source == text)
    assert len(pair.source.split()) > 3


def test_selections_are_stretches_of_the_text() -> None:
    text = "\n\n".join(
        f"The house number {i} stood there. She said “no.” And he went away." for i in range(50)
    )
    found = list(selections(text, random.Random(1), 200))
    assert len(found) > 30
    assert all(selection.text in text for selection in found)
    assert sentences("She said “no.” And he went.") == ["She said “no.”", "And he went."]


def test_corrections_get_their_punctuation_back() -> None:
    assert with_punctuation("Ну ты, вообщем, вкурсе.", "Ну ты в общем в курсе") == (
        "Ну ты, в общем в курсе."
    )
    untouched = "Все хорошо, - сказал он."
    assert with_punctuation(untouched, "Все хорошо сказал он") == untouched


def test_peoples_edits_are_read_as_sentences_that_differ(tmp_path: Path) -> None:
    (tmp_path / "writing").mkdir()
    (tmp_path / "edits" / "iterater_r3").mkdir(parents=True)
    (tmp_path / "edits" / "ruspellru").mkdir()
    draft = "The fog crept slowly over the town. It was a tapestry of grey. He left."
    revised = "The fog crept slowly over the town. It was a wall of grey. He left."
    (tmp_path / "writing" / "lamp_pairs_train_reconstructed.jsonl").write_text(
        json.dumps({"pre": draft, "post": revised}) + "\n", encoding="utf-8"
    )
    document = {"doc_id": "7-depth-1", "before_revision": draft, "after_human_evaluation": revised}
    with zipfile.ZipFile(tmp_path / "edits" / "iterater_r3" / "R3_eval_data.zip", "w") as archive:
        archive.writestr(
            "R3_eval_data/system_human/a.json", json.dumps({"rev_depth_1": {"doc": document}})
        )
    for name, line in (("sources", "Он пришол домой."), ("corrections", "Он пришел домой")):
        (tmp_path / "edits" / "ruspellru" / f"{name}.txt").write_text(line, encoding="utf-8")
    pairs = human_pairs(tmp_path)
    assert [(pair.kind, pair.source, pair.target) for pair in pairs] == [
        ("lamp", "It was a tapestry of grey.", "It was a wall of grey."),
        ("iterater", "It was a tapestry of grey.", "It was a wall of grey."),
        ("ruspell", "Он пришол домой.", "Он пришел домой."),
    ]
