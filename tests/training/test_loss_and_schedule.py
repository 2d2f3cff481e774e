"""The chunked loss equals the plain one; the schedule warms up, stays and decays."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from transformers import Gemma3ForCausalLM

from training.loss import CHUNK, RowLoss
from training.optimizers import OptimizerSettings, Schedule, make_optimizers
from training.presets import PRESETS


def _tiny() -> Gemma3ForCausalLM:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    return Gemma3ForCausalLM(PRESETS["tiny"].config())


def test_chunked_loss_and_gradients_equal_cross_entropy() -> None:
    model = _tiny()
    tokens = torch.randint(0, 512, (10, 65))
    assert tokens[:, 1:].numel() > CHUNK
    loss = RowLoss(model)(tokens[:, :-1], tokens[:, 1:])
    loss.backward()
    own = {name: value.grad for name, value in model.named_parameters()}
    model.zero_grad(set_to_none=True)
    logits = model(tokens[:, :-1]).logits
    plain = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="sum")
    torch.autograd.backward(plain)
    assert loss.item() == pytest.approx(plain.item(), rel=1e-5)
    for name, value in model.named_parameters():
        torch.testing.assert_close(own[name], value.grad, rtol=1e-3, atol=1e-3)


def test_presets_are_gemma_three_shaped() -> None:
    for preset in PRESETS.values():
        config: Any = preset.config()
        assert config.tie_word_embeddings
        assert config.layer_types[5] == "full_attention"
        assert config.layer_types[:5] == ["sliding_attention"] * 5
        assert config.rope_parameters["full_attention"]["rope_theta"] == 1e6
        assert config.rope_parameters["sliding_attention"]["rope_theta"] == 1e4
    n_parameters = sum(p.numel() for p in Gemma3ForCausalLM(PRESETS["mini"].config()).parameters())
    assert 25e6 < n_parameters < 40e6


def test_schedule_warms_up_stays_and_decays_to_zero() -> None:
    schedule = Schedule(warmup_steps=4, decay_start=10, decay_steps=5)
    factors = [schedule.factor(step) for step in range(16)]
    assert factors[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert factors[5:11] == [1.0] * 6
    assert factors[10:] == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2, 0.0])
    assert Schedule(warmup_steps=4).factor(10**6) == 1.0


def test_muon_takes_the_hidden_matrices_and_adam_the_rest() -> None:
    optimizers = make_optimizers(_tiny(), OptimizerSettings())
    muon = [p for group in optimizers.muon.param_groups for p in group["params"]]
    adam = [p for group in optimizers.adam.param_groups for p in group["params"]]
    assert len(muon) == 6 * 7
    assert all(p.ndim == 2 for p in muon)
    assert [tuple(p.shape) for p in adam if p.ndim == 2] == [(512, 64)]
