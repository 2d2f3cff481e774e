"""Other people's servers over the rig, each started and driven in its own dialect.

llama-server, built once, outside the repository, from the source distribution of llama-cpp-python:

    pip download --no-deps --no-binary llama-cpp-python llama-cpp-python==0.3.36
    tar xzf llama_cpp_python-0.3.36.tar.gz
    cmake -G Ninja -S llama_cpp_python-0.3.36/vendor/llama.cpp -B build -DCMAKE_BUILD_TYPE=Release \\
      -DGGML_NATIVE=ON -DBUILD_SHARED_LIBS=OFF -DLLAMA_CURL=OFF -DLLAMA_OPENSSL=OFF \\
      -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_APP=OFF \\
      -DLLAMA_BUILD_UI=OFF -DLLAMA_USE_PREBUILT_UI=OFF
    cmake --build build --target llama-server -j2       # ten minutes on two cores

mlx_lm.server comes with mlx-lm, which we depend on already.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import psutil

from benchmarks.harness import STOP_TIMEOUT_S
from benchmarks.peers_http import (
    Frame,
    PeerFailed,
    free_port,
    get_status,
    post_and_leave,
    post_stream,
)
from benchmarks.true_shape import Rig

START_TIMEOUT_S = 300.0
_LLAMA_PATH, _MLX_PATH = "/completion", "/v1/completions"
POLL_S = 0.02

AdapterSet = tuple[tuple[str, float], ...]
"""Adapters of the rig by name, each with its scale; () is the bare base."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """The same document twice: for a server that takes tokens, and for one that takes text. tokens: () for text alone."""

    tokens: tuple[int, ...]
    text: str


@dataclass(frozen=True, slots=True)
class Piece:
    """Some text of an answer; at_ms: since just before the request was sent."""

    text: str
    at_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """One answer, milliseconds from just before the request.

    ttft_ms: to the first frame. decode_ms: from it to the last, n_steps tokens later. cpu_ms: what the
    server's threads computed meanwhile; on a machine of its own it is threads times the wall time. The
    counts are the server's own: cached_tokens of prompt_tokens were not computed again.
    """

    ttft_ms: float
    decode_ms: float
    n_steps: int
    prompt_tokens: int
    cached_tokens: int
    cpu_ms: float = 0.0

    @property
    def tokens_per_second(self) -> float:
        """Decode speed after the first token."""
        return self.n_steps / self.decode_ms * 1000


class Peer(Protocol):
    """A running server; used from one thread, one request at a time.

    ready_s: from just before the process was made until its health route said so.
    """

    name: str
    pid: int
    ready_s: float

    def write(self, prompt: Prompt, adapters: AdapterSet, max_tokens: int = 1) -> Written:
        """Continue `prompt` greedily with exactly these adapters. Raises PeerFailed."""
        ...

    def stream(
        self, prompt: Prompt, adapters: AdapterSet, max_tokens: int
    ) -> Generator[Piece, None, None]:
        """The same as it comes; closing the iterator leaves, as an editor does at the next keystroke."""
        ...

    def leave(self, prompt: Prompt, adapters: AdapterSet, after_s: float) -> None:
        """Ask, and leave after so long without reading any answer."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class LlamaOptions:
    """llama-server at its best: all threads, whole sliding-window caches, prompt cache, adapters loaded.

    adapters: names in the rig, loaded at start (there is no other time). n_slots: KV caches kept;
    with more than one each adapter set is pinned to a slot of its own (`id_slot`), which the editor
    does not do but a client could.
    """

    binary: Path
    n_threads: int
    adapters: tuple[str, ...] = ()
    n_slots: int = 1
    n_ctx: int = 2048  # of each slot


