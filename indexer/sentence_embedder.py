"""Any sentence-transformers model of a local folder as an embedder, in a process of its own (`sentence_child.py`).

The daemon itself never imports torch for this: on macOS torch and FAISS in one process can crash (two OpenMP runtimes), and a
model that is not needed gives its memory back by ending.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from indexer.errors import EmbeddingFailed
from indexer.sentence_child import MAX_FRAME_BYTES, read_frame, write_frame
from indexer.types import EmbeddingSpace
from sandbox.child import Child

log = logging.getLogger("pushkin.indexer")

_ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SentenceOptions:
    """prefix: what the model was trained to see before a text, "query: " for the E5 family. start_s, batch_s: how long
    loading and a batch may take. idle_s: after so long without work the process ends; the next text starts another."""

    prefix: str = ""
    start_s: float = 180.0
    batch_s: float = 120.0
    idle_s: float = 300.0
    memory_bytes: int = 16_000_000_000


class SentenceEmbedder:
    """An Embedder. Used from one thread at a time; the process ends by itself between two uses."""

    def __init__(self, folder: Path, options: SentenceOptions | None = None) -> None:
        """Load the model. Raises EmbeddingFailed."""
        self._folder, self._options = folder, options or SentenceOptions()
        self._lock = threading.Lock()
        self._child: Child | None = None
        self._idle: threading.Timer | None = None
        self._is_closed = False
        self._digest = ""
        info = self._start()
        self._digest = info["digest"]
        prefix = self._options.prefix
        self.space = EmbeddingSpace(
            id=f"{folder.name}@{info['digest'][:16]}" + (f"+{prefix}" if prefix else ""),
            n_dimensions=int(info["n_dimensions"]),
        )
        self._rest_later()

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return (len(texts), n_dimensions) float32, rows of unit length. Raises EmbeddingFailed; the next call starts anew."""
        with self._lock:
            if self._is_closed:
                raise EmbeddingFailed("The encoder is closed.")
            self._stop_timer()
            if self._child is None:
                self._start()
            try:
                return self._embed(texts)
            finally:
                self._rest_later()

    def close(self) -> None:
        """End the process."""
        with self._lock:
            self._is_closed = True
            self._stop_timer()
            self._end()

    def _embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        child, answer = self._child, None
        assert child is not None
        request = json.dumps(list(texts)).encode()
        if len(request) > MAX_FRAME_BYTES:
            raise EmbeddingFailed(f"{len(request):,} bytes of text at once are too many.")
        try:
            with child.killed_after(self._options.batch_s):
                write_frame(child.stdin, request)
                answer = read_frame(child.stdout)
        except OSError:
            answer = None
        expected = 4 * len(texts) * self.space.n_dimensions
        if answer is None or len(answer) != expected:
            cause = child.ending().cause
            self._end()
            raise EmbeddingFailed(f"The process of the encoder ended without vectors ({cause}).")
        return np.frombuffer(answer, np.float32).reshape(len(texts), -1)

    def _start(self) -> dict[str, Any]:
        """Start the process; what it says about the model. Raises EmbeddingFailed."""
        options = self._options
        child = Child("indexer.sentence_child", "-", _ENVIRONMENT)
        settings = {
            "folder": str(self._folder.resolve()),
            "digest": self._digest,
            "prefix": options.prefix,
            "memory_bytes": options.memory_bytes,
        }
        answer = None
        try:
            write_frame(child.stdin, json.dumps(settings).encode())
            if child.becomes_ready(options.start_s):
                with child.killed_after(options.batch_s):
                    answer = read_frame(child.stdout)
        except OSError:
            answer = None
        info: dict[str, Any] = json.loads(answer) if answer else {"error": "its process ended"}
        if "error" in info:
            child.end()
            raise EmbeddingFailed(f"The encoder {self._folder.name} is not used: {info['error']}.")
        self._child = child
        log.info("encoder process started", extra={"n_dimensions": info["n_dimensions"]})
        return info

    def _rest_later(self) -> None:
        self._idle = threading.Timer(self._options.idle_s, self._rest)
        self._idle.daemon = True
        self._idle.start()

    def _rest(self) -> None:
        if self._lock.acquire(blocking=False):  # else it is at work
            try:
                self._end()
            finally:
                self._lock.release()

    def _stop_timer(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None

    def _end(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            child.end()
