"""What an adapter costs other servers: switching on a warm document, decoding, loading a new one.

`python -m benchmarks.peers --rig DIR --llama-server PATH [--mlx-rig DIR]` over rigs that
`benchmarks.true_shape` built. The functions are for other benchmarks too; each returns its samples.
"""

from __future__ import annotations

import argparse
import functools
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import psutil
from tokenizers import Tokenizer

from benchmarks.harness import Figure, Report, describe_environment, figure, publish, say
from benchmarks.peers_http import PeerFailed
from benchmarks.peers_servers import (
    AdapterSet,
    LlamaOptions,
    Peer,
    Prompt,
    Written,
    running_llama_server,
    running_mlx_server,
)
from benchmarks.true_shape import Rig, open_rig
from benchmarks.typing_trace import LANGUAGES, read_script

BARE: AdapterSet = ()


@dataclass(frozen=True, slots=True)
class SwitchSamples:
    """One entry for each document, all of the same length, each asked four times in this order.

    cold: adapter A, document new. warm: A again. switch: B, which this document has not seen.
    back: A again. A switch that costs nothing has back = warm.
    """

    cold: tuple[Written, ...]
    warm: tuple[Written, ...]
    switch: tuple[Written, ...]
    back: tuple[Written, ...]

    def figures(self, prefix: str) -> dict[str, Figure]:
        """Time to first token of each step."""
        return {
            f"{prefix}.{step.name}_ttft_ms": figure(
                [written.ttft_ms for written in getattr(self, step.name)], "ms"
            )
            for step in fields(self)
        }

    def samples(self) -> dict[str, Any]:
        """Every measurement, in the order of the documents."""
        return {step.name: _listed(getattr(self, step.name)) for step in fields(self)}


@dataclass(frozen=True, slots=True)
class DecodeSamples:
    """Decoding after a warm prompt, by number of adapters; taken in turn, so that drift cancels."""

    bare: tuple[Written, ...]
    one: tuple[Written, ...]
    two: tuple[Written, ...]

    def figures(self, prefix: str) -> dict[str, Figure]:
        """Decode speed bare, with one and two adapters, and what they add to a token's time."""
        speeds = {
            step.name: [written.tokens_per_second for written in getattr(self, step.name)]
            for step in fields(self)
        }
        found = {
            f"{prefix}.decode_{name}_tok_s": figure(of, "tok/s") for name, of in speeds.items()
        }
        for name in ("one", "two"):
            slower = [
                (bare / adapted - 1) * 100
                for bare, adapted in zip(speeds["bare"], speeds[name], strict=True)
            ]
            found[f"{prefix}.decode_{name}_cost_percent"] = figure(slower, "%")
        return found

    def samples(self) -> dict[str, Any]:
        """Every measurement, in the order taken."""
        return {
            step.name: {
                "tok_s": [round(one.tokens_per_second, 3) for one in getattr(self, step.name)],
                "cpu_ms_per_step": [
                    round(one.cpu_ms / (one.n_steps + 1), 1) for one in getattr(self, step.name)
                ],
            }
            for step in fields(self)
        }


@dataclass(frozen=True, slots=True)
class RestartSamples:
    """Starts of the server: until healthy, then until the first token of the document."""

    ready_s: tuple[float, ...]
    first: tuple[Written, ...]

    def figures(self, prefix: str) -> dict[str, Figure]:
        """Both, and their sum: what a new adapter costs a server that loads adapters at start."""
        total = [s + w.ttft_ms / 1000 for s, w in zip(self.ready_s, self.first, strict=True)]
        return {
            f"{prefix}.ready_s": figure(self.ready_s, "s"),
            f"{prefix}.first_ttft_ms": figure([w.ttft_ms for w in self.first], "ms"),
            f"{prefix}.total_s": figure(total, "s"),
        }

    def samples(self) -> dict[str, Any]:
        """Every start."""
        return {"ready_s": [round(s, 3) for s in self.ready_s], "first": _listed(self.first)}


def _listed(written: Sequence[Written]) -> dict[str, Any]:
    return {
        "ttft_ms": [round(one.ttft_ms, 1) for one in written],
        "cpu_ms": [round(one.cpu_ms) for one in written],
        "prompt_tokens": [one.prompt_tokens for one in written],
        "cached_tokens": [one.cached_tokens for one in written],
    }


