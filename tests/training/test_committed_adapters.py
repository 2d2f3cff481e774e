"""The adapters in the repository fit the model beside them, are small, and do what they are for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel

from adapters.registry import open_adapter
from audio.command_phrases import closed_phrases
from audio.phrase_match import Phrasebook
from pushkin_runtime.model_store import base_model, open_model
from pushkin_runtime.speech_folder import read_projector
from pushkin_runtime.tokenizer import TextTokenizer
from training.evaluate_task import completion_scores, greedy
from training.lora_model import attach_adapter, load_base
from training.speech_examples import Pieces
from training.task_examples import Caret, Pair, TaskExample, continuation_example, rephrase_example

# PEFT 0.21 still asks transformers for the old name of activation checkpointing.
pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")

BASE = Path(__file__).parents[2] / "models" / "pushkin-mini"
ROOT = BASE / "adapters"
MAX_BYTES = 7_000_000  # rank 32 of 30 M parameters, in bfloat16
# Written for this test.
PROSE = {
    "en": "He shut the door behind him and went slowly down the stairs, and out into the street.",
    "ru": "Он закрыл за собою дверь, медленно спустился по лестнице и вышел на улицу.",
}
SPOILT = {
    "en": "He shut the the door behind him and went slowly down the stairs and out into the street",
    "ru": "Он закрыл за собою дверь медленно спустился по лестнице и и вышел на улицу.",
}


@pytest.fixture(scope="module")
def text_tokenizer() -> TextTokenizer:
    torch.set_num_threads(1)
    return TextTokenizer(BASE / "tokenizer.json", 16_384)


def _adapted(name: str) -> PeftModel:
    return attach_adapter(load_base(BASE), ROOT / name).eval()


def _gain(model: PeftModel, examples: list[TaskExample]) -> float:
    """Nats a token by which the adapter is better."""
    adapted = completion_scores(model, examples).per_token
    with model.disable_adapter():
        return completion_scores(model, examples).per_token - adapted


@pytest.mark.parametrize("name", ["continue", "rephrase"])
def test_it_fits_the_model_beside_it_and_has_a_card(name: str) -> None:
    spec = open_adapter(ROOT, name, base_model(open_model(BASE)))
    assert (spec.manifest.task, spec.manifest.languages) == (name, ("en", "ru"))
    files = {path.name: path.stat().st_size for path in (ROOT / name).iterdir()}
    assert set(files) == {"README.md", "adapter.json", "adapter.safetensors"}
    assert sum(files.values()) <= MAX_BYTES


@pytest.mark.parametrize("language", ["en", "ru"])
def test_rephrase_gives_a_selection_back(language: str, text_tokenizer: TextTokenizer) -> None:
    pair = Pair(language, "test", "test", SPOILT[language], PROSE[language])
    example = rephrase_example(text_tokenizer, pair)
    assert example is not None
    model = _adapted("rephrase")
    assert _gain(model, [example]) > 2.0
    kept = set(greedy(model, text_tokenizer, example).split()) & set(PROSE[language].split())
    assert len(kept) >= 5


def test_continue_moves_the_base_and_only_a_little(text_tokenizer: TextTokenizer) -> None:
    """Its held-out gain, 0.3 % with a narrow interval (its card), is below the noise of two sentences."""
    carets = [
        Caret(language, "test", "test", text[:at], text[at:])
        for language, text in PROSE.items()
        for at in range(4, 50, 3)
    ]
    made = (continuation_example(text_tokenizer, caret, 64) for caret in carets)
    examples = [example for example in made if example is not None]
    assert 0.0 < abs(_gain(_adapted("continue"), examples)) < 0.1


def test_spoken_commands_are_spelled_in_serving_as_transcripts_were_in_training() -> None:
    """Scores that say just the pieces training would have taught are no loss at all for the phrase."""
    path = BASE / "tokenizer.json"
    tokenizer = TextTokenizer(path, 1 << 20)
    spelling = Pieces(tokenizer, path)
    ids = read_projector(ROOT / "dictate").pieces
    assert ids is not None
    pieces = tuple(tokenizer.token_bytes(token).decode() for token in ids)
    for phrases in closed_phrases().values():
        for phrase, meaning in phrases.items():
            said = [ids.index(piece) + 1 for piece in spelling.encode(phrase)]
            scores = np.zeros((2 * len(said) + 1, 1 + len(pieces)), np.float32)
            scores[np.arange(len(scores)), [s for p in said for s in (0, p)] + [0]] = 9.0
            match = Phrasebook(pieces, {phrase: meaning}).match(scores)
            assert match is not None
            assert match.loss == 0.0, phrase
