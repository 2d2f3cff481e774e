"""`kill -9` while documents are indexed, edited and deleted: what was acknowledged is there, once, and no more.

A child indexes without a pause and says what it tries and what was acknowledged; it is killed at a random
moment, the database is opened as a daemon would, and compared with what was said. The same index lives on.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.harness import Report, describe_machine, figure, publish
from indexer.pipeline import Stages
from indexer.records import IndexEvent, Job, Push, PushedFile, PushedText
from indexer.repairs import repair
from indexer.service import ConsentChange, DocumentIndex, IndexOptions
from indexer.store import Store
from indexer.types import Block, EmbeddingSpace, ExtractedText, Paragraph
from indexer.vector_index import VectorIndex

SPACE = EmbeddingSpace(id="kills", n_dimensions=64)
N_DOCUMENTS = 12
MAX_PARAGRAPHS = 60
DELETED = -1
PATIENCE_S = 30.0


class SeededEmbedder:
    """Vectors that the judge can compute again."""

    space = SPACE

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return np.stack([_vector(text) for text in texts])

    def close(self) -> None:
        pass


@dataclass
class Said:
    """What the child said of each document: the last acknowledged revision, and those tried since."""

    acknowledged: dict[str, int] = field(default_factory=dict)
    tried: dict[str, set[int]] = field(default_factory=dict)
    n_acknowledged: int = 0

    def hear(self, lines: Sequence[str]) -> None:
        for line in lines:
            what, document_id, revision = line.split()
            if what == "try":
                self.tried.setdefault(document_id, set()).add(int(revision))
            else:
                self.acknowledged[document_id] = int(revision)
                self.tried[document_id] = set()
                self.n_acknowledged += 1

    def allowed(self, document_id: str) -> set[int]:
        return {self.acknowledged.get(document_id, DELETED)} | self.tried.get(document_id, set())

    def settle(self, document_id: str, revision: int) -> None:
        """What is on the disk now is what the next child begins with."""
        self.acknowledged[document_id] = revision
        self.tried[document_id] = set()


def paragraphs_of(document_id: str, revision: int) -> list[str]:
    """The text of a revision: half of it is that of the one before, some of it stands in others too."""
    chosen = random.Random(f"{document_id} {revision}")
    n_paragraphs = chosen.randrange(1, MAX_PARAGRAPHS)
    texts = []
    for position in range(n_paragraphs):
        if chosen.random() < 0.1:
            texts.append(f"A refrain, number {chosen.randrange(5)}.")
        else:
            texts.append(f"{document_id}, {position}, since {revision - chosen.randrange(3)}.")
    return texts


def trial(folder: Path, said: Said, seed: int, longest_s: float) -> tuple[list[str], float, int]:
    """Let a child work, kill it, judge; returns what is wrong, seconds of start-up, repaired things."""
    moment = random.Random(seed)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        with contextlib.suppress(BaseException):
            _index_for_ever(folder, writer, seed, said)
        os._exit(1)
    os.close(writer)
    with os.fdopen(reader, "r", encoding="ascii") as pipe:
        # Mostly in the middle of the work, now and then while the index is opened.
        n_lines = 0 if moment.random() < 0.1 else moment.randrange(1, 10)
        first = "".join(pipe.readline() for _ in range(n_lines))
        time.sleep(moment.uniform(0, longest_s))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        rest = pipe.read()
    # The last line may be cut off: then it was not said.
    said.hear((first + rest).split("\n")[:-1])
    started = time.perf_counter()
    store = Store(folder)
    codes, _ = repair(store)
    start_s = time.perf_counter() - started
    try:
        wrong = [f"repair: {code}" for code in codes if code != "jobs_interrupted"]
        return [*wrong, *judge(store, said)], start_s, len(codes)
    finally:
        store.close()


def judge(store: Store, said: Said) -> list[str]:
    """Compare every row with what was said."""
    wrong = [] if store.db.is_sound() else ["integrity_check"]
    if store.db.rows("PRAGMA foreign_key_check"):
        wrong.append("foreign_key_check")
    records = {record.id: record for record in store.documents()}
    for document_id in {*said.acknowledged, *said.tried, *records}:
        record = records.get(document_id)
        revision = DELETED if record is None else record.revision
        if revision not in said.allowed(document_id):
            wrong.append(f"{document_id}: revision {revision}, said {said.allowed(document_id)}")
            continue
        assert revision is not None
        said.settle(document_id, revision)
        if record is not None:
            wrong += _judge_rows(store, document_id, revision, record.n_paragraphs)
    n_paragraphs = store.totals().n_paragraphs
    if len(VectorIndex(store)) != n_paragraphs:
        wrong.append("the search does not hold what the database holds")
    return wrong


def _judge_rows(store: Store, document_id: str, revision: int, n_counted: int) -> list[str]:
    texts = paragraphs_of(document_id, revision)
    found = store.db.rows(
        "SELECT p.position, p.digest, v.vector FROM paragraphs p "
        "JOIN documents d ON d.key = p.document JOIN vectors v ON v.paragraph = p.id "
        "WHERE d.id = ? ORDER BY p.position",
        (document_id,),
    )
    expected = [
        (position, digest, _vector(text).astype("<f2").tobytes())
        for position, (text, digest) in enumerate(zip(texts, store.digests(texts), strict=True))
    ]
    if found == expected and n_counted == len(expected):
        return []
    kept, wanted = Counter(row[1] for row in found), Counter(row[1] for row in expected)
    n_lost, n_doubled = (wanted - kept).total(), (kept - wanted).total()
    return [f"{document_id} r{revision}: {n_lost} lost, {n_doubled} doubled, or out of order"]


def _index_for_ever(folder: Path, pipe: int, seed: int, said: Said) -> None:
    chosen = random.Random(seed)
    ended: dict[str, Job] = {}

    def hear(event: IndexEvent) -> None:
        if event.job is not None and event.job.finished_at is not None:
            ended[event.job.id] = event.job

    index = DocumentIndex(IndexOptions(path=folder), _stages(), is_busy=lambda: False, sink=hear)
    index.start().result(PATIENCE_S)
    index.set_consent(ConsentChange(global_consent="on")).result(PATIENCE_S)
    revisions = dict(said.acknowledged)
    while True:
        document_id = f"d{chosen.randrange(N_DOCUMENTS)}"
        known = revisions.get(document_id, DELETED)
        # A revision is never used twice, also after a deletion.
        revision = DELETED
        if known == DELETED or chosen.random() < 0.85:
            revision = time.monotonic_ns()
        _say(pipe, "try", document_id, revision)
        if revision == DELETED:
            index.delete(document_id).result(PATIENCE_S)
        else:
            text = "\n".join(paragraphs_of(document_id, revision))
            push = Push(
                document_id=document_id,
                content=PushedText(text=text),
                revision=revision,
                consent_given=True,
            )
            job = index.push(push).result(PATIENCE_S)
            while job.id not in ended:
                time.sleep(0.0005)
            if ended[job.id].state != "done":
                return
        revisions[document_id] = revision
        _say(pipe, "ack", document_id, revision)


def _stages() -> Stages:
    def read_text(pushed: PushedText) -> ExtractedText:
        return ExtractedText(
            blocks=tuple(map(Block, pushed.text.split("\n"))), media_type="text/plain"
        )

    def read_file(_: PushedFile) -> ExtractedText:
        raise NotImplementedError

    def segment(blocks: Sequence[Block]) -> list[Paragraph]:
        return [Paragraph(text=block.text, language="en", n_words=4) for block in blocks]

    return Stages(
        read_text=read_text, read_file=read_file, segment=segment, make_embedder=SeededEmbedder
    )


def _vector(text: str) -> NDArray[np.float32]:
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")
    made = np.random.default_rng(seed).standard_normal(SPACE.n_dimensions)
    return (made / np.linalg.norm(made)).astype(np.float32)


def _say(pipe: int, what: str, document_id: str, revision: int) -> None:
    os.write(pipe, f"{what} {document_id} {revision}\n".encode())


@contextlib.contextmanager
def _work_folder(chosen: Path | None) -> Iterator[Path]:
    if chosen is not None:
        yield chosen
        return
    with tempfile.TemporaryDirectory(prefix="pushkin-kills-") as made:
        yield Path(made)


def main() -> int:
    """Run the trials; exit 1 when one of them lost or doubled anything."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--longest-ms", type=float, default=50.0, help="more life of a child, at most"
    )
    parser.add_argument("--folder", type=Path, help="where the index lives; default: temporary")
    parser.add_argument("--json", action="store_true", help="only JSON, nothing on stderr")
    arguments = parser.parse_args()
    said, wrong, starts_ms, n_interrupted = Said(), [], [], 0
    with _work_folder(arguments.folder) as folder:
        for number in range(arguments.kills):
            seed = arguments.seed * 1_000_003 + number
            found, start_s, n_repairs = trial(
                folder / "index.noindex", said, seed, arguments.longest_ms / 1000
            )
            wrong += [f"kill {number}: {what}" for what in found]
            starts_ms.append(1000 * start_s)
            n_interrupted += n_repairs > 0
            if not arguments.json and number % 50 == 49:
                print(f"{number + 1} kills, {len(wrong)} wrong", file=sys.stderr, flush=True)
    publish(
        Report(
            benchmark="index_kills",
            environment=describe_machine(),
            figures={"start-up after a kill": figure(starts_ms, "ms")},
            counts={
                "kills": arguments.kills,
                "commits and deletions acknowledged": said.n_acknowledged,
                "kills with a job in hand": n_interrupted,
                "wrong": len(wrong),
                "what was wrong": wrong[:20],
            },
        ),
        quiet=arguments.json,
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
