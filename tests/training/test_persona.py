"""Persona training: both mathematics agree, histories never come from the passage's own work, it learns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from transformers import Gemma3ForCausalLM

from indexer.persona_vector import PersonaPlug
from training.lora_model import LoraSettings, attach_lora
from training.persona_data import WorkRuns, paragraphs_of, runs_of
from training.persona_examples import Author, Rows, Sampler, Source, rows_of, sample_history
from training.persona_lora import PersonaModel, PersonaRun, row_norm, train
from training.persona_plug import PlugShape, TrainablePlug, weights_of
from training.persona_start import Lessons, warm_start
from training.presets import PRESETS
from training.trained_state import restore

E = 16
WINDOW = 12
# peft 0.21 asks transformers 5.23 for a name that the latter is about to drop.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def _unit(rng: np.random.Generator, n: int) -> np.ndarray:
    vectors = rng.normal(size=(n, E)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _author(place: int, n_sources: int = 3) -> Author:
    """An author whose vectors point one way and who uses four tokens of the author's own."""
    rng = np.random.default_rng(place)
    voice = np.zeros(E, np.float32)
    voice[place] = 3
    words = 300 + 4 * place + np.arange(4)
    sources = []
    for index in range(n_sources):
        vectors = _unit(rng, 24) + voice
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        tokens = tuple(rng.choice(words, 40).astype(np.uint16) for _ in range(3))
        shaped = vectors.reshape(3, 8, E).astype(np.float16)
        sources.append(Source("en", f"a{place}", f"w{index}", (2, 4, 6), shaped, tokens))
    return Author("en", f"a{place}", tuple(sources), is_single=False)


def _model(n_soft: int = 2) -> PersonaModel:
    torch.manual_seed(0)
    base = Gemma3ForCausalLM(PRESETS["tiny"].config())
    plug = TrainablePlug(PlugShape(E, 64, n_soft, 32), row_norm(base))
    return PersonaModel(attach_lora(base, LoraSettings(rank=4, dropout=0.0)), plug)


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0, 2.0])
def test_numpy_and_torch_make_the_same_rows(strength: float) -> None:
    rng = np.random.default_rng(0)
    plug = TrainablePlug(PlugShape(E, 64, 3, 32), 90.0)
    served = PersonaPlug(weights_of(plug), "style:test", "0" * 64)
    vectors, query = _unit(rng, 30), _unit(rng, 1)[0]
    documents = np.array([0] * 20 + [1] * 4 + [2] * 3 + [3] * 2 + [4])
    rows = rows_of([np.arange(5)], 3, [query], [(vectors, documents)])
    expected, attention = plug(rows.history, strength)
    persona = served.persona(query, vectors, [str(d) for d in documents], strength=strength)

    relative = np.abs(persona.rows - expected[0].detach().numpy()) / 90.0
    assert relative.max() <= 1e-5
    own = served.attention(query, vectors, [str(d) for d in documents])
    assert np.abs(own - attention[0].detach().numpy()).max() <= 1e-5


def test_rows_without_history_in_a_batch_are_the_null_persona_and_finite() -> None:
    rng = np.random.default_rng(0)
    plug = TrainablePlug(PlugShape(E, 64, 3, 32), 90.0)
    history = (_unit(rng, 8), np.zeros(8, np.int64))
    empty = (_unit(rng, 0), np.zeros(0, np.int64))
    rows = rows_of([np.arange(5)] * 2, 3, [np.zeros(E, np.float32)] * 2, [history, empty])
    made, _ = plug(rows.history)
    made.sum().backward()

    served = PersonaPlug(weights_of(plug), "style:test", "0" * 64)
    assert np.allclose(made[1].detach().numpy(), served.null().rows, atol=1e-3)
    assert all(torch.isfinite(p.grad).all() for p in plug.parameters() if p.grad is not None)


def test_a_history_never_comes_from_the_passages_own_work() -> None:
    authors = [_author(0), _author(1)]
    sampler = Sampler(authors, seed=0, null_share=0.0, single_share=0.0)
    rows = sampler.draw(0, 16, WINDOW)
    marked = {source.vectors.tobytes(): source for author in authors for source in author.sources}
    assert len(marked) == 6
    for ids, vectors, there in zip(
        rows.ids, rows.history.vectors, rows.history.is_there, strict=True
    ):
        passage = ids[rows.n_prefix :].numpy().astype(np.uint16).tobytes()
        (work,) = [
            s for s in marked.values() if any(t.tobytes().startswith(passage) for t in s.tokens)
        ]
        own = {row.tobytes() for row in work.vectors.reshape(-1, E).astype(np.float32)}
        used = {row.tobytes() for row in vectors[there].numpy()}
        assert used
        assert not used & own


