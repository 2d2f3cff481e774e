"""The peers' side of a benchmark: what we send them, what we read from them, over real HTTP."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from benchmarks.peers import (
    BARE,
    DecodeSamples,
    documents,
    measure_decode,
    measure_restart,
    measure_switch,
)
from benchmarks.peers_http import PeerFailed
from benchmarks.peers_servers import (
    AdapterSet,
    LlamaOptions,
    LlamaServer,
    MlxServer,
    Prompt,
    Started,
    Written,
    running_llama_server,
)
from benchmarks.true_shape import Rig, build

PROMPT = Prompt((2, 300, 301), "two words")
A: AdapterSet = (("r4-a", 1.0),)
B: AdapterSet = (("r4-b", 1.0),)
STARTED = Started(pid=os.getpid(), ready_s=0.0)
Answer = Callable[[dict[str, Any]], tuple[int, list[str]]]
"""Request body → status and the pieces of the answer's body."""


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Rig:
    """The tiny rig."""
    return build(tmp_path_factory.mktemp("rigs") / "tiny", "tiny")


@pytest.fixture
def serve() -> Iterator[Callable[[Answer], int]]:
    """`serve(answer)` starts a server on the loopback and returns its port."""
    servers: list[ThreadingHTTPServer] = []

    def start(answer: Answer) -> int:
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                status, pieces = answer(body)
                self.send_response(status)
                self.send_header("Content-Type", "text/event-stream")
                self.end_headers()
                for piece in pieces:
                    self.wfile.write(piece.encode())
                    self.wfile.flush()

            def log_message(self, format: str, *args: object) -> None:
                """Say nothing."""

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        servers.append(server)
        return int(server.server_address[1])

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def frame(data: dict[str, Any]) -> str:
    """One server-sent event."""
    return f"data: {json.dumps(data)}\n\n"


def llama_answer(body: dict[str, Any], cached: int = 0) -> tuple[int, list[str]]:
    """llama-server's answer to `body`, as recorded, with a ping in between."""
    n = body["n_predict"]
    partial = [
        frame({"index": 0, "content": "x", "tokens": [5], "stop": False, "tokens_predicted": i + 1})
        for i in range(n)
    ]
    timings = {"cache_n": cached, "prompt_n": len(body["prompt"]) - cached}
    final = {"content": "", "tokens": [], "stop": True, "tokens_predicted": n, "timings": timings}
    return 200, [partial[0], ":\n\n", *partial[1:], frame(final)]


def llama(port: int, n_slots: int = 1) -> LlamaServer:
    """A client of a running llama-server that has both tiny adapters."""
    options = LlamaOptions(
        binary=Path("llama-server"), n_threads=1, adapters=("r4-a", "r4-b"), n_slots=n_slots
    )
    return LlamaServer(port, STARTED, options)


def test_llama_servers_stream_is_read(serve: Callable[[Answer], int]) -> None:
    port = serve(lambda body: llama_answer(body, cached=2))
    written = llama(port).write(PROMPT, A, max_tokens=4)

    assert (written.n_steps, written.prompt_tokens, written.cached_tokens) == (3, 3, 2)
    assert 0 < written.ttft_ms < 5000
    assert written.decode_ms > 0


def test_llama_server_is_told_the_scale_of_every_adapter(serve: Callable[[Answer], int]) -> None:
    bodies: list[dict[str, Any]] = []

    def answer(body: dict[str, Any]) -> tuple[int, list[str]]:
        bodies.append(body)
        return llama_answer(body)

    peer = llama(serve(answer), n_slots=2)
    for adapters in (BARE, B, BARE):
        peer.write(PROMPT, adapters)

    none, only_b = ([{"id": 0, "scale": 0.0}, {"id": 1, "scale": s}] for s in (0.0, 1.0))
    assert [body["lora"] for body in bodies] == [none, only_b, none]
    assert [body["id_slot"] for body in bodies] == [0, 1, 0]
    assert bodies[0]["prompt"] == list(PROMPT.tokens)
    with pytest.raises(PeerFailed, match="not loaded at start: other"):
        peer.write(PROMPT, (("other", 1.0),))
    with pytest.raises(PeerFailed, match="2 slots, but one more adapter set"):
        peer.write(PROMPT, A)


def test_mlx_lms_stream_is_read_and_it_is_told_model_and_adapter_by_path(
    serve: Callable[[Answer], int], rig: Rig
) -> None:
    bodies: list[dict[str, Any]] = []

    def answer(body: dict[str, Any]) -> tuple[int, list[str]]:
        bodies.append(body)
        text = {"choices": [{"text": "x", "finish_reason": None}]}
        end = {"choices": [{"text": "", "finish_reason": "length"}]}
        usage = {
            "choices": [],
            "usage": {
                "prompt_tokens": 7,
                "completion_tokens": 2,
                "prompt_tokens_details": {"cached_tokens": 6},
            },
        }
        progress = ": keepalive 3/7\n\n"
        return 200, [progress, frame(text), frame(text), frame(end), frame(usage), "data: [DONE]\n"]

    peer = MlxServer(serve(answer), STARTED, rig)
    written = peer.write(PROMPT, A, max_tokens=2)
    peer.write(PROMPT, BARE)

    assert (written.n_steps, written.prompt_tokens, written.cached_tokens) == (1, 7, 6)
    assert (bodies[0]["model"], bodies[0]["prompt"]) == (str(rig.model), PROMPT.text)
    assert Path(bodies[0]["adapters"]) == rig.adapters["r4-a"].mlx
    assert "adapters" not in bodies[1]
    with pytest.raises(PeerFailed, match="one adapter"):
        peer.write(PROMPT, A + B)


