"""What a model repeats in its own continuations is found exactly, and made less likely there alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from transformers import Gemma3ForCausalLM

from training import checkpoint
from training.base_model import RunSettings, prepare, run, train_step
from training.export import export, load_checkpoint, load_exported
from training.loss import CHUNK, RowLoss, chunk_unlikelihood
from training.optimizers import OptimizerSettings
from training.presets import PRESETS
from training.progress import read_metrics
from training.shards import RowOrder
from training.tokenizer import save_tokenizer
from training.unlikelihood import (
    OPENING_TOKENS,
    continued_greedily,
    opening_rows,
    repeated_tokens,
)

EOS = 3
RATES = OptimizerSettings()


def _tiny() -> Gemma3ForCausalLM:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    return Gemma3ForCausalLM(PRESETS["tiny"].config())


def _naively_repeated(tokens: list[int], n_opening: int, eos: int, ngram: int) -> list[bool]:
    written = tokens[n_opening:]
    marked = [False] * len(tokens)
    earlier: set[tuple[int, ...]] = set()
    for start in range(len(written) - ngram + 1):
        gram = tuple(written[start : start + ngram])
        if gram in earlier:
            for index in range(start, start + ngram):
                marked[n_opening + index] = True
        earlier.add(gram)
    end = written.index(eos) if eos in written else len(written)
    return [mark and index < n_opening + end for index, mark in enumerate(marked)]


@pytest.mark.parametrize("ngram", [1, 2, 4])
def test_repeated_tokens_are_those_that_a_search_finds(ngram: int) -> None:
    generator = torch.Generator().manual_seed(ngram)
    tokens = torch.randint(0, 3, (40, 30), generator=generator)
    tokens[::2, 20] = EOS
    found = repeated_tokens(tokens, 5, EOS, ngram)
    assert found.tolist() == [_naively_repeated(row, 5, EOS, ngram) for row in tokens.tolist()]
    assert found.any()


def test_a_loop_is_marked_from_its_second_turn_and_the_opening_never() -> None:
    opening, turn = [7, 8, 9, 10, 7, 8, 9, 10], [20, 21, 22, 23, 24]
    tokens = torch.tensor([opening + turn * 3])
    marks = repeated_tokens(tokens, len(opening), EOS)[0].tolist()
    assert marks == [False] * (len(opening) + len(turn)) + [True] * 2 * len(turn)
    copied = torch.tensor([opening + opening[:4] + [30, 31]])
    assert not repeated_tokens(copied, len(opening), EOS).any()  # quoting the prompt is allowed
    assert not repeated_tokens(tokens[:, : len(opening) + 3], len(opening), EOS).any()


def test_unlikelihood_and_its_gradient_equal_the_plain_formula() -> None:
    torch.manual_seed(0)
    logits = (3 * torch.randn(50, 20)).requires_grad_()
    targets = torch.randint(0, 20, (50,))
    own, gradient = chunk_unlikelihood(logits.detach(), targets)
    p = logits.softmax(1)[torch.arange(50), targets]
    plain = -torch.log(1.0 - p).sum()
    plain.backward()
    assert own.item() == pytest.approx(plain.item(), rel=1e-5)
    assert logits.grad is not None
    torch.testing.assert_close(gradient, logits.grad, rtol=1e-4, atol=1e-6)


def test_a_loop_that_is_certain_of_itself_still_has_a_gradient() -> None:
    logits = torch.tensor([[30.0, 0.0, 0.0], [9.0, 0.0, -1.0]])
    loss, gradient = chunk_unlikelihood(logits, torch.tensor([0, 0]))
    assert torch.isfinite(loss)
    assert torch.isfinite(gradient).all()
    assert gradient[1, 0] > 0.9  # descending lowers the logit by as much as its probability


def test_only_marked_targets_are_made_unlikely() -> None:
    """Against the whole logits, and nothing flows from the positions after the last mark."""
    model = _tiny()
    tokens = torch.randint(0, 512, (12, 65))
    marks = torch.rand(12, 64) < 0.9
    marks[:, 40:] = False
    assert marks.sum() < CHUNK < marks.numel()
    states = model.model(tokens[:, :-1]).last_hidden_state
    states.retain_grad()
    p = model.lm_head(states).softmax(-1).gather(2, tokens[:, 1:, None])[..., 0]
    plain = -torch.log(1.0 - p)[marks].sum()
    torch.autograd.backward(plain)
    assert states.grad is not None
    assert states.grad.abs().sum(2).gt(0).eq(marks).all()
    expected = {name: value.grad for name, value in model.named_parameters()}
    model.zero_grad(set_to_none=True)
    loss = RowLoss(model)(tokens[:, :-1], tokens[:, 1:], marks)
    loss.backward()
    assert loss.item() == pytest.approx(plain.item(), rel=1e-5)
    for name, value in model.named_parameters():
        torch.testing.assert_close(value.grad, expected[name], rtol=1e-3, atol=1e-6)


def test_nothing_repeated_is_no_gradient() -> None:
    model = _tiny()
    tokens = torch.randint(0, 512, (2, 33))
    loss = RowLoss(model)(tokens[:, :-1], tokens[:, 1:], torch.zeros(2, 32, dtype=torch.bool))
    loss.backward()  # still joined to every weight: processes that share a step wait for each other
    assert loss.item() == 0.0
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())


def test_decoding_with_a_cache_is_greedy_past_the_window() -> None:
    model = _tiny().eval()
    openings = torch.randint(0, 512, (3, 8))
    tokens = continued_greedily(model, openings, 60)  # the window is 16
    assert tokens.shape == (3, 60)
    assert torch.equal(tokens[:, :8], openings)
    with torch.no_grad():
        best = model(tokens[:, :-1], use_cache=False).logits.argmax(-1)
    assert torch.equal(best[:, 7:], tokens[:, 8:])


def test_openings_are_the_beginnings_of_other_rows_for_every_step() -> None:
    rows = np.arange(400 * 100, dtype=np.uint16).reshape(400, 100)
    order = RowOrder((rows,), seed=5)
    starts: list[int] = []
    lengths = set()
    for step in range(10):
        first = opening_rows(order, step, 4 * step, 4)
        assert torch.equal(first, opening_rows(order, step, 4 * step, 4))
        starts += first[:, 0].tolist()
        lengths.add(first.shape[1])
        assert first[:, 0].tolist() != order.batch(4 * step, 4)[:, 0].tolist()
    assert len(set(starts)) == 40
    assert len(lengths) > 1
    assert OPENING_TOKENS[0] <= min(lengths) <= max(lengths) <= OPENING_TOKENS[1]


@pytest.fixture
def trained(settings: RunSettings) -> Path:
    """The checkpoint of a tiny run that has learnt a little."""
    trainer, state = prepare(settings, RATES)
    run(trainer, state)
    found = checkpoint.latest(settings.out)
    assert found is not None
    return found


def _remedy(settings: RunSettings, start: Path, out: str) -> RunSettings:
    """The last phase: three steps that decay, through INT4 rounding, from the weights of `start`."""
    return replace(
        settings,
        out=settings.out.with_name(out),
        start=start,
        steps=0,
        decay_steps=3,
        unlikelihood=1.0,
        continuations=4,
        continuation_length=136,
        quantized=True,
    )


def _go(settings: RunSettings, **changes: int) -> list[tuple[float, float | None]]:
    run(*prepare(replace(settings, **changes), RATES))
    return [(each.loss, each.repeated) for each in read_metrics(settings.out)]


def test_three_steps_from_end_to_end_are_the_same_stopped_and_resumed(
    settings: RunSettings, trained: Path
) -> None:
    whole = _go(_remedy(settings, trained, "whole"))
    assert len(whole) == 3
    assert all(repeated is not None and 0.0 < repeated <= 1.0 for _, repeated in whole)
    parted = _remedy(settings, trained, "parted")
    assert _go(parted, steps=2) == whole[:2]
    assert _go(parted) == whole
    found = [checkpoint.latest(settings.out.with_name(name)) for name in ("whole", "parted")]
    weights = [(path / "model.safetensors").read_bytes() for path in found if path is not None]
    assert weights[0] == weights[1]


def test_one_decoding_serves_the_steps_of_a_round(
    settings: RunSettings, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[int] = []

    def counted(model: Gemma3ForCausalLM, openings: torch.Tensor, length: int) -> torch.Tensor:
        decoded.append(len(openings))
        return continued_greedily(model, openings, length)

    monkeypatch.setattr("training.unlikelihood.continued_greedily", counted)
    rounds = replace(_remedy(settings, trained, "rounds"), continuation_steps=2)
    assert len(_go(rounds)) == 3
    assert decoded == [8, 8]
    trainer, _ = prepare(rounds, RATES)
    first, n_opening = trainer.writing.of_step(trainer.model, 0)
    second, _ = trainer.writing.of_step(trainer.model, 1)
    whole = torch.cat([first, second])
    assert torch.equal(whole, continued_greedily(trainer.model, whole[:, :n_opening], 136))
    assert not torch.equal(first, second)


def test_its_weight_changes_the_update_and_not_the_loss_of_the_corpus(
    settings: RunSettings, trained: Path
) -> None:
    after = {}
    for weight in (0.0, 1.0):
        own = replace(_remedy(settings, trained, f"weight-{weight}"), unlikelihood=weight)
        trainer, state = prepare(own, RATES)
        _, figures = train_step(trainer, state, 1.0)
        after[weight] = (float(figures.loss), trainer.model.state_dict()["model.norm.weight"])
        assert (figures.repeated is None) == (weight == 0.0)
    assert after[0.0][0] == after[1.0][0]
    assert not torch.equal(after[0.0][1], after[1.0][1])


def test_a_run_starts_from_a_checkpoint_or_from_what_was_exported(
    settings: RunSettings, trained: Path, tokenizer: Tokenizer
) -> None:
    folder = settings.out.with_name("exported")
    save_tokenizer(tokenizer, settings.out)
    export(trained, settings.out, folder)
    from_float, _ = prepare(_remedy(settings, trained, "a"), RATES)
    from_int4, _ = prepare(_remedy(settings, folder, "b"), RATES)
    again, _ = prepare(_remedy(settings, folder, "b"), RATES)
    shipped = load_exported(folder).state_dict()
    for name, value in load_checkpoint(trained).state_dict().items():
        assert torch.equal(from_float.model.state_dict()[name], value)
        spread = from_int4.model.state_dict()[name]
        assert torch.equal(spread, again.model.state_dict()[name])
        torch.testing.assert_close(
            spread, shipped[name], rtol=0.0, atol=float(value.abs().max()) / 14
        )
    with pytest.raises(ValueError, match="leaves too little after an opening"):
        prepare(replace(_remedy(settings, trained, "c"), continuation_length=128), RATES)
    with pytest.raises(ValueError, match=r"does not fit.*expected \(16384, 256\)"):
        prepare(replace(_remedy(settings, trained, "c"), preset="mini-cpu"), RATES)


def test_a_run_that_is_there_goes_on_whatever_it_started_from(
    settings: RunSettings, trained: Path
) -> None:
    trainer, state = prepare(replace(settings, start=trained.parent / "nowhere"), RATES)
    assert state == checkpoint.read_state(trained)
    assert trainer.settings.start != trained