def test_a_batch_depends_on_seed_and_step_alone() -> None:
    authors = [_author(0), _author(1)]
    one, two = (Sampler(authors, 3, 0.1, 0.0) for _ in range(2))

    assert torch.equal(one.draw(7, 4, WINDOW).ids, two.draw(7, 4, WINDOW).ids)
    assert not torch.equal(one.draw(7, 4, WINDOW).ids, one.draw(8, 4, WINDOW).ids)


def test_the_loss_is_transformers_own_with_the_persona_first() -> None:
    model = _model().eval()
    rows = Sampler([_author(0)], 0, 0.0, 0.0).draw(0, 3, WINDOW)
    persona, _ = model.plug(rows.history)
    base = model.model.get_base_model()  # type: ignore[operator]
    embedded = base.get_input_embeddings()(rows.ids)
    joined = torch.cat([persona, embedded], 1)
    labels = torch.full(joined.shape[:2], -100)
    labels[:, rows.n_prefix + persona.shape[1] :] = rows.ids[:, rows.n_prefix :]
    expected = base(inputs_embeds=joined, labels=labels).loss * rows.n_targets

    assert model(rows)[1].item() == pytest.approx(float(expected.detach()), rel=1e-5)


def _gap(model: PersonaModel, authors: list[Author]) -> float:
    """NLL with another author's persona minus with the right one, nats a token."""
    rng = np.random.default_rng(5)
    losses = []
    for shift in (0, 1):
        ids = [
            np.concatenate([a.sources[0].prefix, a.sources[0].tokens[0][:WINDOW]]) for a in authors
        ]
        whose = authors[shift:] + authors[:shift]
        histories = [sample_history(a.sources[1:], 16, rng) for a in whose]
        rows = rows_of(ids, 3, [np.zeros(E, np.float32)] * len(ids), histories)
        with torch.no_grad():
            losses.append(model(rows)[1].item() / rows.n_targets)
    return losses[1] - losses[0]


def test_it_learns_to_use_the_right_persona_and_can_be_continued(tmp_path: Path) -> None:
    authors = [_author(place) for place in range(6)]
    run = PersonaRun(
        Path(),
        Path(),
        Path(),
        tmp_path,
        steps=40,
        tokens_per_step=24 * WINDOW,
        windows=(WINDOW,),
        learning_rate=5e-3,
        plug_rate=5e-3,
    )
    model, sampler = _model(), Sampler(authors, 0, run.null_share, 0.0)
    before = _gap(model, authors)
    done = train(run, model, sampler)
    again = _model()

    assert done["step"] == restore(tmp_path / "checkpoint.pt", again)["step"] == 40
    assert _gap(model, authors) > before + 0.1
    assert _gap(again, authors) == pytest.approx(_gap(model, authors), abs=1e-4)
    assert train(run, again, sampler)["step"] == 40


def test_a_warm_start_predicts_the_words_of_the_authors_other_works() -> None:
    authors = [_author(place) for place in range(6)]
    model = _model()
    embedding = model.model.get_input_embeddings().weight.detach()  # type: ignore[operator]

    assert warm_start(model.plug, authors, embedding) > 0.5


def test_paragraphs_are_merged_and_split_as_the_index_does(english: str) -> None:
    parts = paragraphs_of("Short.\n\nShort too.\n\n" + english + "\n\n" + "One. Two. " * 300)

    assert all(30 <= len(part.split()) <= 230 for part in parts)
    assert parts[0].startswith("Short.\n\nShort too.")


def test_runs_do_not_overlap() -> None:
    runs = runs_of([str(n) for n in range(500)], max_runs=5)
    flat = [paragraph for run in runs for paragraph in run]

    assert len(runs) == 5
    assert len(set(flat)) == len(flat) == 40


def test_short_works_give_nothing(tokenizer: Tokenizer) -> None:
    assert runs_of(["a"] * 3) == (("a",) * 3,)
    assert WorkRuns("en", "x", "y", "prose", "train", ()).runs == ()
    assert tokenizer.get_vocab_size() == 512


def test_a_batch_knows_its_targets() -> None:
    rows = Sampler([_author(0)], 0, 0.0, 0.0).draw(0, 5, WINDOW)

    assert isinstance(rows, Rows)
    assert rows.n_targets == 5 * WINDOW


def test_lessons_give_rows_of_the_passages_own_work() -> None:
    authors = [_author(0), _author(1)]
    lessons = Lessons(authors, np.eye(512, 64, dtype=np.float32), n_soft=2)
    rows = Sampler(authors, 0, 0.0, 0.0).draw(0, 4, WINDOW, lessons=lessons.rows)

    assert rows.history.direct is not None
    assert rows.history.direct.shape == (4, 2, 64)
    plug = TrainablePlug(PlugShape(E, 64, 2, 32), 90.0)
    made, _ = plug(rows.history)
    expected = torch.nn.functional.normalize(rows.history.direct, dim=-1) * 90
    assert torch.allclose(made[:, 1:], expected, atol=1e-3)