def documents(rig: Rig, n_tokens: int, n: int) -> list[Prompt]:
    """`n` documents of about `n_tokens` tokens that differ from their first words on."""
    tokenizer = Tokenizer.from_file(str(rig.model / "tokenizer.json"))
    bos = tokenizer.encode("").ids  # what the tokenizer itself puts first
    text = " ".join(read_script(LANGUAGES[0])["before"].split())
    words = (text + " ") * (1 + n_tokens * 8 // len(text))
    prompts = []
    for number in range(n):
        ids = tokenizer.encode(f"{number}. {words}", add_special_tokens=False).ids
        kept = ids[: n_tokens - len(bos)]
        prompts.append(Prompt((*bos, *kept), tokenizer.decode(kept)))
    return prompts


def measure_switch(
    peer: Peer, prompts: Sequence[Prompt], a: AdapterSet, b: AdapterSet
) -> SwitchSamples:
    """Ask each document for one token with A, A, B, A. The first document is not counted."""
    steps: tuple[list[Written], ...] = ([], [], [], [])
    for number, prompt in enumerate(prompts):
        taken = [peer.write(prompt, adapters) for adapters in (a, a, b, a)]
        say(f"{peer.name}: {' '.join(f'{written.ttft_ms:.0f}' for written in taken)} ms")
        for step, written in zip(steps, taken, strict=True):
            step.extend([written] if number else [])
    cold, warm, switch, back = (tuple(step) for step in steps)
    return SwitchSamples(cold, warm, switch, back)


def measure_decode(
    peer: Peer, prompt: Prompt, sets: tuple[AdapterSet, AdapterSet], *, n_tokens: int, repeats: int
) -> DecodeSamples:
    """Decode bare, with sets[0] (one adapter) and sets[1] (two), in turn, `repeats` times each."""
    order = (BARE, *sets)
    for adapters in order:
        peer.write(prompt, adapters)
    taken: dict[AdapterSet, list[Written]] = {adapters: [] for adapters in order}
    for number in range(repeats):
        for adapters in order if number % 2 == 0 else order[::-1]:
            taken[adapters].append(peer.write(prompt, adapters, n_tokens))
        last = " ".join(f"{of[-1].tokens_per_second:.2f}" for of in taken.values())
        say(f"{peer.name}: {last} tok/s")
    bare, one, two = (tuple(taken[adapters]) for adapters in order)
    return DecodeSamples(bare, one, two)


def measure_restart(
    start: Callable[[], AbstractContextManager[Peer]],
    prompt: Prompt,
    adapters: AdapterSet,
    repeats: int,
) -> RestartSamples:
    """Start the server, ask it once, stop it; files are in the page cache after the first, uncounted, time."""
    ready: list[float] = []
    first: list[Written] = []
    for number in range(repeats + 1):
        with start() as peer:
            written = peer.write(prompt, adapters)
            if number:
                ready.append(peer.ready_s)
                first.append(written)
                say(f"{peer.name}: ready {peer.ready_s:.2f} s, first {written.ttft_ms:.0f} ms")
    return RestartSamples(tuple(ready), tuple(first))


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much to measure. n_tokens: of each document."""

    n_tokens: int
    repeats: int
    decode_tokens: int


Section = tuple[str, SwitchSamples | DecodeSamples | RestartSamples]


def measure_llama(rig: Rig, binary: Path, n_threads: int, plan: Plan) -> list[Section]:
    """llama-server's figures: one slot (what the editor has), a slot to each adapter set, restarts."""
    a, b = list(rig.adapters)[:2]
    only_a, only_b, both = ((a, 1.0),), ((b, 1.0),), ((a, 0.5), (b, 0.5))

    def options(n_slots: int, adapters: tuple[str, ...] = (a, b)) -> LlamaOptions:
        n_ctx = -(-(plan.n_tokens + plan.decode_tokens + 64) // 256) * 256
        return LlamaOptions(
            binary=binary, n_threads=n_threads, adapters=adapters, n_slots=n_slots, n_ctx=n_ctx
        )

    prompts = documents(rig, plan.n_tokens, plan.repeats + 1)
    sections: list[Section] = []
    with running_llama_server(rig, options(1)) as peer:
        found = measure_switch(peer, prompts, only_a, only_b)
        sections.append(("llama-server.one_slot", found))
    with running_llama_server(rig, options(4)) as peer:  # bare, A, B, A and B
        found = measure_switch(peer, prompts, only_a, only_b)
        sections.append(("llama-server.slot_per_adapter", found))
        decoded = measure_decode(
            peer,
            prompts[0],
            (only_a, both),
            n_tokens=plan.decode_tokens,
            repeats=plan.repeats,
        )
        sections.append(("llama-server", decoded))
    for name, adapters in (("restart_two_adapters", (a, b)), ("restart_bare", ())):
        wanted = only_a if adapters else BARE
        restarts = measure_restart(
            functools.partial(running_llama_server, rig, options(1, adapters)),
            prompts[0],
            wanted,
            plan.repeats,
        )
        sections.append((f"llama-server.{name}", restarts))
    return sections


def measure_mlx(rig: Rig, plan: Plan) -> list[Section]:
    """mlx_lm.server's switch: `adapters` by path reloads the base; cold is the same prefill without it."""
    a, b = list(rig.adapters)[:2]
    with running_mlx_server(rig) as peer:
        prompts = documents(rig, plan.n_tokens, plan.repeats + 1)
        found = measure_switch(peer, prompts, ((a, 1.0),), ((b, 1.0),))
    return [(f"mlx_lm.server.{rig.n_layers}_layers_{plan.n_tokens}_tokens", found)]


def main() -> int:
    """Run; 1 when a peer failed, never because one was slow."""
    arguments = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that no server is left behind
    loads = {"before": _load()}
    plan = Plan(
        n_tokens=arguments.prompt_tokens,
        repeats=arguments.repeats,
        decode_tokens=arguments.decode_tokens,
    )
    sections: list[Section] = []
    rigs: dict[str, Rig] = {}
    try:
        if arguments.llama_server:
            rig = rigs["llama-server"] = open_rig(arguments.rig)
            sections += measure_llama(rig, arguments.llama_server, arguments.threads, plan)
            loads["after llama-server"] = _load()
        if arguments.mlx_rig:
            rig = rigs["mlx_lm.server"] = open_rig(arguments.mlx_rig)
            short = Plan(
                n_tokens=arguments.mlx_prompt_tokens, repeats=plan.repeats, decode_tokens=0
            )
            sections += measure_mlx(rig, short)
            loads["after mlx_lm.server"] = _load()
    except (PeerFailed, FileNotFoundError) as error:
        say(f"failed: {error}")
        return 1
    publish(_report(sections, rigs, arguments.threads, loads), quiet=arguments.json)
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="no table on stderr")
    parser.add_argument("--rig", type=Path, help="built by benchmarks.true_shape")
    parser.add_argument(
        "--llama-server", type=Path, help="the binary; see benchmarks.peers_servers"
    )
    parser.add_argument("--mlx-rig", type=Path, help="a rig for mlx_lm.server, few layers on a CPU")
    parser.add_argument("--threads", type=int, default=psutil.cpu_count(logical=False) or 1)
    parser.add_argument("--prompt-tokens", type=int, default=512)
    parser.add_argument("--mlx-prompt-tokens", type=int, default=32)
    parser.add_argument("--decode-tokens", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    if bool(arguments.llama_server) != bool(arguments.rig):
        parser.error("--llama-server and --rig go together")
    if not (arguments.rig or arguments.mlx_rig):
        parser.error("nothing to measure: give --llama-server and --rig, or --mlx-rig")
    return arguments


def _load() -> list[float]:
    return [round(x, 2) for x in psutil.getloadavg()]


def _report(
    sections: Sequence[Section], rigs: dict[str, Rig], n_threads: int, loads: dict[str, list[float]]
) -> Report:
    rig = next(iter(rigs.values()))
    status: dict[str, Any] = {
        "engine": {"name": " and ".join(rigs)},
        "model": {
            "id": f"true shape {rig.shape}, random INT4",
            "digest": None,
            "n_bytes": rig.gguf.stat().st_size,
            "n_parameters": rig.n_parameters,
        },
    }
    figures: dict[str, Figure] = {}
    for name, samples in sections:
        figures |= samples.figures(name)
    return Report(
        benchmark="peers",
        environment=describe_environment(status) | {"n_threads_of_llama_server": n_threads},
        figures=figures,
        counts={
            "load_average": loads,
            "layers": {name: rig.n_layers for name, rig in rigs.items()},
            "samples": {name: samples.samples() for name, samples in sections},
        },
        notes=(
            "Time to first token is the client's, connection included; token counts are the server's.",
            "cpu_ms in the samples is the server's own: where it is far below threads times the wall "
            "time, the machine was shared and the figure says little.",
            "one_slot: one KV cache, an adapter switch clears it. slot_per_adapter: a client that pins "
            "each adapter to a slot (id_slot), so that only the first use of each prefills.",
            "mlx_lm.server: switch - cold is the reload of the base; its CPU backend is no fair rival "
            "on compute, so the prompt is short and the number of layers is in the figure's name.",
        ),
    )


if __name__ == "__main__":
    sys.exit(main())