class LlamaServer:
    """See `Peer`. `POST /completion` with tokens and `lora`."""

    name = "llama-server"

    def __init__(self, port: int, started: Started, options: LlamaOptions) -> None:
        self.pid, self.ready_s = started.pid, started.ready_s
        self._port, self._options = port, options
        self._slots: dict[AdapterSet, int] = {}

    def write(self, prompt: Prompt, adapters: AdapterSet, max_tokens: int = 1) -> Written:
        body = self._body(prompt, adapters, max_tokens)
        began_ms = cpu_ms(self.pid)
        answer = read_llama(post_stream(self._port, _LLAMA_PATH, body))
        return replace(answer, cpu_ms=cpu_ms(self.pid) - began_ms)

    def stream(
        self, prompt: Prompt, adapters: AdapterSet, max_tokens: int
    ) -> Generator[Piece, None, None]:
        body = self._body(prompt, adapters, max_tokens)
        with contextlib.closing(post_stream(self._port, _LLAMA_PATH, body)) as frames:
            for frame in frames:
                yield Piece(frame.data["content"], frame.at_ms)

    def leave(self, prompt: Prompt, adapters: AdapterSet, after_s: float) -> None:
        post_and_leave(self._port, _LLAMA_PATH, self._body(prompt, adapters, 1), after_s)

    def _body(self, prompt: Prompt, adapters: AdapterSet, max_tokens: int) -> dict[str, Any]:
        scales = dict(adapters)
        unknown = scales.keys() - set(self._options.adapters)
        if unknown:
            raise PeerFailed(f"adapters not loaded at start: {', '.join(sorted(unknown))}")
        return {
            "prompt": list(prompt.tokens) or prompt.text,
            "n_predict": max_tokens,
            "stream": True,
            "cache_prompt": True,
            "temperature": 0.0,
            "samplers": ["temperature"],  # greedy, without sorting the vocabulary
            "ignore_eos": True,
            "id_slot": self._slot(adapters),
            # All by name: an empty list would mean the scales given at start, which are 1.
            "lora": [
                {"id": index, "scale": scales.get(name, 0.0)}
                for index, name in enumerate(self._options.adapters)
            ],
        }

    def _slot(self, adapters: AdapterSet) -> int:
        """A slot to each adapter set; two sets in one slot would clear each other's cache unseen."""
        if self._options.n_slots == 1:
            return 0
        slot = self._slots.setdefault(adapters, len(self._slots))
        if slot >= self._options.n_slots:
            raise PeerFailed(f"{self._options.n_slots} slots, but one more adapter set: {adapters}")
        return slot


def cpu_ms(pid: int) -> float:
    """CPU time of a process so far, all its threads."""
    times = psutil.Process(pid).cpu_times()
    return (times.user + times.system) * 1000


def read_llama(frames: Iterator[Frame]) -> Written:
    """`/completion`'s stream; its last frame has the counts. cpu_ms is left 0."""
    first = next(frames)
    last = first
    for frame in frames:
        last = frame
    if not last.data.get("stop"):
        raise PeerFailed("/completion: no final frame")
    timings = last.data["timings"]
    return Written(
        ttft_ms=first.at_ms,
        decode_ms=last.at_ms - first.at_ms,
        n_steps=last.data["tokens_predicted"] - first.data["tokens_predicted"],
        prompt_tokens=timings["cache_n"] + timings["prompt_n"],
        cached_tokens=timings["cache_n"],
    )


