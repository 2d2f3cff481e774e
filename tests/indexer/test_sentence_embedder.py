"""A sentence-transformers model in a process of its own: its vectors, its end, and what it is not let do."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import psutil
import pytest

from indexer.embedding import made_embedder
from indexer.errors import EmbeddingFailed
from indexer.sentence_child import UnusableModel, check_folder, digest_of
from indexer.sentence_embedder import SentenceEmbedder, SentenceOptions

sentence_transformers = pytest.importorskip(
    "sentence_transformers",
    reason="NOT TESTED: sentence-transformers is not installed (pip install '.[embeddings]')",
)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

TEXTS = ["a cat sat", "кошка сидела", "a dog ran a long way"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT with random weights, in the layout that such models have."""
    from sentence_transformers.models import Normalize, Pooling, Transformer
    from transformers import BertConfig, BertModel, BertTokenizerFast

    base = tmp_path_factory.mktemp("base")
    letters = "abcdefghijklmnopqrstuvwxyzабвгдежзиклмнопрстуфхцчшщьыэюя:"
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{c}" for c in letters)]
    (base / "vocab.txt").write_text("\n".join(words), "utf-8")
    BertTokenizerFast(vocab_file=str(base / "vocab.txt")).save_pretrained(base)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
    )
    BertModel(config).save_pretrained(base)
    folder = tmp_path_factory.mktemp("models") / "tiny-sentences"
    transformer = Transformer(str(base))
    parts = [transformer, Pooling(32, pooling_mode="mean"), Normalize()]
    sentence_transformers.SentenceTransformer(modules=parts, device="cpu").save(str(folder))
    return folder


def children() -> set[psutil.Process]:
    return set(psutil.Process().children())


def test_its_vectors_are_the_librarys_and_it_ends_when_idle(model: Path) -> None:
    before = children()
    embedder = SentenceEmbedder(model, SentenceOptions(prefix="query: ", idle_s=0.01))
    assert len(children() - before) <= 1
    psutil.wait_procs(children() - before, timeout=20)
    assert children() == before
    found = embedder.embed(TEXTS)
    embedder.close()
    here = sentence_transformers.SentenceTransformer(str(model), device="cpu")
    wanted = here.encode([f"query: {text}" for text in TEXTS], normalize_embeddings=True)

    assert embedder.space.n_dimensions == 32
    assert embedder.space.id == f"tiny-sentences@{digest_of(model)[:16]}+query: "
    assert np.abs(found - wanted).max() < 1e-5
    assert children() == before


def test_a_killed_process_fails_one_batch_and_the_next_is_embedded(model: Path) -> None:
    before = children()
    embedder = SentenceEmbedder(model)
    first = embedder.embed(TEXTS)
    (child,) = children() - before
    os.kill(child.pid, signal.SIGKILL)
    child.wait(10)
    with pytest.raises(EmbeddingFailed, match="ended without vectors"):
        embedder.embed(TEXTS)

    assert np.array_equal(embedder.embed(TEXTS), first)
    embedder.close()
    with pytest.raises(EmbeddingFailed, match="closed"):
        embedder.embed(TEXTS)


def test_a_model_that_changes_under_it_is_not_mixed_in(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "m"
    shutil.copytree(model, folder)
    before = children()
    embedder = SentenceEmbedder(folder, SentenceOptions(idle_s=0.01))
    psutil.wait_procs(children() - before, timeout=20)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"layer_norm_eps": 0.1}))
    with pytest.raises(EmbeddingFailed, match="files have changed"):
        embedder.embed(TEXTS)
    embedder.close()

    assert digest_of(folder) != digest_of(model)


def altered(model: Path, folder: Path, **changes: object) -> Path:
    """A copy with other files; None removes one."""
    shutil.copytree(model, folder)
    for name, content in changes.items():
        path = folder / name.replace("__", ".")
        path.unlink() if content is None else path.write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"config__json": {"auto_map": {"AutoModel": "evil.Model"}}}, "code of its own"),
        ({"config__json": None}, "config.json"),
        ({"modules__json": [{"type": "evil.Module", "path": ""}]}, "parts other than"),
        ({"modules__json": [{"type": "sentence_transformers.models.Dense"}]}, "parts other than"),
        ({"model__safetensors": None}, "no safetensors"),
    ],
)
def test_what_would_run_code_or_unpickle_is_refused(
    model: Path, tmp_path: Path, changes: dict[str, object], problem: str
) -> None:
    folder = altered(model, tmp_path / "m", **changes)
    (folder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(UnusableModel, match=problem):
        check_folder(folder)


def test_a_folder_that_is_none_is_an_error_that_says_so(tmp_path: Path) -> None:
    before = children()
    with pytest.raises(EmbeddingFailed, match=r"missing or not JSON"):
        made_embedder(lambda: SentenceEmbedder(tmp_path))

    assert children() == before
