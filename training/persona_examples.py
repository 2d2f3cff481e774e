"""Training and test rows for the persona: a passage of an author, and a history from the author's other works.

The query is the vector of the paragraph before the passage, as in serving (the text before the cursor); the
passage itself never enters the persona. An author of one work gives a history from the work's other half,
more weakly (`single_share`): encoder vectors hold style, names are masked in them, topics are not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from indexer.style_encoder import StyleEncoder
from pushkin_runtime.control_tokens import LANGUAGES, prefix_ids
from training.persona_data import WorkRuns
from training.persona_plug import History

# (work, run, generator) -> rows (m, D) of a passage from that run.
Lesson = Callable[["Source", int, np.random.Generator], Any]
MIN_HISTORY, MAX_HISTORY = 8, 64
QUERY_SHARE = 0.8  # of the passages have a text before them
NEAREST_SHARE = 0.5  # of these have the nearest paragraphs for a history, the others random ones


@dataclass(frozen=True)
class Source:
    """One work, or a half of an author's only one. vectors (n_runs, p, E) float16; tokens: of each run.

    Tokens are those of the run's paragraphs after the first, which is the text before the passage.
    """

    language: str
    author: str
    title: str
    prefix: tuple[int, ...]
    vectors: Any
    tokens: tuple[Any, ...]


@dataclass(frozen=True)
class Author:
    """Two sources or more. is_single: they are halves of one work."""

    language: str
    name: str
    sources: tuple[Source, ...]
    is_single: bool


@dataclass(frozen=True)
class Rows:
    """A batch. ids (b, prefix + window) with the control prefix first; n_prefix: ids before the passage.

    authors: whose each passage is, as "language/name".
    """

    ids: Tensor
    n_prefix: int
    history: History
    authors: tuple[str, ...] = ()

    def others(self) -> Tensor:
        """For each row the next one by another author of the same language, (b,); itself where there is none."""
        found = []
        for row, author in enumerate(self.authors):
            language = author.split("/")[0]
            ahead = [(row + step) % len(self.authors) for step in range(1, len(self.authors))]
            kin = [
                other
                for other in ahead
                if self.authors[other] != author
                and self.authors[other].startswith(f"{language}/")
                and bool(self.history.is_there[other].any())
            ]
            found.append(kin[0] if kin else row)
        return torch.tensor(found, device=self.ids.device)

    @property
    def n_targets(self) -> int:
        """Tokens of all passages."""
        return int(self.ids.shape[0] * (self.ids.shape[1] - self.n_prefix))


def authors_of(
    works: Sequence[WorkRuns], encoder: StyleEncoder, tokenizer: Tokenizer
) -> list[Author]:
    """Encode and tokenise; authors with a single run are left out."""
    by_author: dict[tuple[str, str], list[WorkRuns]] = {}
    for work in works:
        by_author.setdefault((work.language, work.author), []).append(work)
    authors: list[Author] = []
    for (language, name), own in sorted(by_author.items()):
        sources = [_source(work, encoder, tokenizer) for work in own]
        is_single = len(sources) == 1
        if is_single:
            sources = _halves(sources[0])
        if len(sources) > 1:
            authors.append(Author(language, name, tuple(sources), is_single))
    return authors


def _source(work: WorkRuns, encoder: StyleEncoder, tokenizer: Tokenizer) -> Source:
    runs = [run for run in work.runs if len(run) > 1 and len(run) == len(work.runs[0])]
    vectors = encoder.embed([paragraph for run in runs for paragraph in run])
    texts = ["\n\n".join(run[1:]) for run in runs]
    encodings = tokenizer.encode_batch(texts, add_special_tokens=False)
    prefix = prefix_ids(
        tokenizer.get_vocab().__getitem__,
        lambda text: list(tokenizer.encode(text, add_special_tokens=False).ids),
        work.language,
        work.genre,
    )
    return Source(
        work.language,
        work.author,
        work.title,
        tuple(prefix),
        vectors.reshape(len(runs), -1, vectors.shape[1]).astype(np.float16),
        tuple(np.array(encoding.ids, np.uint16) for encoding in encodings),
    )


def _halves(source: Source) -> list[Source]:
    middle = len(source.tokens) // 2
    parts = (slice(0, middle), slice(middle, None))
    return [
        Source(
            source.language,
            source.author,
            source.title,
            source.prefix,
            source.vectors[part],
            source.tokens[part],
        )
        for part in parts
        if source.tokens[part]
    ]


def passages(source: Source, window: int) -> list[int]:
    """The runs of a source that are long enough."""
    return [index for index, tokens in enumerate(source.tokens) if len(tokens) >= window]


class Sampler:
    """Draws training batches; a pure function of the seed and the step, so a run can be continued."""

    def __init__(
        self, authors: Sequence[Author], seed: int, null_share: float, single_share: float
    ) -> None:
        self._authors = authors
        self._seed, self._null_share = seed, null_share
        sizes = np.array([sum(len(s.tokens) for s in author.sources) for author in authors])
        weights = np.sqrt(sizes)
        single = np.array([author.is_single for author in authors])
        english = np.array([author.language == LANGUAGES[0] for author in authors])
        chances = np.zeros(len(authors))
        for kind, share in ((single, single_share), (~single, 1 - single_share)):
            for language in (english, ~english):
                own = kind & language
                if own.any():
                    chances[own] += share / 2 * weights[own] / weights[own].sum()
        self._chances = chances / chances.sum()

    def draw(
        self, step: int, n_rows: int, window: int, worker: int = 0, lessons: Lesson | None = None
    ) -> Rows:
        """A batch of `n_rows` passages of `window` tokens; with `lessons` their rows are given, not made."""
        rng = np.random.default_rng([self._seed, step, worker])
        ids: list[Any] = []
        names: list[str] = []
        queries: list[Any] = []
        histories: list[tuple[Any, Any]] = []
        direct: list[Any] = []
        while len(ids) < n_rows:
            author = self._authors[rng.choice(len(self._authors), p=self._chances)]
            place = int(rng.integers(len(author.sources)))
            source = author.sources[place]
            usable = passages(source, window)
            if not usable:
                continue
            run = usable[int(rng.integers(len(usable)))]
            ids.append(np.concatenate([source.prefix, source.tokens[run][:window]]))
            names.append(f"{author.language}/{author.name}")
            others = [other for index, other in enumerate(author.sources) if index != place]
            is_null = rng.random() < self._null_share
            query = source.vectors[run][0] * np.float16(rng.random() < QUERY_SHARE)
            n_history = 0 if is_null else int(rng.integers(MIN_HISTORY, MAX_HISTORY + 1))
            pick = nearest_history if rng.random() < NEAREST_SHARE and query.any() else None
            histories.append(
                pick(others, n_history, query) if pick else sample_history(others, n_history, rng)
            )
            queries.append(query)
            if lessons is not None:
                direct.append(lessons(source, run, rng))
        rows = rows_of(ids, len(source.prefix), queries, histories)
        given = torch.from_numpy(np.stack(direct)) if direct else None
        return replace(rows, authors=tuple(names), history=replace(rows.history, direct=given))


def pooled(sources: Sequence[Source]) -> tuple[Any, Any]:
    """All paragraphs of some works: vectors (n, E) and the number of each one's work, (n,)."""
    vectors = np.concatenate(
        [source.vectors.reshape(-1, source.vectors.shape[-1]) for source in sources]
    )
    counts = [source.vectors.shape[0] * source.vectors.shape[1] for source in sources]
    documents = np.repeat(np.arange(len(sources)), counts)
    return vectors, documents