class MlxServer:
    """See `Peer`. `POST /v1/completions` with text, `model` and `adapters` as paths, one adapter at most."""

    name = "mlx_lm.server"

    def __init__(self, port: int, started: Started, rig: Rig) -> None:
        self.pid, self.ready_s = started.pid, started.ready_s
        self._port, self._rig = port, rig

    def write(self, prompt: Prompt, adapters: AdapterSet, max_tokens: int = 1) -> Written:
        body = self._body(prompt, adapters, max_tokens)
        began_ms = cpu_ms(self.pid)
        answer = read_openai(post_stream(self._port, _MLX_PATH, body))
        return replace(answer, cpu_ms=cpu_ms(self.pid) - began_ms)

    def stream(
        self, prompt: Prompt, adapters: AdapterSet, max_tokens: int
    ) -> Generator[Piece, None, None]:
        body = self._body(prompt, adapters, max_tokens)
        with contextlib.closing(post_stream(self._port, _MLX_PATH, body)) as frames:
            for frame in frames:
                yield from (Piece(one["text"], frame.at_ms) for one in frame.data["choices"])

    def leave(self, prompt: Prompt, adapters: AdapterSet, after_s: float) -> None:
        post_and_leave(self._port, _MLX_PATH, self._body(prompt, adapters, 1), after_s)

    def _body(self, prompt: Prompt, adapters: AdapterSet, max_tokens: int) -> dict[str, Any]:
        if len(adapters) > 1 or any(scale != 1.0 for _, scale in adapters):
            raise PeerFailed("mlx_lm.server applies one adapter, at its own scale")
        body: dict[str, Any] = {
            "model": str(self._rig.model),  # without it `adapters` is silently ignored
            "prompt": prompt.text,
            "max_tokens": max_tokens,
            "temperature": 0.0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if adapters:
            body["adapters"] = str(self._rig.adapters[adapters[0][0]].mlx)
        return body


def read_openai(frames: Iterator[Frame]) -> Written:
    """An OpenAI completion stream that ends with a usage frame. cpu_ms is left 0."""
    first = last = next(frames)
    usage: dict[str, Any] | None = first.data.get("usage")
    for frame in frames:
        usage = frame.data.get("usage") or usage
        last = frame if frame.data.get("choices") else last
    if usage is None:
        raise PeerFailed("/v1/completions: no usage frame")
    return Written(
        ttft_ms=first.at_ms,
        decode_ms=last.at_ms - first.at_ms,
        n_steps=usage["completion_tokens"] - 1,
        prompt_tokens=usage["prompt_tokens"],
        cached_tokens=(usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0),
    )


@contextlib.contextmanager
def running_llama_server(rig: Rig, options: LlamaOptions) -> Iterator[LlamaServer]:
    """llama-server over the rig's GGUF on a free loopback port. Raises PeerFailed if it does not start."""
    loras = [str(rig.adapters[name].gguf) for name in options.adapters]
    port = free_port()
    command = [
        str(options.binary),
        *("--model", str(rig.gguf), "--host", "127.0.0.1", "--port", str(port), "--offline"),
        *("--threads", str(options.n_threads), "--threads-batch", str(options.n_threads)),
        *("--ctx-size", str(options.n_ctx * options.n_slots), "--parallel", str(options.n_slots)),
        "--swa-full",
        *(("--lora", ",".join(loras)) if loras else ()),
    ]
    with _started(command, port) as started:
        yield LlamaServer(port, started, options)


@contextlib.contextmanager
def running_mlx_server(rig: Rig) -> Iterator[MlxServer]:
    """`python -m mlx_lm server` over the rig's model. Raises PeerFailed if it does not start."""
    port = free_port()
    command = [
        *("env", "HF_HUB_OFFLINE=1", sys.executable, "-m", "mlx_lm", "server"),
        *("--model", str(rig.model), "--host", "127.0.0.1", "--port", str(port)),
    ]
    with _started(command, port) as started:
        yield MlxServer(port, started, rig)


@dataclass(frozen=True, slots=True)
class Started:
    """A process whose health route answered."""

    pid: int
    ready_s: float


@contextlib.contextmanager
def _started(command: Sequence[str], port: int) -> Iterator[Started]:
    """Run `command`, wait until it is healthy, stop it at the end, whatever happened."""
    with tempfile.TemporaryFile() as words:
        began = time.monotonic()
        process = subprocess.Popen(command, stdout=words, stderr=subprocess.STDOUT)
        try:
            while get_status(port, "/health") != 200:
                if process.poll() is not None or time.monotonic() - began > START_TIMEOUT_S:
                    words.seek(0)
                    told = words.read()[-2000:].decode(errors="replace")
                    raise PeerFailed(f"{command[0]} did not become healthy: {told}")
                time.sleep(POLL_S)
            yield Started(process.pid, time.monotonic() - began)
        finally:
            process.terminate()
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
