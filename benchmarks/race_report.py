"""What the race comes to: figures beside the machine's limits, ratios against each peer, and two plots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

from benchmarks.harness import Figure, Report, describe_machine, figure
from benchmarks.race import RaceSamples
from benchmarks.race_trace import Phase
from benchmarks.true_shape import Rig
from pushkin_runtime.model_store import expected_shapes, open_model

# Ours by theirs: times are to be at most this, speeds at least.
BARS = {
    "type TTFT p50": 0.7,
    "type TTFT p95": 0.7,
    "edited_end TTFT p50": 0.3,
    "return TTFT p50": 0.3,
    "back TTFT p50": 0.1,
    "decode_bare tok/s": 0.95,
    "prefill_long tok/s": 0.95,
    "decode_adapter tok/s": 0.9,
}
DECODE_SHARE_BAR = 0.65
PHASES: tuple[Phase, ...] = get_args(Phase)


def race_report(rig: Rig, found: Sequence[RaceSamples], notes: Sequence[str]) -> Report:
    """Summarise servers that ran the same trace on the same machine."""
    figures: dict[str, Figure] = {}
    for samples in found:
        figures |= _figures(rig, samples)
    return Report(
        benchmark="true_shape_race",
        environment=describe_machine() | {"model": f"true shape {rig.shape}, random INT4"},
        figures=figures,
        counts={
            "limits": {one.name: one.limits and asdict(one.limits) for one in found},
            "ratios": ratios(found),
            "bars": BARS,
            "prompt_tokens": {one.name: one.prompt_tokens for one in found},
            "rss_mb": {
                one.name: {when: round(n / 1e6) for when, n in one.rss_bytes.items()}
                for one in found
            },
            "by_length": {one.name: [asdict(point) for point in one.by_length] for one in found},
            "left_out": {one.name: one.left_out for one in found if one.left_out},
        },
        notes=tuple(notes),
    )


def ratios(found: Sequence[RaceSamples]) -> dict[str, dict[str, float]]:
    """Ours by theirs: times to first token (below 1 is ahead), then speeds (above 1 is ahead)."""
    ours = [one for one in found if one.name.startswith("pushkin")]
    result: dict[str, dict[str, float]] = {}
    for own in ours:
        for peer in (one for one in found if one not in ours):
            result[f"{own.name} / {peer.name}"] = _ratio(own, peer)
    return result


def _ratio(own: RaceSamples, peer: RaceSamples) -> dict[str, float]:
    by: dict[str, float] = {}
    for phase in PHASES:
        if phase in own.ttft_ms and phase in peer.ttft_ms:
            a, b = figure(own.ttft_ms[phase], "ms"), figure(peer.ttft_ms[phase], "ms")
            by[f"{phase} TTFT p50"] = round(a.median / b.median, 4)
            if b.n > 1:
                by[f"{phase} TTFT p95"] = round(a.p95 / b.p95, 4)
    for name in own.speeds:
        if name in peer.speeds:
            mine, theirs = (figure(one.speeds[name], "tok/s").median for one in (own, peer))
            by[f"{name} tok/s"] = round(mine / theirs, 3)
    by["load time"] = round(own.ready_s / peer.ready_s, 3)
    by["peak memory"] = round(own.rss_bytes["peak"] / peer.rss_bytes["peak"], 3)
    return by


def _figures(rig: Rig, samples: RaceSamples) -> dict[str, Figure]:
    bounds = bounds_of(rig, samples)
    found = {f"{samples.name}.ready_s": figure([samples.ready_s], "s")}
    for phase in PHASES:
        if phase in samples.ttft_ms:
            found[f"{samples.name}.{phase}_ttft_ms"] = figure(samples.ttft_ms[phase], "ms")
    for name, speeds in samples.speeds.items():
        limit, why = bounds.get(name.partition("_")[0], (None, None))
        found[f"{samples.name}.{name}_tok_s"] = figure(speeds, "tok/s", limit=limit, limit_is=why)
        if limit is not None:
            shares = [speed / limit for speed in speeds]
            bar = DECODE_SHARE_BAR if name == "decode_bare" else None
            found[f"{samples.name}.{name}_share"] = figure(shares, "of the limit", bar=bar)
    return found


def bounds_of(rig: Rig, samples: RaceSamples) -> dict[str, tuple[float, str]]:
    """The most tokens a second of decode and prefill that the machine allowed in that run, and why."""
    limits = samples.limits
    if limits is None:
        return {}
    n_bytes, n_prefill = step_size(rig)
    return {
        "decode": (
            limits.decode_tok_s(n_bytes),
            f"{n_bytes / 1e9:.2f} GB a token at {limits.read_gb_s:.1f} GB/s, {limits.n_threads} threads",
        ),
        "prefill": (
            limits.prefill_tok_s(n_prefill),
            f"{n_prefill / 1e9:.2f}e9 weights a token in the fastest product there is",
        ),
    }


def step_size(rig: Rig) -> tuple[int, int]:
    """Bytes of weights that a decode step reads, and weights that a prefilled token passes (no embeddings)."""
    spec = open_model(rig.model)
    shapes = expected_shapes(spec.config)
    n_table = shapes["embed_tokens.weight"][0] * spec.config.hidden_size
    return spec.n_bytes, spec.n_parameters - n_table


def plot_race(found: Sequence[RaceSamples], limits: Mapping[str, float], path: Path) -> None:
    """Times to first token by phase, and speeds beside the machine's limits, as a PNG."""
    plt = _pyplot()
    chart, (left, right) = plt.subplots(1, 2, figsize=(12, 4.5), constrained_layout=True)
    phases = [phase for phase in PHASES if any(phase in one.ttft_ms for one in found)]
    _bars(left, found, phases, lambda one, phase: one.ttft_ms.get(phase))
    left.set_yscale("log")
    left.set_title("time to first token, ms (median; line: p95)")
    speeds = list(dict.fromkeys(name for one in found for name in one.speeds))
    _bars(right, found, speeds, lambda one, name: one.speeds.get(name))
    for at, name in enumerate(speeds):
        if limit := limits.get(name.partition("_")[0]):
            right.hlines(limit, at - 0.45, at + 0.45, colors="black", linestyles="dashed")
    right.set_title("tokens a second (dashed: the machine's limit)")
    for axes in (left, right):
        _legend(axes)
        axes.tick_params(axis="x", rotation=20)
    chart.savefig(path, dpi=120)
    plt.close(chart)


