"""Train the style encoder: `python -m training.style_encoder --texts FILE --out DIR`.

Contrastive (InfoNCE with several positives, Khosla et al. 2020): paragraphs of one author's *different* works
are positives, paragraphs of the same work are left out, all others in the batch are negatives. A batch has one
language, so that language is no shortcut. The n-grams of the table are those that most training authors use.
An author of one work counts as two by its halves, which are weaker positives: names are masked, topics are not.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adapters.checked_folder import About, write_folder
from indexer.style_encoder import HASH_BITS, KIND, N_RHYTHM, counted, features, slots
from pushkin_runtime.control_tokens import LANGUAGES
from training.persona_data import WorkRuns, load
from training.progress import Metrics, reporting

LICENCE = "as the repository; trained on public-domain prose"


@dataclass(frozen=True)
class EncoderSettings:
    """The encoder's shape and one run's schedule."""

    n_keys: int = 32_768
    n_pooled: int = 128
    n_hidden: int = 384
    n_dimensions: int = 256
    steps: int = 1500
    authors: int = 64  # in a batch
    paragraphs: int = 8  # of each, half from one work and half from another
    learning_rate: float = 3e-3
    weight_decay: float = 1e-3
    drop: float = 0.2  # share of n-grams left out of a training paragraph
    seed: int = 0
    max_minutes: float = 0.0


@dataclass(frozen=True)
class Corpus:
    """Featurised paragraphs as sparse rows, and whose they are.

    indptr (n + 1,), indices and values (nnz,), rhythm (n, N_RHYTHM); author, work, language (n,) ids.
    """

    indptr: Any
    indices: Any
    values: Any
    rhythm: Any
    author: Any
    work: Any
    language: Any


def choose_keys(works: Sequence[WorkRuns], n_keys: int) -> Any:
    """The hashes that the largest share of a language's training authors use, rising, int64."""
    shares = np.zeros(2**HASH_BITS, np.float32)
    for language in LANGUAGES:
        own = [work for work in works if work.split == "train" and work.language == language]
        authors = sorted({work.author for work in own})
        total = np.zeros(2**HASH_BITS, np.float32)
        for author in authors:
            seen = np.zeros(2**HASH_BITS, bool)
            for work in own:
                if work.author == author:
                    for paragraph in work.paragraphs:
                        seen[features(paragraph).hashes] = True
            total += seen
        shares = np.maximum(shares, total / max(1, len(authors)))
    best = np.argsort(-shares, kind="stable")[:n_keys]
    return np.sort(best[shares[best] > 0]).astype(np.int64)


def featurise(works: Sequence[WorkRuns], keys: Any) -> Corpus:
    """Sparse rows of every paragraph; an author's only work is taken for two, by its halves."""
    table = slots(keys)
    n_works: dict[tuple[str, str], int] = {}
    for work in works:
        n_works[work.language, work.author] = n_works.get((work.language, work.author), 0) + 1
    names = {name: index for index, name in enumerate(sorted(n_works))}
    indptr, parts, rhythm, labels = [0], [], [], []
    for index, work in enumerate(works):
        author = (work.language, work.author)
        for place, run in enumerate(work.runs):
            late = n_works[author] == 1 and 2 * place >= len(work.runs)
            for paragraph in run:
                found = features(paragraph)
                known, counts = counted(found.hashes, table)
                indptr.append(indptr[-1] + len(known))
                parts.append((known.astype(np.int32), counts.astype(np.float16)))
                rhythm.append(found.rhythm)
                labels.append((names[author], 2 * index + late, LANGUAGES.index(work.language)))
    ids = np.array(labels, np.int64)
    return Corpus(
        np.array(indptr),
        np.concatenate([part[0] for part in parts]),
        np.concatenate([part[1] for part in parts]),
        np.stack(rhythm),
        ids[:, 0],
        ids[:, 1],
        ids[:, 2],
    )


