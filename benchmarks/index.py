"""The index at 100,000 paragraphs: search, rebuild, bytes, deletion, an edit; beside NumPy and flat FAISS.

The vectors are random, which changes nothing for exact search. The last figures are of real text through all
stages: reading, paragraphs, the shipped style encoder, commit.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.harness import REPOSITORY, Figure, Report, describe_machine, figure, publish, say
from indexer import spaces
from indexer.extract import read_text
from indexer.paragraphs import segment
from indexer.pipeline import Stages
from indexer.records import (
    DocumentUpdate,
    IndexEvent,
    Job,
    Push,
    PushedFile,
    PushedText,
    Source,
    VectorRows,
)
from indexer.repairs import repair
from indexer.service import ConsentChange, DocumentIndex, IndexOptions
from indexer.store import Store
from indexer.style_encoder import load_style_encoder
from indexer.types import Block, Embedder, EmbeddingSpace, ExtractedText, Paragraph
from indexer.vector_index import FaissFlat, NumpyFlat, SearchFilter, VectorIndex

Floats = NDArray[np.float32]

PARAGRAPHS_OF_A_DOCUMENT = 100
K = 64  # that share a persona
N_QUERIES = 200
N_DELETED = 20
LONG_DOCUMENT = 2000
PATIENCE_S = 600.0
_ENGLISH = (
    "the house stood alone beside a river and nobody had ever opened its door to strangers until "
    "winter came with snow that covered every road between here and the town where she was born"
)
_RUSSIAN = (
    "дом стоял один у самой реки и никто никогда не открывал его двери чужим людям пока зима не "
    "пришла со снегом который закрыл каждую дорогу между нами и городом где она когда то родилась"
)


class RandomEmbedder:
    """As fast as an encoder can be; counts what it was asked."""

    def __init__(self, n_dimensions: int) -> None:
        self.space = EmbeddingSpace(id="benchmark", n_dimensions=n_dimensions)
        self._rng = np.random.default_rng(0)
        self.n_texts = 0
        self.n_calls = 0

    def embed(self, texts: Sequence[str]) -> Floats:
        self.n_calls += 1
        self.n_texts += len(texts)
        return unit(self._rng.standard_normal((len(texts), self.space.n_dimensions)))

    def close(self) -> None:
        pass


@dataclass
class Open:
    """An index that is open, and the ends of its jobs."""

    index: DocumentIndex
    ended: dict[str, Job] = field(default_factory=dict)

    def push(self, document_id: str, text: str) -> tuple[Job, float]:
        """Index a text; returns its job and the seconds from asking to the end."""
        started = time.perf_counter()
        push = Push(document_id=document_id, content=PushedText(text=text))
        job = self.index.push(push).result(PATIENCE_S)
        while job.id not in self.ended:
            time.sleep(0.0002)
        return self.ended[job.id], time.perf_counter() - started


def unit(vectors: NDArray[Any]) -> Floats:
    """Rows of length 1."""
    made: Floats = (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)
    return made


def timed_ms(
    work: Callable[[], object], n: int, clock: Callable[[], float] = time.perf_counter
) -> list[float]:
    """Milliseconds of `n` calls."""
    samples = []
    for _ in range(n):
        started = clock()
        work()
        samples.append(1000 * (clock() - started))
    return samples


def fill(store: Store, n_paragraphs: int, n_dimensions: int) -> float:
    """Commit documents of a hundred paragraphs; returns seconds."""
    rng = np.random.default_rng(1)
    space = spaces.space_to_write(
        store.db, EmbeddingSpace(id="benchmark", n_dimensions=n_dimensions)
    )
    took = 0.0
    for number in range(n_paragraphs // PARAGRAPHS_OF_A_DOCUMENT):
        language = "ru" if number % 2 else "en"
        paragraphs = [
            Paragraph(text=f"Paragraph {number}, {i}.", language=language, n_words=80)  # type: ignore[arg-type]
            for i in range(PARAGRAPHS_OF_A_DOCUMENT)
        ]
        digests = store.digests([paragraph.text for paragraph in paragraphs])
        vectors = unit(rng.standard_normal((len(paragraphs), n_dimensions)))
        update = DocumentUpdate(
            source=Source(id=f"d{number}", origin="push", consent="global", consented_at=0.0),
            content_digest=store.content_digest(str(number).encode()),
            media_type="text/plain",
            paragraphs=paragraphs,
            digests=digests,
            vectors=dict(zip(digests, vectors, strict=True)),
            space=space.key,
        )
        started = time.perf_counter()
        store.commit(update)
        took += time.perf_counter() - started
    return took


def measure_search(store: Store, n_dimensions: int) -> tuple[dict[str, Figure], dict[str, Any]]:
    """Ours, NumPy and flat float32 FAISS, with the same queries in turn."""
    import faiss

    index = VectorIndex(store)
    rebuilds = timed_ms(index.rebuild, 5)
    rows = index.all_vectors()
    exact = rows.vectors.astype(np.float32)
    flat: Any = faiss.IndexFlatIP(n_dimensions)  # type: ignore[no-untyped-call, unused-ignore]
    flat.add(exact)
    queries = unit(np.random.default_rng(2).standard_normal((N_QUERIES, n_dimensions)))
    russian = SearchFilter(languages=["ru"])
    samples: dict[str, list[float]] = {"ours": [], "filtered": [], "numpy": [], "flat": []}
    samples["cpu"] = []
    n_same = 0
    for query in queries:
        samples["ours"] += timed_ms(lambda q=query: index.search(q, K, with_vectors=True), 1)  # type: ignore[misc]
        samples["cpu"] += timed_ms(lambda q=query: index.search(q, K), 1, time.thread_time)  # type: ignore[misc]
        samples["filtered"] += timed_ms(lambda q=query: index.search(q, K, russian), 1)  # type: ignore[misc]
        samples["numpy"] += timed_ms(lambda q=query: _brute_force(exact, q), 1)  # type: ignore[misc]
        samples["flat"] += timed_ms(lambda q=query: flat.search(q[None], K), 1)  # type: ignore[misc]
        best = set(rows.ids[_brute_force(exact, query)].tolist())
        n_same += len(best & set(index.search(query, K).ids.tolist()))
    limit = float(np.median(samples["flat"]))
    figures = {
        "search": figure(
            samples["ours"], "ms", bar=10, limit=limit, limit_is="FAISS flat float32, same queries"
        ),
        "search, CPU time": figure(samples["cpu"], "ms"),
        "search in one language": figure(samples["filtered"], "ms", bar=10),
        "NumPy float32 brute force": figure(samples["numpy"], "ms"),
        "FAISS flat float32": figure(samples["flat"], "ms"),
        "rebuild from the database": figure(rebuilds, "ms", bar=2000),
        "rebuild, FAISS alone": figure(_add_ms(FaissFlat, rows, n_dimensions), "ms"),
        "rebuild, NumPy fallback alone": figure(_add_ms(NumpyFlat, rows, n_dimensions), "ms"),
    }
    return figures, {"recall at 64 against float32 arithmetic": n_same / (N_QUERIES * K)}


def _brute_force(vectors: Floats, query: Floats) -> NDArray[np.int64]:
    similarities = vectors @ query
    best = np.argpartition(-similarities, K)[:K]
    return best[np.argsort(-similarities[best])]


def _add_ms(kind: type[FaissFlat | NumpyFlat], rows: VectorRows, n_dimensions: int) -> list[float]:
    return timed_ms(lambda: kind(n_dimensions).add(rows.ids, rows.vectors), 3)


@contextlib.contextmanager
def open_index(path: Path, make_embedder: Callable[[], Embedder], *, lines: bool) -> Iterator[Open]:
    """The whole index; lines: every line is a paragraph, else text is read and cut as the daemon does."""
    opened: Open

    def hear(event: IndexEvent) -> None:
        if event.job is not None and event.job.finished_at is not None:
            opened.ended[event.job.id] = event.job

    def read(pushed: PushedText) -> ExtractedText:
        if not lines:
            return read_text(pushed.text)
        blocks = tuple(map(Block, pushed.text.split("\n")))
        return ExtractedText(blocks=blocks, media_type="text/plain")

    def read_file(_: PushedFile) -> ExtractedText:
        raise NotImplementedError

    def cut(blocks: Sequence[Block]) -> list[Paragraph]:
        if not lines:
            return segment(blocks)
        return [Paragraph(text=block.text, language="en", n_words=80) for block in blocks]

    stages = Stages(read_text=read, read_file=read_file, segment=cut, make_embedder=make_embedder)
    index = DocumentIndex(IndexOptions(path=path), stages, is_busy=lambda: False, sink=hear)
    opened = Open(index)
    index.start().result(PATIENCE_S)
    index.set_consent(ConsentChange(global_consent="on")).result(PATIENCE_S)
    try:
        yield opened
    finally:
        index.close()


def measure_changes(path: Path, n_dimensions: int) -> tuple[dict[str, Figure], dict[str, Any]]:
    """Deletions with a receipt, and one paragraph edited in a long document, in the full index."""
    embedder = RandomEmbedder(n_dimensions)
    with open_index(path, lambda: embedder, lines=True) as opened:
        len(opened.index.vectors)  # loaded, as in a daemon that has answered once
        receipts = []
        deletions = timed_ms(
            lambda: receipts.append(opened.index.delete(f"d{len(receipts)}").result()), N_DELETED
        )
        texts = [f"Line {i} of a long document." for i in range(LONG_DOCUMENT)]
        _, first_s = opened.push("long", "\n".join(texts))
        edits, n_asked = [], []
        for number in range(10):
            texts[number * 150] = f"An edited line, for the {number}th time."
            embedder.n_texts = embedder.n_calls = 0
            _, took_s = opened.push("long", "\n".join(texts))
            edits.append(1000 * took_s)
            n_asked.append((embedder.n_calls, embedder.n_texts))
    n_verified = sum(receipt.verified for receipt in receipts)
    figures = {
        "delete 100 paragraphs, receipt": figure(deletions, "ms", bar=300),
        "edit 1 of 2,000 paragraphs": figure(edits, "ms", bar=50),
        "index 2,000 paragraphs, no encoder": figure([1000 * first_s], "ms"),
    }
    counts = {
        "receipts verified": f"{n_verified} of {N_DELETED}",
        "paragraphs removed": sum(receipt.paragraphs_removed for receipt in receipts),
        "encoder calls, texts for an edit": sorted(set(n_asked)),
    }
    return figures, counts


def measure_start(path: Path) -> list[float]:
    """Open, check and repair, as at the start of a daemon."""
    samples = []
    for _ in range(3):
        started = time.perf_counter()
        store = Store(path)
        repair(store)
        samples.append(1000 * (time.perf_counter() - started))
        store.close()
    return samples


def measure_text(folder: Path) -> dict[str, Figure]:
    """Plain text through all stages with the shipped encoder; paragraphs a second by document."""
    encoder = REPOSITORY / "models" / "style-encoder"
    texts = ["\n\n".join(_paragraph(number, part) for part in range(60)) for number in range(12)]
    rates = []
    with open_index(folder, lambda: load_style_encoder(encoder), lines=False) as opened:
        for number, text in enumerate(texts):
            job, took_s = opened.push(f"t{number}", text)
            if number:  # the first one loads the encoder
                rates.append(job.n_embedded / took_s)
    return {"text to committed vectors": figure(rates, "paragraphs/s", bar=150)}


def _paragraph(number: int, part: int) -> str:
    """Eighty words in sentences of ten, English and Russian in turn, no two alike."""
    chosen = random.Random(f"{number} {part}")
    words = (_RUSSIAN if part % 2 else _ENGLISH).split()
    sentences = [" ".join(chosen.choices(words, k=10)).capitalize() + "." for _ in range(8)]
    return " ".join(sentences)


def main() -> None:
    """Run everything on a temporary folder."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--paragraphs", type=int, default=100_000)
    parser.add_argument("--dimensions", type=int, default=256)
    parser.add_argument("--json", action="store_true", help="only JSON, nothing on stderr")
    arguments = parser.parse_args()
    n_paragraphs, n_dimensions = arguments.paragraphs, arguments.dimensions
    with tempfile.TemporaryDirectory(prefix="pushkin-index-") as made:
        path = Path(made) / "index.noindex"
        store = Store(path)
        fill_s = fill(store, n_paragraphs, n_dimensions)
        store.db.checkpoint()
        n_bytes = store.db.n_bytes()
        if not arguments.json:
            say(f"filled in {fill_s:.1f} s, {n_bytes / n_paragraphs:.0f} bytes a paragraph")
        figures, counts = measure_search(store, n_dimensions)
        store.close()
        figures["start: open, check, repair"] = figure(measure_start(path), "ms")
        changes, more_counts = measure_changes(path, n_dimensions)
        figures |= changes | measure_text(Path(made) / "text.noindex")
    figures["bytes a paragraph on disk"] = figure([n_bytes / n_paragraphs], "bytes", bar=900)
    figures["commit, without an encoder"] = figure([n_paragraphs / fill_s], "paragraphs/s")
    publish(
        Report(
            benchmark="index",
            environment=describe_machine(),
            figures=figures,
            counts={"paragraphs": n_paragraphs, "dimensions": n_dimensions} | counts | more_counts,
        ),
        quiet=arguments.json,
    )


if __name__ == "__main__":
    main()
