"""What a run shows and leaves behind: a live bar or plain lines, metrics.jsonl, a loss plot."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

METRICS = "metrics.jsonl"
_PLAIN_EVERY_S = 20.0


@dataclass(frozen=True)
class Metrics:
    """One step: loss in nats a token, gradient norm before clipping, speed over this step.

    repeated: share of the model's own greedy continuations that stands in repeated 4-grams.
    """

    step: int
    tokens: int
    loss: float
    lr_factor: float
    grad_norm: float
    tokens_per_s: float
    seconds: float
    repeated: float | None = None


class Reporter(Protocol):
    """Receives each step's metrics."""

    def __call__(self, metrics: Metrics) -> None: ...


@contextmanager
def reporting(out: Path, total_steps: int | None, first_step: int) -> Iterator[Reporter]:
    """Append to `out/metrics.jsonl` and show progress on stderr until the block ends.

    total_steps: None where time ends the run.
    """
    out.mkdir(parents=True, exist_ok=True)
    shown = _bar(total_steps, first_step) if sys.stderr.isatty() else _lines(total_steps)
    with (out / METRICS).open("a", encoding="utf-8") as log, shown as show:

        def report(metrics: Metrics) -> None:
            log.write(json.dumps(asdict(metrics)) + "\n")
            log.flush()
            show(metrics)

        yield report


@contextmanager
def _bar(total_steps: int | None, first_step: int) -> Iterator[Reporter]:
    """The live bar of a terminal."""
    from rich.progress import (  # a GPU's image without a terminal may lack it
        BarColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    with Progress(
        TextColumn("step {task.completed}/{task.total}"),
        BarColumn(),
        TextColumn("{task.fields[text]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    ) as bar:
        task = bar.add_task("", total=total_steps, completed=first_step, text="")
        yield lambda metrics: bar.update(task, completed=metrics.step, text=_text(metrics))


@contextmanager
def _lines(total_steps: int | None) -> Iterator[Reporter]:
    """A line now and then, where stderr is a file."""
    shown = 0.0

    def show(metrics: Metrics) -> None:
        nonlocal shown
        now = time.monotonic()
        if now - shown > _PLAIN_EVERY_S or metrics.step == total_steps:
            shown = now
            print(_plain(metrics, total_steps), file=sys.stderr, flush=True)

    yield show


def _text(metrics: Metrics) -> str:
    text = f"loss {metrics.loss:.3f} · {metrics.tokens_per_s:,.0f} tokens/s"
    return text if metrics.repeated is None else f"{text} · repeats {metrics.repeated:.0%}"


def _plain(metrics: Metrics, total_steps: int | None) -> str:
    text = _text(metrics)
    if total_steps is None:
        return f"step {metrics.step} {text}"
    left_s = (total_steps - metrics.step) * metrics.seconds
    return f"step {metrics.step}/{total_steps} {text} · {left_s / 60:.0f} min left"


def read_metrics(out: Path) -> list[Metrics]:
    """The metrics of a run; of steps done twice (after a crash) the last one counts."""
    by_step: dict[int, Metrics] = {}
    for line in (out / METRICS).read_text(encoding="utf-8").splitlines():
        metrics = Metrics(**json.loads(line))
        by_step[metrics.step] = metrics
    return [by_step[step] for step in sorted(by_step)]


def plot_loss(out: Path, path: Path | None = None) -> None:
    """Write the loss curve, raw and smoothed, to `out/loss.png` (or to `path`)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    metrics = read_metrics(out)
    smooth: list[float] = []
    for item in metrics:
        smooth.append(item.loss if not smooth else 0.95 * smooth[-1] + 0.05 * item.loss)
    figure = Figure(figsize=(7, 4), dpi=110)
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    millions = [item.tokens / 1e6 for item in metrics]
    axes.plot(millions, [item.loss for item in metrics], alpha=0.25, linewidth=0.6)
    axes.plot(millions, smooth, linewidth=1.4)
    axes.set_xlabel("million tokens")
    axes.set_ylabel("loss, nats a token")
    axes.set_ylim(top=min(10.0, max(smooth[len(smooth) // 50 :], default=10.0)))
    axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path or out / "loss.png")
