"""Intruder dimensions: the worked example, and a control that is as large as the update."""

from __future__ import annotations

import pytest
import torch

from training.intruders import (
    adapter_updates,
    count_intruders,
    intruder_cosines,
    intruder_report,
    noise_like,
)

_BASE = torch.diag(torch.arange(8.0, 0.0, -1.0))  # diag(8..1)


def _spread_update(size: float) -> torch.Tensor:
    """size · d e₈ᵀ with d = (1, …, 1)/√8: a direction that W has nowhere."""
    return size * torch.outer(torch.full((8,), 8**-0.5), torch.eye(8)[7])


@pytest.mark.parametrize(("size", "count"), [(0.0, 0), (5.0, 0), (20.0, 1)])
def test_the_worked_example_of_the_research_notes(size: float, count: int) -> None:
    assert count_intruders(_BASE, _spread_update(size)) == count


def test_its_cosines_are_the_published_ones() -> None:
    assert float(intruder_cosines(_BASE, _spread_update(5.0)).min()) == pytest.approx(
        0.7365, abs=1e-4
    )
    assert float(intruder_cosines(_BASE, _spread_update(20.0))[0]) == pytest.approx(
        0.3819, abs=1e-4
    )


def test_an_update_along_the_base_makes_no_intruder() -> None:
    update = torch.zeros(8, 8)
    update[0, 0] = 20.0
    assert count_intruders(_BASE, update) == 0


def test_the_scale_counts() -> None:
    b, a = torch.full((8, 1), 8**-0.5), torch.eye(8)[7:]
    tensors = {"layers.0.mlp.up_proj.lora_a": a, "layers.0.mlp.up_proj.lora_b": b}
    counts = [
        intruder_report({"layers.0.mlp.up_proj": _BASE}, adapter_updates(tensors, scale))
        for scale in (5.0, 20.0)
    ]
    assert [count["intruders"] for count in counts] == [0, 1]


def test_the_control_is_as_large_as_the_update_and_seeded() -> None:
    update = _spread_update(3.0)
    first, again = (noise_like(update, torch.Generator().manual_seed(4)) for _ in range(2))
    assert torch.equal(first, again)
    assert float(first.norm()) == pytest.approx(3.0, rel=1e-5)
    assert torch.linalg.matrix_rank(first) == 8
