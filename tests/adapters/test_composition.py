"""A composition is the exact sum of its adapters, for any modules, ranks, dtypes, scales and order."""

from __future__ import annotations

import math
from typing import Any

import ml_dtypes
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.composition import SITES, Composition, LoraWeights, compose, row_scales
from adapters.format import TARGETS

INNER = {"self_attn.o_proj": 6, "mlp.down_proj": 10}
OUT = {"self_attn.q_proj": 6, "self_attn.k_proj": 3, "self_attn.v_proj": 3} | {
    "mlp.gate_proj": 10,
    "mlp.up_proj": 10,
}
HIDDEN = 5


def shape(module: str) -> tuple[int, int]:
    """(out, in) of a matrix of the base."""
    target = module.split(".", 2)[2]
    return OUT.get(target, HIDDEN), INNER.get(target, HIDDEN)


@st.composite
def adapters(draw: st.DrawFn) -> list[LoraWeights]:
    made = []
    for index in range(draw(st.integers(1, 4))):
        rank, dtype = draw(st.integers(1, 4)), draw(st.sampled_from(["f4", "f2", "bf16"]))
        modules = draw(
            st.sets(
                st.sampled_from([f"layers.{i}.{t}" for i in (0, 2, 11) for t in TARGETS]),
                min_size=1,
            )
        )
        rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
        kind: Any = ml_dtypes.bfloat16 if dtype == "bf16" else dtype
        pairs = {
            module: (
                rng.standard_normal((rank, shape(module)[1])).astype(kind),
                rng.standard_normal((shape(module)[0], rank)).astype(kind),
            )
            for module in modules
        }
        made.append(LoraWeights(f"{index:064}", draw(st.floats(-4, 4)), pairs))
    return made


def dense(weights: list[LoraWeights], factors: list[float]) -> dict[str, np.ndarray]:
    """The oracle: Σ factor · B @ A by module, float64."""
    total: dict[str, np.ndarray] = {}
    for adapter, factor in zip(weights, factors, strict=True):
        for module, (a, b) in adapter.modules.items():
            update = factor * (b.astype(np.float64) @ a.astype(np.float64))
            total[module] = total.get(module, 0) + update
    return total


def updates(composition: Composition, factors: list[float]) -> dict[str, np.ndarray]:
    """What an engine adds to each module's output, applied to the identity."""
    result: dict[str, np.ndarray] = {}
    for site in composition.sites.values():
        scaled = row_scales(site, factors).astype(np.float64)[:, None] * site.a.astype(np.float64)
        for part in site.parts:
            result[part.module] = part.b.astype(np.float64) @ scaled[part.start : part.stop]
    return result


@settings(max_examples=60, deadline=None)
@given(weights=adapters(), data=st.data())
def test_a_composition_is_the_sum(weights: list[LoraWeights], data: st.DataObject) -> None:
    factors = [
        np.float32(adapter.scale * data.draw(st.floats(-2, 2))).item() for adapter in weights
    ]

    composition = compose(weights, np.float32)
    found, expected = updates(composition, factors), dense(weights, factors)

    assert found.keys() == expected.keys()
    assert composition.n_modules == len(expected)
    for module, update in expected.items():
        np.testing.assert_allclose(found[module], update, rtol=1e-12, atol=1e-12)


@settings(max_examples=30, deadline=None)
@given(weights=adapters())
def test_order_changes_the_key_and_not_the_sum(weights: list[LoraWeights]) -> None:
    forwards, backwards = compose(weights, np.float32), compose(weights[::-1], np.float32)

    assert forwards.key == backwards.key[::-1]
    one, other = updates(forwards, [*forwards.scales]), updates(backwards, [*backwards.scales])
    assert one.keys() == other.keys()
    for module, update in one.items():
        np.testing.assert_allclose(other[module], update, rtol=1e-9, atol=1e-9)


@settings(max_examples=30, deadline=None)
@given(weights=adapters())
def test_modules_that_share_an_input_share_one_a(weights: list[LoraWeights]) -> None:
    composition = compose(weights, np.float32)

    for (layer, site), found in composition.sites.items():
        assert {part.module for part in found.parts} <= {f"layers.{layer}.{m}" for m in SITES[site]}
        assert [part.start for part in found.parts[1:]] == [p.stop for p in found.parts[:-1]]
        assert found.parts[-1].stop == len(found.a) == len(found.source)
    stored = sum(
        math.prod(site.a.shape) + sum(p.b.size for p in site.parts)
        for site in composition.sites.values()
    )
    assert composition.n_bytes == 4 * stored


def test_what_need_not_be_stacked_is_shared_and_counted_once_in_full() -> None:
    file = np.ones(1000, np.float32)
    a, b = file[:10].reshape(2, 5), file[10:22].reshape(6, 2)
    weights = LoraWeights("0" * 64, 2.0, {"layers.0.mlp.down_proj": (a, b)})

    [site] = compose([weights], np.float32).sites.values()
    assert np.shares_memory(site.a, file)
    assert np.shares_memory(site.parts[0].b, file)
    assert compose([weights], np.float32).n_bytes == file.nbytes
    assert compose([weights, weights], np.float32).n_bytes == 2 * (10 + 12) * 4