def sample_history(sources: Sequence[Source], n: int, rng: np.random.Generator) -> tuple[Any, Any]:
    """At most `n` random paragraphs of some works: vectors (k, E) and the number of each one's work, (k,)."""
    vectors, documents = pooled(sources)
    chosen = rng.choice(len(vectors), min(n, len(vectors)), replace=False)
    return vectors[chosen], documents[chosen]


def nearest_history(sources: Sequence[Source], n: int, query: Any) -> tuple[Any, Any]:
    """As serving retrieves: the `n` paragraphs of some works that are nearest to the query (E,)."""
    vectors, documents = pooled(sources)
    similar = vectors.astype(np.float32) @ query.astype(np.float32)
    chosen = np.argsort(-similar, kind="stable")[:n]
    return vectors[chosen], documents[chosen]


def rows_of(
    ids: Sequence[Any], n_prefix: int, queries: Sequence[Any], histories: Sequence[tuple[Any, Any]]
) -> Rows:
    """Pad the histories and make tensors."""
    n_rows, width = len(ids), max(1, *(len(vectors) for vectors, _ in histories))
    vectors = np.zeros((n_rows, width, len(queries[0])), np.float32)
    documents = np.zeros((n_rows, width), np.int64)
    is_there = np.zeros((n_rows, width), bool)
    for row, (own, own_documents) in enumerate(histories):
        vectors[row, : len(own)] = own
        documents[row, : len(own)] = own_documents
        is_there[row, : len(own)] = True
    history = History(
        torch.from_numpy(np.stack(queries).astype(np.float32)),
        torch.from_numpy(vectors),
        torch.from_numpy(documents),
        torch.from_numpy(is_there),
    )
    return Rows(torch.from_numpy(np.stack(ids).astype(np.int64)), n_prefix, history)