class Encoder(nn.Module):
    """The torch twin of `indexer.style_encoder.StyleEncoder`, without its featuriser."""

    def __init__(self, settings: EncoderSettings, corpus: Corpus) -> None:
        super().__init__()
        n_in = settings.n_pooled + N_RHYTHM
        self.table = nn.EmbeddingBag(settings.n_keys, settings.n_pooled, mode="sum")
        n_rows = np.bincount(corpus.indices, minlength=settings.n_keys)
        rarity = np.log((len(corpus.rhythm) + 1) / (n_rows + 1)) + 0.1
        with torch.no_grad():
            self.table.weight.mul_(torch.from_numpy(rarity / rarity.mean()).float()[:, None])
        self.hidden = nn.Linear(n_in, settings.n_hidden)
        self.out = nn.Linear(settings.n_hidden, settings.n_dimensions)
        self.skip = nn.Linear(n_in, settings.n_dimensions, bias=False)
        self.log_temperature = nn.Parameter(torch.tensor(0.1).log())
        self.register_buffer("mean", torch.from_numpy(corpus.rhythm.mean(0)))
        self.register_buffer("scale", torch.from_numpy(corpus.rhythm.std(0) + 1e-3))

    def forward(self, bags: tuple[Tensor, Tensor, Tensor], rhythm: Tensor) -> Tensor:
        """Unit vectors (n, n_dimensions); bags: indices, weights (nnz,) and offsets (n,)."""
        indices, weights, offsets = bags
        pooled = self.table(indices, offsets, per_sample_weights=weights)
        mean: Any = self.mean
        measured = ((rhythm - mean) / self.scale).clamp(-4, 4)
        joined = torch.cat([pooled, measured], 1)
        hidden = F.gelu(self.hidden(joined), approximate="tanh")
        return F.normalize(self.out(hidden) + self.skip(joined), dim=1, eps=1e-6)


def bags_of(
    corpus: Corpus, rows: Any, drop: float = 0.0, rng: Any = None
) -> tuple[Tensor, Tensor, Tensor]:
    """EmbeddingBag's input of some paragraphs; `drop` of the n-grams are left out, the norm is kept."""
    counts = corpus.indptr[rows + 1] - corpus.indptr[rows]
    offsets = np.concatenate([[0], np.cumsum(counts)[:-1]])
    places = np.repeat(corpus.indptr[rows] - offsets, counts) + np.arange(counts.sum())
    weights = corpus.values[places].astype(np.float32)
    if drop:
        weights *= (rng.random(len(weights), dtype=np.float32) >= drop) / np.sqrt(1 - drop)
    indices = torch.from_numpy(corpus.indices[places].astype(np.int64))
    return indices, torch.from_numpy(weights), torch.from_numpy(offsets.astype(np.int64))


def contrastive_loss(vectors: Tensor, author: Tensor, work: Tensor, temperature: Tensor) -> Tensor:
    """Mean InfoNCE (nats) over all pairs of one author's different works; vectors (n, d) of unit length."""
    same = author[:, None] == author[None]
    positive = same & (work[:, None] != work[None])
    logits = (vectors @ vectors.T / temperature).masked_fill(same & ~positive, -1e9)
    negatives = logits.masked_fill(same, -1e9).logsumexp(1, keepdim=True)
    losses = torch.logaddexp(logits, negatives) - logits  # each positive against the negatives
    return losses[positive].mean()


def batch_loss(vectors: Tensor, author: Tensor, work: Tensor, temperature: Tensor) -> Tensor:
    """The loss of single paragraphs and of the means of those from one work, half and half.

    Means are what a persona is made of, and they are where rare traits show.
    """
    works, places = torch.unique(work, return_inverse=True)
    sums = torch.zeros(len(works), vectors.shape[1]).index_add(0, places, vectors)
    authors = torch.zeros(len(works), dtype=author.dtype).index_put((places,), author)
    means = F.normalize(sums, dim=1)
    single = contrastive_loss(vectors, author, work, temperature)
    return (single + contrastive_loss(means, authors, works, temperature)) / 2


class Batches:
    """Draws batches of one language: paragraphs of two works of each of some authors."""

    def __init__(self, corpus: Corpus, settings: EncoderSettings) -> None:
        self._rng = np.random.default_rng(settings.seed)
        self._settings = settings
        self._rows: dict[int, list[list[Any]]] = {}  # language -> authors -> works -> rows
        for language in np.unique(corpus.language):
            authors = []
            for author in np.unique(corpus.author[corpus.language == language]):
                own = np.flatnonzero(corpus.author == author)
                works = [own[corpus.work[own] == work] for work in np.unique(corpus.work[own])]
                if len(works) > 1:
                    authors.append(works)
            self._rows[int(language)] = authors

    def draw(self, step: int) -> Any:
        """Row numbers of a batch; languages take turns."""
        languages = sorted(self._rows)
        authors = self._rows[languages[step % len(languages)]]
        n_authors = min(self._settings.authors, len(authors))
        half = self._settings.paragraphs // 2
        rows: list[Any] = []
        for place in self._rng.choice(len(authors), n_authors, replace=False):
            works = authors[place]
            rows += [
                self._rng.choice(works[work], half, replace=len(works[work]) < half)
                for work in self._rng.choice(len(works), 2, replace=False)
            ]
        return np.concatenate(rows)


