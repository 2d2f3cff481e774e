"""What changing adapters costs here and elsewhere, at the shape of Gemma 3 4B.

`python -m benchmarks.adapter_swap --rig DIR [--llama-server PATH] [--mlx-rig DIR]` over rigs that
`benchmarks.true_shape` built: our daemon, and in the same run the peers, each asked the same documents.
"""

from __future__ import annotations

import argparse
import signal
import sys
from dataclasses import replace
from pathlib import Path

import psutil

from benchmarks.harness import (
    Figure,
    Report,
    describe_environment,
    figure,
    memory_bandwidth_gb_s,
    publish,
    say,
)
from benchmarks.our_peer import OurOptions, running_pushkin
from benchmarks.peers import (
    Plan,
    Section,
    documents,
    measure_decode,
    measure_llama,
    measure_mlx,
    measure_switch,
)
from benchmarks.peers_servers import AdapterSet, Prompt
from benchmarks.true_shape import Rig, open_rig

SWAP_BAR_MS = 5.0
DISK_BAR_MS = 150.0
DECODE_BARS_PERCENT = {"one": 20.0, "two": 30.0}
REPEATS_FROM_DISK = 7


def main() -> int:
    """Run; never fails for a figure."""
    arguments = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that no server is left behind
    plan = Plan(
        n_tokens=arguments.prompt_tokens,
        repeats=arguments.repeats,
        decode_tokens=arguments.decode_tokens,
    )
    rig = open_rig(arguments.rig)
    ours = OurOptions(n_threads=arguments.threads, engine=arguments.engine)
    figures, sections, status = measure_ours(rig, ours, plan)
    if arguments.llama_server:
        sections += measure_llama(rig, arguments.llama_server, arguments.threads, plan)
    if arguments.mlx_rig:
        short = Plan(
            n_tokens=2, repeats=1, decode_tokens=0
        )  # its CPU backend takes minutes for more
        sections += measure_mlx(open_rig(arguments.mlx_rig), short)
    for name, samples in sections:
        figures |= samples.figures(name)
    for number, bar in DECODE_BARS_PERCENT.items():
        name = f"pushkin.decode_{number}_cost_percent"
        figures[name] = replace(figures[name], bar=bar)
    publish(
        Report(
            benchmark="adapter_swap",
            environment=describe_environment(status) | {"n_threads": arguments.threads},
            figures=figures,
            counts={
                "ratios": ratios(figures),
                "samples": {name: samples.samples() for name, samples in sections},
                "bandwidth_gb_s_one_thread": round(memory_bandwidth_gb_s(1 << 30), 1),
                "load_average_after": [round(x, 2) for x in psutil.getloadavg()],
            },
            notes=(
                "switch: an adapter this document has not seen; back: one it has. A switch that costs "
                "nothing has back = warm.",
                "swap_from_disk_ms: a 61 MB adapter whose file is in the page cache: read, SHA-256, finite, "
                "stacked, brought into the engine.",
                "A merged model is an ordinary one: its decode cost is 0 % by construction.",
            ),
        ),
        quiet=arguments.json,
    )
    return 0


def measure_ours(
    rig: Rig, ours: OurOptions, plan: Plan
) -> tuple[dict[str, Figure], list[Section], dict[str, object]]:
    """Our daemon's figures, sections like the peers', and its status."""
    a, b, small = list(rig.adapters)
    prompts = documents(rig, plan.n_tokens, plan.repeats + 1)
    with running_pushkin(rig, ours) as peer:
        say(f"pushkin: ready in {peer.ready_s:.1f} s")
        client = peer.client
        status = client.call("GET", "/v1/status").data
        for name in (a, b):
            client.call("POST", f"/v1/adapters/{name}/load", {"pinned": True})
        switched = measure_switch(peer, prompts, ((a, 1.0),), ((b, 1.0),))
        resident_ms = peer.adapter_ms[4:]  # the first document is not counted
        sets: tuple[AdapterSet, AdapterSet] = (((a, 1.0),), ((a, 0.5), (b, 0.5)))
        decoded = measure_decode(
            peer, prompts[0], sets, n_tokens=plan.decode_tokens, repeats=plan.repeats
        )
        disk_ms = []
        for _ in range(REPEATS_FROM_DISK):
            client.call("POST", f"/v1/adapters/{small}/unload", {})
            peer.write(Prompt((), "A"), ((small, 1.0),))
            disk_ms.append(peer.adapter_ms[-1])
    figures = {
        "pushkin.swap_resident_ms": figure(resident_ms, "ms", bar=SWAP_BAR_MS),
        "pushkin.swap_from_disk_ms": figure(disk_ms, "ms", bar=DISK_BAR_MS),
    }
    return figures, [("pushkin", switched), ("pushkin", decoded)], status


def ratios(figures: dict[str, Figure]) -> dict[str, float]:
    """Going back to a known adapter against the warm time, for each server; and ours against theirs."""
    found: dict[str, float] = {}
    for name in {key.removesuffix(".back_ttft_ms") for key in figures if "back_ttft" in key}:
        back, warm = figures[f"{name}.back_ttft_ms"], figures[f"{name}.warm_ttft_ms"]
        found[f"{name}: back / warm"] = round(back.median / warm.median, 3)
        if name != "pushkin":
            ours = figures["pushkin.back_ttft_ms"].median
            found[f"pushkin back / {name} back"] = round(ours / back.median, 4)
    return dict(sorted(found.items()))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="no table on stderr")
    parser.add_argument("--rig", type=Path, required=True, help="built by benchmarks.true_shape")
    parser.add_argument("--llama-server", type=Path, help="see benchmarks.peers_servers")
    parser.add_argument("--mlx-rig", type=Path, help="a rig for mlx_lm.server, few layers on a CPU")
    parser.add_argument("--engine", default="auto", help="of our daemon")
    parser.add_argument("--threads", type=int, default=psutil.cpu_count(logical=False) or 1)
    parser.add_argument("--prompt-tokens", type=int, default=512)
    parser.add_argument("--decode-tokens", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=5)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
