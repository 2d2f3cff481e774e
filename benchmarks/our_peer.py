"""Our daemon over the rig, driven as the peers are."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapters.draft import Provenance
from adapters.install import write
from adapters.peft_format import import_peft
from benchmarks.harness import Daemon, Flags, running_daemon
from benchmarks.http_client import Client
from benchmarks.peers_servers import AdapterSet, Piece, Prompt, Written
from benchmarks.true_shape import Rig
from pushkin_runtime.model_store import base_model, open_model

PATIENCE_S = 900.0  # a cold prefill on a slow engine
# What a keystroke asks for is a draft, drawn anew each time; this one as good as never another than the likeliest.
DRAWN = {"sampling": {"temperature": 0.01}}
CONFIG = """\
[runtime]
threads = {n_threads}
context_length = {context_length}
kv_budget_mb = {kv_budget_mb}
[adapters]
adapters_budget_mb = 2048
continue_adapters = "none"
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class OurOptions:
    """How our daemon is started. context_length: of prompt and answer together, in tokens."""

    n_threads: int
    engine: str = "auto"
    context_length: int = 4096
    kv_budget_mb: int = 4096


class Pushkin:
    """See `Peer`. Also keeps what each whole answer said of its adapters (milliseconds)."""

    def __init__(self, daemon: Daemon, client: Client, name: str = "pushkin") -> None:
        self.name = name
        self.pid, self.ready_s = daemon.pid, daemon.ready_s
        self.client = client
        self.adapter_ms: list[float] = []

    def write(self, prompt: Prompt, adapters: AdapterSet, max_tokens: int = 1) -> Written:
        first_ms, done = 0.0, None
        for event in self.client.stream("/v1/continue", _body(prompt, adapters, max_tokens)):
            if event.name == "delta" and not first_ms:
                first_ms = event.at_ms
            if event.name == "done":
                done = event
        assert done is not None
        self.adapter_ms.append(done.data["timings"]["adapter_ms"])
        usage = done.data["usage"]
        first_ms = first_ms or done.at_ms  # a first token that is no text yet
        return Written(
            ttft_ms=first_ms,
            decode_ms=done.at_ms - first_ms,
            n_steps=usage["completion_tokens"] - 1,
            prompt_tokens=usage["prompt_tokens"],
            cached_tokens=usage["cached_tokens"],
        )

    def stream(
        self, prompt: Prompt, adapters: AdapterSet, max_tokens: int
    ) -> Generator[Piece, None, None]:
        body = _body(prompt, adapters, max_tokens) | DRAWN
        events = self.client.stream("/v1/continue", body)
        with contextlib.closing(events):
            for event in events:
                if event.name == "delta":
                    yield Piece(event.data["text"], event.at_ms)

    def leave(self, prompt: Prompt, adapters: AdapterSet, after_s: float) -> None:
        self.client.abandon("/v1/continue", {**_body(prompt, adapters, 1), "stream": True}, after_s)


def _body(prompt: Prompt, adapters: AdapterSet, max_tokens: int) -> dict[str, Any]:
    return {
        "text": prompt.text,
        "max_tokens": max_tokens,
        "sampling": {"temperature": 0},
        "adapters": [{"name": name, "scale": scale} for name, scale in adapters],
    }


@contextlib.contextmanager
def running_pushkin(rig: Rig, options: OurOptions, name: str = "pushkin") -> Iterator[Pushkin]:
    """Our daemon over the rig's model, its adapters installed. Raises RuntimeError if it does not start."""
    prepare = functools.partial(_prepare, rig, options)
    flags: Flags = {"model": str(rig.model.resolve()), "engine": options.engine}
    with (
        running_daemon(flags, prepare) as daemon,
        Client(daemon.target, PATIENCE_S) as client,
    ):
        yield Pushkin(daemon, client, name)


def _prepare(rig: Rig, options: OurOptions, home: Path) -> None:
    content = CONFIG.format(
        n_threads=options.n_threads,
        context_length=options.context_length,
        kv_budget_mb=options.kv_budget_mb,
    )
    (home / "config.toml").write_text(content)
    base = base_model(open_model(rig.model))
    for name, paths in rig.adapters.items():
        draft = import_peft(paths.peft, name=name, base=base, provenance=Provenance())
        write(draft, home / "adapters")