def plot_lengths(found: Sequence[RaceSamples], path: Path) -> None:
    """What one more token costs, by what stands before it, as a PNG."""
    plt = _pyplot()
    chart, panels = plt.subplots(1, 2, figsize=(11, 4), constrained_layout=True)
    titles = {"ttft_ms": "first token after one new one, ms", "decode_ms": "decode, ms a token"}
    for axes, (name, title) in zip(panels, titles.items(), strict=True):
        for one in found:
            if one.by_length:
                lengths = [point.n_tokens for point in one.by_length]
                values = [getattr(point, name) for point in one.by_length]
                axes.plot(lengths, values, marker="o", label=one.name)
        axes.set_xscale("log", base=2)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("tokens of context")
        axes.set_title(title)
        _legend(axes)
    chart.savefig(path, dpi=120)
    plt.close(chart)


def _bars(axes: Any, found: Sequence[RaceSamples], names: Sequence[str], of: Any) -> None:
    width = 0.8 / max(1, len(found))
    for number, one in enumerate(found):
        known = [(at, figure(of(one, name), "")) for at, name in enumerate(names) if of(one, name)]
        xs = [at - 0.4 + width * (number + 0.5) for at, _ in known]
        medians = [spread.median for _, spread in known]
        axes.bar(xs, medians, width * 0.9, color=f"C{number}", label=one.name)
        axes.vlines(xs, medians, [spread.p95 for _, spread in known], colors="black", linewidth=1)
    axes.set_xticks(range(len(names)), names)


def _legend(axes: Any) -> None:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False)


def _pyplot() -> Any:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    return plt