@pytest.mark.parametrize(
    ("status", "pieces", "words"),
    [
        (400, ['{"error": {"message": "no such slot"}}'], "400: .*no such slot"),
        (200, [frame({"error": {"message": "out of memory"}})], "out of memory"),
        (200, [frame({"content": "x", "stop": False, "tokens_predicted": 1})], "no final frame"),
        (200, [], "without a frame"),
        (200, ["data: {not json\n\n"], "broke off"),
    ],
)
def test_a_failure_is_said(
    serve: Callable[[Answer], int], status: int, pieces: list[str], words: str
) -> None:
    with pytest.raises(PeerFailed, match=words):
        llama(serve(lambda body: (status, pieces))).write(PROMPT, BARE)


def test_a_server_that_does_not_start_is_said_with_its_words(rig: Rig, tmp_path: Path) -> None:
    broken = tmp_path / "llama-server"
    broken.write_text("#!/bin/sh\necho no such model >&2\nexit 3\n")
    broken.chmod(0o755)
    options = LlamaOptions(binary=broken, n_threads=1)
    with pytest.raises(PeerFailed, match="no such model"), running_llama_server(rig, options):
        pytest.fail("a server that ended is not running")


def test_switching_is_measured_on_each_document_but_the_first(
    serve: Callable[[Answer], int],
) -> None:
    """The planted server keeps one KV cache and drops it when the adapters change, as llama-server does."""
    last: list[tuple[Any, Any]] = [(None, None)]

    def answer(body: dict[str, Any]) -> tuple[int, list[str]]:
        state = (body["prompt"], body["lora"])
        cached = len(body["prompt"]) - 1 if last[0] == state else 0
        last[0] = state
        return llama_answer(body, cached)

    prompts = [Prompt((2, number, 9), "") for number in range(3)]
    found = measure_switch(llama(serve(answer)), prompts, A, B)

    cached = {step: values["cached_tokens"] for step, values in found.samples().items()}
    assert cached == {"cold": [0, 0], "warm": [2, 2], "switch": [0, 0], "back": [0, 0]}
    assert {name: value.n for name, value in found.figures("p").items()} == {
        f"p.{step}_ttft_ms": 2 for step in ("cold", "warm", "switch", "back")
    }


def written(decode_ms: float) -> Written:
    """One answer of ten tokens after the first."""
    return Written(
        ttft_ms=1.0, decode_ms=decode_ms, n_steps=10, cpu_ms=1.0, prompt_tokens=3, cached_tokens=2
    )


def test_decoding_is_compared_within_each_round() -> None:
    bare, one, two = ((written(ms), written(ms / 2)) for ms in (1000, 1250, 2000))
    found = DecodeSamples(bare, one, two).figures("p")

    assert found["p.decode_bare_tok_s"].median == 15
    assert (found["p.decode_one_cost_percent"].min, found["p.decode_one_cost_percent"].p95) == (
        25,
        25,
    )
    assert found["p.decode_two_cost_percent"].median == 100


def test_documents_have_the_length_asked_for_and_differ_from_the_start(rig: Rig) -> None:
    first, second = documents(rig, 100, 2)

    assert len(first.tokens) == len(second.tokens) == 100
    assert first.tokens[0] == second.tokens[0] == 2  # <bos>
    assert first.text[0] != second.text[0]


def test_a_real_llama_server_runs_the_rig_with_its_adapters(rig: Rig) -> None:
    found = os.environ.get("LLAMA_SERVER") or shutil.which("llama-server")
    if found is None:
        pytest.skip(
            "no llama-server on PATH or in LLAMA_SERVER: benchmarks/peers_servers.py builds one"
        )
    options = LlamaOptions(
        binary=Path(found), n_threads=1, adapters=("r4-a", "r4-b"), n_slots=4, n_ctx=256
    )

    with running_llama_server(rig, options) as peer:
        switched = measure_switch(peer, documents(rig, 64, 2), A, B)
        decoded = measure_decode(peer, documents(rig, 64, 1)[0], (A, A + B), n_tokens=4, repeats=1)
    restarted = measure_restart(
        lambda: running_llama_server(rig, options), documents(rig, 64, 1)[0], A, 1
    )

    assert switched.warm[0].cached_tokens == switched.back[0].cached_tokens == 63
    assert switched.switch[0].cached_tokens < 63, "another adapter's cache was used"
    assert all(one.n_steps == 3 for one in decoded.bare + decoded.one + decoded.two)
    assert switched.cold[0].cpu_ms >= 0
    assert restarted.first[0].prompt_tokens == 64