def train(corpus: Corpus, settings: EncoderSettings, out: Path) -> Encoder:
    """Train to the end of the schedule or of the time; the schedule is linear down to zero."""
    torch.manual_seed(settings.seed)
    model = Encoder(settings, corpus)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
    )
    batches, rng = Batches(corpus, settings), np.random.default_rng(settings.seed + 1)
    began, n_seen = time.monotonic(), 0
    with reporting(out, settings.steps, 0) as report:
        for step in range(settings.steps):
            started = time.monotonic()
            spent = (started - began) / (settings.max_minutes * 60) if settings.max_minutes else 0.0
            done = max(step / settings.steps, spent)
            if done >= 1:
                break
            optimizer.param_groups[0]["lr"] = settings.learning_rate * min(
                (step + 1) / 20, 1 - done
            )
            rows = batches.draw(step)
            vectors = model(
                bags_of(corpus, rows, settings.drop, rng), torch.from_numpy(corpus.rhythm[rows])
            )
            author, work = (
                torch.from_numpy(corpus.author[rows]),
                torch.from_numpy(corpus.work[rows]),
            )
            temperature = model.log_temperature.exp().clamp(min=0.03)
            loss = batch_loss(vectors, author, work, temperature)
            optimizer.zero_grad()
            loss.backward()
            norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            took, n_seen = time.monotonic() - started, n_seen + len(rows)
            factor = optimizer.param_groups[0]["lr"] / settings.learning_rate
            report(
                Metrics(step + 1, n_seen, loss.item(), factor, float(norm), len(rows) / took, took)
            )
    return model.eval()


def arrays_of(model: Encoder, keys: Any) -> dict[str, Any]:
    """The tensors of the shipped file: float16, the keys and scales float32 (whole numbers below 2**24)."""
    halves = {
        "table": model.table.weight,
        "hidden_w": model.hidden.weight,
        "hidden_b": model.hidden.bias,
        "out_w": model.out.weight,
        "out_b": model.out.bias,
        "skip_w": model.skip.weight,
    }
    arrays = {name: value.detach().numpy().astype(np.float16) for name, value in halves.items()}
    mean: Any = model.mean
    scale: Any = model.scale
    return arrays | {
        "keys": keys.astype(np.float32),
        "rhythm_mean": mean.numpy().astype(np.float32),
        "rhythm_scale": scale.numpy().astype(np.float32),
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="training.style_encoder", description=__doc__)
    parser.add_argument("--texts", type=Path, required=True, help="made by training.persona_data")
    parser.add_argument("--out", type=Path, required=True, help="folder of the encoder")
    parser.add_argument("--run", type=Path, required=True, help="metrics")
    parser.add_argument("--threads", type=int, default=1)
    defaults = EncoderSettings()
    for field in fields(defaults):
        value = getattr(defaults, field.name)
        parser.add_argument("--" + field.name.replace("_", "-"), type=type(value), default=value)
    arguments = vars(parser.parse_args(argv))
    texts, out, run = (arguments.pop(name) for name in ("texts", "out", "run"))
    torch.set_num_threads(arguments.pop("threads"))
    works = load(texts, ["train"])
    keys = choose_keys(works, arguments["n_keys"])
    settings = EncoderSettings(**(arguments | {"n_keys": len(keys)}))
    corpus = featurise(works, keys)
    print(f"{len(corpus.rhythm)} paragraphs, {len(keys)} n-grams", flush=True)
    model = train(corpus, settings, run)
    facts = asdict(settings) | {
        "paragraphs": len(corpus.rhythm),
        "authors": len(np.unique(corpus.author)),
    }
    about = About(settings={}, licence=LICENCE, facts=facts)
    written = write_folder(out, KIND, arrays_of(model, keys), about)
    print(f"{written.n_bytes / 1e6:.2f} MB -> {out}")


if __name__ == "__main__":
    main()
