"""The persona's figures: right and wrong histories are what they say, the judge can judge, intervals hold."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import Gemma3ForCausalLM

from training.attribution import CONDITIONS
from training.evaluate_persona import batch_of, cases_of, likelihoods, nll
from training.evaluate_style import Panel, attribution, interval, panel_of, verification
from training.lora_model import LoraSettings, attach_lora
from training.persona_data import WorkRuns
from training.persona_examples import Author, Source
from training.persona_lora import PersonaModel, row_norm
from training.persona_plug import PlugShape, TrainablePlug
from training.presets import PRESETS

E, WINDOW = 16, 12
# peft 0.21 asks transformers 5.23 for a name that the latter is about to drop.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")


def _author(place: int) -> Author:
    rng = np.random.default_rng(place)
    sources = []
    for index in range(3):
        vectors = rng.normal(size=(4, 8, E)) + 4 * np.eye(E)[place]
        vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
        tokens = tuple(rng.integers(300, 500, 40).astype(np.uint16) for _ in range(4))
        name = f"a{place}"
        half = vectors.astype(np.float16)
        sources.append(Source("en", name, f"w{index}", (2, 4, 6), half, tokens))
    return Author("en", f"a{place}", tuple(sources), is_single=False)


def _model() -> PersonaModel:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    base = Gemma3ForCausalLM(PRESETS["tiny"].config())
    plug = TrainablePlug(PlugShape(E, 64, 2, 32), row_norm(base))
    return PersonaModel(attach_lora(base, LoraSettings(rank=4, dropout=0.0)), plug).eval()


@pytest.mark.parametrize("retrieval", ["nearest", "random"])
def test_right_is_the_authors_other_works_and_wrong_is_another_author(retrieval: str) -> None:
    authors = [_author(place) for place in range(3)]
    for case in cases_of(authors, ["a0", "a1"], 8, WINDOW, retrieval):
        by_name = {author.name: author for author in authors}
        own = by_name[case.author]
        other_works = {
            row.tobytes()
            for source in own.sources
            if f"{own.name}/{source.title}" != case.work
            for row in source.vectors.reshape(-1, E)
        }
        others = {
            row.tobytes() for s in by_name[case.other].sources for row in s.vectors.reshape(-1, E)
        }
        assert case.other != case.author
        assert {row.tobytes() for row in case.right[0]} <= other_works
        assert {row.tobytes() for row in case.wrong[0]} <= others


def test_figures_of_all_conditions_are_there_and_strength_0_is_none() -> None:
    authors = [_author(place) for place in range(3)]
    cases = cases_of(authors, ["a0", "a1"], 6, WINDOW)
    model = _model()
    report = likelihoods(model, model, cases)
    nats = report["nats_per_token"]

    assert nats["strength_0"] == nats["none"]
    assert {"right", "shuffled", "base", "mean_pooling", "strength_2"} <= set(nats)
    assert report["bar_met"] is False
    assert nll(model, cases, "right").shape == (6, WINDOW)
    assert not batch_of(cases, "null").history.is_there.any()
    assert not CONDITIONS["base"].rows


def test_an_interval_holds_its_mean_and_counts_clusters() -> None:
    values, clusters = np.arange(40) / 40, np.repeat(np.arange(8), 5)
    found = interval(values, clusters)

    assert found["ci95"][0] < found["mean"] < found["ci95"][1]
    assert (found["n"], found["clusters"]) == (40, 8)


def test_attribution_and_verification_see_a_planted_author_and_no_more_than_chance_without() -> (
    None
):
    rng = np.random.default_rng(0)
    author, work = np.repeat(np.arange(4), 64), np.repeat(np.arange(8), 32)
    panel = Panel([""] * 256, author, work, list("abcd"))
    noise = rng.normal(size=(256, E))
    planted = noise + 4 * np.eye(E)[author]

    assert attribution(panel, planted, 1)[0].mean() > 0.95
    assert verification(panel, planted)[0].mean() > 0.95
    assert attribution(panel, noise, 1)[0].mean() == pytest.approx(0.25, abs=0.12)
    assert verification(panel, noise)[0].mean() == pytest.approx(0.5, abs=0.03)


def test_a_panel_has_only_authors_of_two_works() -> None:
    run = tuple(f"paragraph {n}" for n in range(8))
    works = [
        WorkRuns("en", author, title, "prose", "dev", (run,) * 4)
        for author, title in (("a", "1"), ("a", "2"), ("b", "1"))
    ]
    assert panel_of(works, "en").names == ["a"]
