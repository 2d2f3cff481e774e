"""Figures of an adapter: the loss is the model's own, the interval is of the paired difference."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional
from transformers import Gemma3ForCausalLM

from training.evaluate_task import Scores, compare, completion_scores, paired_bootstrap
from training.presets import PRESETS
from training.task_examples import TaskExample


def _examples(n_examples: int) -> list[TaskExample]:
    rng = np.random.default_rng(0)
    result = []
    for _ in range(n_examples):
        prompt, completion = (
            tuple(int(token) for token in rng.integers(10, 500, rng.integers(2, 30)))
            for _ in range(2)
        )
        result.append(TaskExample("rephrase", "en", "k", "g", prompt, completion, "", ""))
    return result


def test_the_loss_does_not_depend_on_what_shares_the_batch() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = Gemma3ForCausalLM(PRESETS["tiny"].config()).eval()
    examples = _examples(19)
    scores = completion_scores(model, examples)
    for index in (0, 7, 18):
        example = examples[index]
        ids = torch.tensor([[*example.prompt, *example.completion]])
        with torch.inference_mode():
            logits = model(input_ids=ids).logits[0, len(example.prompt) - 1 : -1]
        alone = functional.cross_entropy(
            logits.float(), torch.tensor(example.completion), reduction="sum"
        )
        assert scores.nats[index] == pytest.approx(float(alone), rel=1e-4)
        assert scores.n_tokens[index] == len(example.completion)


def test_the_interval_covers_a_planted_gain_and_excludes_zero() -> None:
    rng = np.random.default_rng(1)
    n_tokens = rng.integers(10, 60, 300)
    base = Scores(n_tokens * (4.0 + 0.5 * rng.standard_normal(300)), n_tokens)
    better = Scores(base.nats - n_tokens * (0.2 + 0.1 * rng.standard_normal(300)), n_tokens)
    low, high = paired_bootstrap(base, better, n_resamples=1000)
    assert low < -0.2 < high < 0
    assert high - low < 0.06  # paired: far narrower than the spread of the losses themselves
    assert compare(base, better)["difference"] == pytest.approx(-0.2, abs=0.03)


def test_equal_models_differ_by_nothing() -> None:
    scores = Scores(np.full(5, 3.0), np.full(5, 2))
    assert paired_bootstrap(scores, scores, n_resamples=50) == (0.0, 0.0)
