"""The audio stage on a tiny base: prompts as in serving, both losses, a run that is killed goes on as one that is not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pushkin_runtime.model_store import open_model
from pushkin_runtime.prompt import build_prompt
from pushkin_runtime.speech_folder import read_projector
from pushkin_runtime.speech_model import SILENCE_ROWS, Projector, compressed
from pushkin_runtime.speech_types import SpeechRows
from pushkin_runtime.tokenizer import TextTokenizer
from pushkin_runtime.types import Control, GenerationRequest
from tests.pushkin_runtime.speech_files import write_encoder
from training.audio_lora import CHECKPOINT, AudioRun, finish, losses, make_model, train
from training.evaluate_audio import Heard, decisions, false_words, first_of_each, rates
from training.lora_model import LoraSettings
from training.speech_examples import Example, Pieces, Sampler, altered, for_deciding
from training.speech_features import Clip
from training.speech_persona import PersonaSwitch
from training.speech_reader import SpeechReader
from training.speech_start import start_from

# PEFT 0.21 still asks transformers for the old name of activation checkpointing.
pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")

ROOT = Path(__file__).parents[2] / "models"
BASE = ROOT / "pushkin-mini"
N_STATE = 16
TEXTS = ("new line", "новая строка", "one two", "he told me to stop", "", "удали это")
LORA = LoraSettings(rank=4, dropout=0.0)


@pytest.fixture(scope="module")
def tokenizer() -> TextTokenizer:
    torch.set_num_threads(1)
    return TextTokenizer(BASE / "tokenizer.json", open_model(BASE).config.vocab_size)


@pytest.fixture(scope="module")
def pieces(tokenizer: TextTokenizer) -> Pieces:
    return Pieces(tokenizer, BASE / "tokenizer.json")


@pytest.fixture(scope="module")
def examples(pieces: Pieces) -> list[Example]:
    rng = np.random.default_rng(0)
    made = []
    for i, text in enumerate(TEXTS * 3):
        kind = "none" if not text else "cmd" if i % 2 else "dict"
        language = "ru" if text[:1] > "z" else "en"
        clip = Clip(text, language, kind, "synthetic en command", "nobody", 60)
        stacked = rng.standard_normal((14 + i, 3 * N_STATE)).astype(np.float16)
        made.append(Example(clip, stacked, pieces.encode(text)))
    return made


@pytest.fixture
def run(tmp_path: Path) -> AudioRun:
    encoder = tmp_path / "tiny-whisper"
    write_encoder(encoder)
    return AudioRun(
        base=BASE,
        features=tmp_path,
        out=tmp_path / "out",
        persona=BASE / "adapters" / "persona",
        style_encoder=ROOT / "style-encoder",
        encoder=encoder,
        steps=4,
        projector_steps=2,
        persona_share=0.5,
        n_hidden=32,
        rows=60,
    )


def parts_of(
    run: AudioRun, tokenizer: TextTokenizer, pieces: Pieces, examples: list[Example]
) -> tuple[SpeechReader, tuple[Sampler, Sampler], PersonaSwitch]:
    run.out.mkdir(exist_ok=True)
    model = make_model(run, LORA, N_STATE, tokenizer, pieces)
    sampler = Sampler(examples, tokenizer, run.seed, run.rows, run.n_stack)
    return model, (sampler, sampler), PersonaSwitch(model.model, run.persona, run.style_encoder)


def test_rows_have_the_size_of_the_texts_rows(
    run: AudioRun, tokenizer: TextTokenizer, pieces: Pieces, examples: list[Example]
) -> None:
    model, (sampler, _), _ = parts_of(run, tokenizer, pieces, examples)
    rows = model.projector(model.projector.hidden(sampler.draw(0).stacked))
    table = model.model.get_input_embeddings()(torch.arange(16_384))
    wanted = float(table.pow(2).mean().sqrt())  # √hidden is in the table's forward: the trap
    assert wanted > 4
    assert torch.allclose(rows.pow(2).mean(-1).sqrt(), torch.tensor(wanted), rtol=1e-3)


def test_a_killed_run_goes_on_where_it_was(
    run: AudioRun,
    tokenizer: TextTokenizer,
    pieces: Pieces,
    examples: list[Example],
    tmp_path: Path,
) -> None:
    whole = parts_of(run, tokenizer, pieces, examples)
    train(run, *whole)
    cut = replace(run, out=tmp_path / "cut")
    train(replace(cut, steps=3), *parts_of(cut, tokenizer, pieces, examples))
    assert torch.load(cut.out / CHECKPOINT, weights_only=True)["done"]["step"] == 3
    resumed = parts_of(cut, tokenizer, pieces, examples)
    done = train(cut, *resumed)
    assert done["step"] == 4
    for a, b in zip(whole[0].parameters(), resumed[0].parameters(), strict=True):
        if a.requires_grad:
            assert torch.allclose(a, b, atol=1e-6)


def test_what_is_exported_is_what_was_trained(
    run: AudioRun, tokenizer: TextTokenizer, pieces: Pieces, examples: list[Example]
) -> None:
    model, samplers, switch = parts_of(run, tokenizer, pieces, examples)
    done = train(run, model, samplers, switch)
    switch.set(False)
    folder = finish(run, LORA, model, done)
    projector = read_projector(folder)
    stacked = examples[3].stacked.astype(np.float32)
    with torch.inference_mode():
        rows = model.projector(model.projector.hidden(torch.from_numpy(stacked)))[None]
        [wanted] = model.compressed(rows, [len(stacked)])
    hidden = np.maximum(stacked @ projector.first.T + projector.first_bias, 0)
    every = hidden @ projector.second.T + projector.second_bias
    every = every / np.sqrt(np.mean(every**2, axis=1, keepdims=True)) * projector.row_rms
    found = compressed(every.astype(np.float32), projector)
    assert found.shape == wanted.shape
    assert np.abs(found - wanted.numpy()).max() < 0.05 * projector.row_rms  # float16 in the file


def test_a_projector_reads_on_another_base_what_it_read_on_its_own(
    run: AudioRun, tokenizer: TextTokenizer, examples: list[Example], tmp_path: Path
) -> None:
    few = Pieces(tokenizer, BASE / "tokenizer.json", n_merges=20)  # no more pieces than dimensions
    spoken = [replace(example, pieces=few.encode(example.clip.text)) for example in examples]
    alone = replace(run, steps=run.projector_steps)
    first, samplers, switch = parts_of(alone, tokenizer, few, spoken)
    folder = finish(alone, LORA, first, train(alone, first, samplers, switch))
    assert not (folder / "adapter.json").exists()  # an adapter that nothing was taught is none
    there = replace(run, out=tmp_path / "there", seed=1)
    other, _, _ = parts_of(there, tokenizer, few, spoken)
    torch.manual_seed(2)
    other.ctc_weight.copy_(torch.randn_like(other.ctc_weight) / 16)  # another base's embeddings

    def read(model: SpeechReader) -> list[list[int]]:
        stacked = [torch.from_numpy(e.stacked.astype(np.float32)) for e in spoken]
        with torch.inference_mode():
            rows = [model.projector(model.projector.hidden(own)) for own in stacked]
            return [model.ctc_logits(own).argmax(-1).tolist() for own in rows]

    assert read(other) != read(first)
    start_from(other, folder, spoken)
    there, here = ([piece for clip in read(model) for piece in clip] for model in (first, other))
    assert len(set(there)) > 5
    assert np.mean(np.array(there) == here) > 0.95  # near ties fall either way

    with pytest.raises(ValueError, match="other pieces"):
        start_from(
            parts_of(run, tokenizer, Pieces(tokenizer, BASE / "tokenizer.json"), examples)[0],
            folder,
            spoken,
        )
    with pytest.raises(ValueError, match="expected 3 through"):
        start_from(parts_of(replace(run, n_hidden=16), tokenizer, few, spoken)[0], folder, spoken)


def test_the_first_token_is_learnt_over_rows_that_stay_and_without_the_answer(
    run: AudioRun, tokenizer: TextTokenizer, pieces: Pieces, examples: list[Example]
) -> None:
    model, (sampler, _), _ = parts_of(run, tokenizer, pieces, examples)
    batch = sampler.draw(0)
    loss, shown = losses(run, model, batch, True)
    loss.backward()
    assert float(loss.detach()) == shown > 0
    assert all(p.grad is None for p in model.projector.parameters())
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in model.model.parameters())
    other_answers = replace(batch, targets=[[t[0], 600, 601] for t in batch.targets])
    assert losses(run, model, other_answers, True)[1] == pytest.approx(shown, abs=1e-6)
    kinds = [tokenizer.require_special(f"<{k}>") for k in ("dict", "cmd", "none")]
    turned = replace(batch, targets=[[kinds[kinds.index(t[0]) - 1]] for t in batch.targets])
    assert losses(run, model, turned, True)[1] != pytest.approx(shown, abs=1e-6)

    writing = replace(run, transcript="model")
    model.zero_grad()
    losses(writing, model, batch, True)[0].backward()
    assert all(p.grad is not None for p in model.projector.parameters())


def test_recorded_clips_are_few_where_a_command_is_taught(examples: list[Example]) -> None:
    recorded = [replace(e, clip=replace(e.clip, group="an4")) for e in examples[:16]]
    near = [replace(e, clip=replace(e.clip, group="synthetic ru near_miss")) for e in examples[:2]]
    noise = replace(examples[0], clip=replace(examples[0].clip, group="noise"))
    chosen = for_deciding([*recorded, *near, noise, examples[1]])
    groups = [example.clip.group for example in chosen]
    assert groups.count("an4") == 2
    assert groups.count("synthetic ru near_miss") == 4
    assert groups.count("noise") == groups.count("synthetic en command") == 3


def test_silences_become_the_same_rows_as_in_serving(
    run: AudioRun, tokenizer: TextTokenizer, pieces: Pieces, examples: list[Example]
) -> None:
    """Every silence of SILENCE_ROWS or more is one row that says <sil>, a shorter one is none."""
    model, _, _ = parts_of(run, tokenizer, pieces, examples)
    weight = model.ctc_weight
    torch.manual_seed(0)
    weight.copy_(torch.nn.functional.normalize(torch.randn_like(weight), dim=1))
    sounds = [5, 5, *[0] * SILENCE_ROWS, 9, *[0] * (SILENCE_ROWS - 1), 5, *[0] * 3 * SILENCE_ROWS]
    rows = 10 * weight[sounds]
    assert model.ctc_logits(rows).argmax(-1).tolist() == sounds
    [wanted] = model.compressed(rows[None], [len(sounds)])
    nothing = np.zeros((0, 0), np.float32)
    bias = np.zeros(len(weight), np.float32)
    rms = float(model.projector.text_rms)
    projector = Projector(3, nothing, nothing, nothing, nothing, rms, weight.numpy(), bias)

    found = compressed(rows.numpy(), projector)

    assert np.abs(found - wanted.numpy()).max() < 1e-4 * rms
    assert (found @ projector.heard.T).argmax(1).tolist() == [5, 0, 9, 5, 0]


def test_training_reads_the_prompt_that_serving_builds(
    tokenizer: TextTokenizer, examples: list[Example]
) -> None:
    batch = Sampler(examples, tokenizer, 0, 60, 3).draw(5)
    for i, head in enumerate(batch.heads):
        n_before = head.index(14) + 1  # <task:dictate>
        before = head[n_before + 1 :]
        rows = np.zeros((2, 8), np.float32)
        request = GenerationRequest(
            request_id="r",
            task="dictate",
            text=tokenizer.decode(before),
            speech=SpeechRows(rows=rows, n_samples=1920, base_digest="", token=-9),
            control=Control(
                language="en" if head[1] == tokenizer.special_id("<lang:en>") else "ru"
            ),
        )
        prompt = build_prompt(request, tokenizer, n_context=500, max_tokens=20)
        assert list(prompt.tokens[:n_before]) == head[:n_before]
        assert list(prompt.tokens[-1:]) == batch.tails[i]
        assert prompt.speech_at == len(prompt.tokens) - 3
        assert batch.targets[i][0] in [
            tokenizer.special_id(f"<{k}>") for k in ("dict", "cmd", "none")
        ]
        assert batch.targets[i][-1] == tokenizer.eos_id


def test_the_persona_switch_is_exact(
    run: AudioRun, tokenizer: TextTokenizer, pieces: Pieces, examples: list[Example]
) -> None:
    model, (sampler, _), switch = parts_of(run, tokenizer, pieces, examples)
    batch = sampler.draw(0)
    off = losses(run, model, batch, True)[1]
    switch.set(True)
    on = losses(run, model, batch, True, switch.rows(0))[1]
    switch.set(False)
    assert losses(run, model, batch, True)[1] == off
    assert abs(on - off) > 1e-4


def test_masks_and_noise_are_the_seeds_own() -> None:
    import random

    stacked = np.ones((30, 12), np.float16)
    one = altered(stacked, 3, random.Random(4))
    assert np.array_equal(one, altered(stacked, 3, random.Random(4)))
    assert not np.array_equal(one, altered(stacked, 3, random.Random(5)))


def test_a_limit_keeps_the_first_clips_of_each_group(examples: list[Example]) -> None:
    other = [replace(e, clip=replace(e.clip, group="an4")) for e in examples[:4]]
    mixed = [examples[0], other[0], other[1], examples[1], other[2], examples[2], other[3]]

    assert first_of_each(mixed, 2) == [examples[0], other[0], other[1], examples[1]]
    assert first_of_each(mixed, 0) == mixed


def test_errors_are_counted_over_the_group_not_averaged() -> None:
    clip = Clip("a b c d e f g h i", "en", "dict", "an4", "x", 100)
    short = replace(clip, text="a")
    found = rates([(clip, clip.text), (short, "z")])
    assert found["an4"]["wer"] == pytest.approx(0.1)  # the mean of sentences would be 0.5
    assert "noise" not in rates([(replace(clip, text="", group="noise"), "")])


def test_a_command_is_judged_by_a_threshold_of_the_other_half() -> None:
    clip = Clip("delete that", "en", "cmd", "synthetic en command", "x", 100)
    say = replace(clip, kind="dict", group="synthetic en near_miss")
    heard = [Heard(clip, "", (0.1, 0.9, 0.0))] * 40 + [Heard(say, "", (0.8, 0.2, 0.0))] * 40
    assert (found := decisions(heard)["en"])["precision"] == found["recall"] == 1
    confused = heard + [Heard(say, "", (0.0, 0.95, 0.05))] * 20
    found = decisions(confused)["en"]
    assert found["recall"] == 0  # the likeliest of all is no command: no threshold is safe
    silent = replace(clip, text="", kind="none", group="noise")
    quiet = false_words([Heard(silent, "", (0.1, 0.1, 0.8)), Heard(silent, "oh no", (0.9, 0.1, 0))])
    assert (quiet["heard as none"], quiet["words"]) == (0.5, 2)
