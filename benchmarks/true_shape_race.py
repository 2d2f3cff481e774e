"""Our daemon against llama-server and mlx_lm.server, at the shape of Gemma 3 4B, beside the machine's limits.

    python -m benchmarks.true_shape_race --rig DIR --llama-server PATH [--engine NAME]... [--quick]

builds the rig in DIR if there is none, starts one server after the other, replays the same typing on a document of 3,000
tokens against each, and prints figures, ratios and each figure's share of what the machine can do; two plots are put
beside them. `--run NAME` runs single servers: what others did earlier is read from the same folder, so a machine that is
seldom quiet can be measured in pieces; each piece has its own limits, which tell how far the machine itself has drifted.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil

from benchmarks.harness import publish, say
from benchmarks.machine_limits import measure_limits
from benchmarks.our_peer import OurOptions, running_pushkin
from benchmarks.peers_http import PeerFailed
from benchmarks.peers_servers import (
    LlamaOptions,
    Peer,
    running_llama_server,
    running_mlx_server,
)
from benchmarks.race import LENGTHS, Race, RacePlan, RaceSamples
from benchmarks.race_report import bounds_of, plot_lengths, plot_race, race_report
from benchmarks.race_trace import TraceOptions
from benchmarks.true_shape import SHAPES, Rig, build, open_rig
from pushkin_runtime.engines.registry import choose_engine

LLAMA, MLX = "llama-server", "mlx_lm.server"
TOKENS, QUICK_TOKENS = 3000, 1500
QUICK_BUDGET_S = 255.0  # of each of two servers: nine minutes with loading and limits
NOTES = (
    "TTFT is the client's, connection included, to the first text; each keystroke ends the suggestion before it.",
    "delete_word: the caret in the middle. return: to the end of the text as it was. edited_end: to the end, a word fewer "
    "on the way. back: to the text without an adapter after switching to one.",
    "llama-server has one slot, as the editor uses it, --swa-full, its prompt cache in memory, and adapters loaded.",
    "ready_s is from the start of the process, files in the page cache; ours includes Python and its imports.",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run; 1 when a server failed, never because one was slow."""
    arguments = _arguments(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that no server is left behind
    rig = _rig(arguments)
    out: Path = arguments.out or arguments.rig / "race"
    out.mkdir(exist_ok=True)
    plan = _plan(arguments)
    failed = False
    for name in arguments.run or _competitors(arguments):
        try:
            _run(name, rig, plan, arguments, out)
        except (PeerFailed, RuntimeError) as error:
            say(f"{name} failed: {error}")
            failed = True
    _report(rig, out, quiet=arguments.json)
    return 1 if failed else 0


def _run(name: str, rig: Rig, plan: RacePlan, arguments: argparse.Namespace, out: Path) -> None:
    """Measure the machine's limits, then one server, and keep what came of it in `out`."""
    _read_into_page_cache(rig, name)
    limits = measure_limits(arguments.threads)
    with _running(name, rig, plan, arguments) as peer:
        say(f"{peer.name}: ready in {peer.ready_s:.1f} s")
        samples = Race(peer, rig, plan).run()
    samples.limits = limits
    (out / f"{name}.json").write_text(json.dumps(samples.as_json(), indent=1))


@contextlib.contextmanager
def _running(name: str, rig: Rig, plan: RacePlan, arguments: argparse.Namespace) -> Iterator[Peer]:
    if name == LLAMA:
        options = LlamaOptions(
            binary=arguments.llama_server,
            n_threads=arguments.threads,
            adapters=tuple(list(rig.adapters)[:1]),
            n_ctx=-(-plan.longest // 256) * 256,
        )
        with running_llama_server(rig, options) as peer:
            yield peer
    elif name == MLX:
        with running_mlx_server(rig) as mlx:
            yield mlx
    else:
        ours = OurOptions(
            n_threads=arguments.threads, engine=name, context_length=plan.longest + 64
        )
        with running_pushkin(rig, ours, f"pushkin-{name}") as own:
            yield own


def _report(rig: Rig, out: Path, *, quiet: bool) -> None:
    """Print what is known of all that ran, now or before, and draw it."""
    found = [
        RaceSamples.from_json(json.loads(file.read_text())) for file in sorted(out.glob("*.json"))
    ]
    publish(race_report(rig, found, NOTES), quiet=quiet)
    if not found:
        return
    bounds: dict[str, float] = {}
    for one in found:
        for name, (limit, _) in bounds_of(rig, one).items():
            bounds[name] = max(limit, bounds.get(name, 0.0))
    plot_race(found, bounds, out / "race.png")
    if any(one.by_length for one in found):
        plot_lengths(found, out / "lengths.png")
    say(f"plots and samples: {out}")


def _rig(arguments: argparse.Namespace) -> Rig:
    if not (arguments.rig / "rig.json").is_file():
        say(f"building the rig in {arguments.rig}: a minute or two, once")
        return build(arguments.rig, arguments.shape)
    return open_rig(arguments.rig)


def _read_into_page_cache(rig: Rig, name: str) -> None:
    files = [rig.gguf] if name == LLAMA else sorted(rig.model.glob("*.safetensors"))
    for file in files:
        with file.open("rb") as opened:
            while opened.read(1 << 24):
                pass


def _competitors(arguments: argparse.Namespace) -> list[str]:
    names = list(arguments.engine)
    names += [LLAMA] if arguments.llama_server else []
    return [*names, MLX] if arguments.mlx else names


def _plan(arguments: argparse.Namespace) -> RacePlan:
    quick: bool = arguments.quick
    n_tokens: int = (
        arguments.tokens if arguments.tokens is not None else (QUICK_TOKENS if quick else TOKENS)
    )
    lengths = tuple(n for n in LENGTHS if n <= arguments.longest)
    return RacePlan(
        trace=TraceOptions(
            n_tokens=n_tokens,
            n_keys=arguments.keys,
            n_deletions=5,
            tail_tokens=n_tokens // 12 if quick else n_tokens // 2,
        ),
        is_patient=not quick,
        prefill_tokens=256 if quick else 512,
        decode_tokens=12 if quick else 32,
        repeats=1 if quick else 3,
        lengths=lengths if not quick or arguments.longest_given else (),
        budget_s=arguments.budget_s or (QUICK_BUDGET_S if quick else None),
    )


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="no table on stderr")
    parser.add_argument("--rig", type=Path, required=True, help="folder of the rig; built if new")
    parser.add_argument("--shape", choices=list(SHAPES), default="4b", help="of a rig to build")
    parser.add_argument(
        "--llama-server", type=Path, help="the binary; see benchmarks.peers_servers"
    )
    parser.add_argument("--mlx", action="store_true", help="mlx_lm.server too: hours without Metal")
    parser.add_argument(
        "--engine",
        action="append",
        help="of our daemon; repeatable; the one this machine chooses if none",
    )
    parser.add_argument("--run", action="append", help="only this engine or server")
    parser.add_argument("--quick", action="store_true", help="nine minutes for one engine at 4B")
    parser.add_argument("--threads", type=int, default=psutil.cpu_count() or 1)
    parser.add_argument(
        "--tokens",
        type=int,
        help=f"of the document; {TOKENS}, or {QUICK_TOKENS} with --quick; 0 for no typing",
    )
    parser.add_argument("--keys", type=int, default=40, help="typed at its end")
    parser.add_argument(
        "--longest", type=int, help="context of the curve, tokens; 8192, 0 for none"
    )
    parser.add_argument("--budget-s", type=float, help="seconds for each server")
    parser.add_argument("--out", type=Path, help="folder of samples and plots; race/ in the rig")
    arguments = parser.parse_args(argv)
    arguments.engine = arguments.engine or [choose_engine("auto").name]
    arguments.longest_given = arguments.longest is not None
    arguments.longest = LENGTHS[-1] if arguments.longest is None else arguments.longest
    if arguments.run and LLAMA in arguments.run and not arguments.llama_server:
        parser.error(f"--run {LLAMA} needs --llama-server PATH")
    return arguments


if __name__ == "__main__":
    sys.exit(main())
