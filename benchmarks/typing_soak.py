"""The typing trace over and over for minutes or an hour: does anything wedge, slow down or grow?

`python -m benchmarks.typing_soak --minutes 60`. Every keystroke ends the suggestion before it, as in an editor; each
round is a document of its own. Memory is read once a second, and its slope is given with a confidence interval: over
means of half a minute, because one second's memory is nearly the last one's.
"""

from __future__ import annotations

import math
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import psutil
from scipy import stats

from benchmarks.harness import (
    Daemon,
    Figure,
    Report,
    common_parser,
    daemon_flags,
    describe_environment,
    figure,
    publish,
    running_daemon,
    say,
)
from benchmarks.http_client import Broken, Client, Refused
from benchmarks.soak import MIB, await_idle
from benchmarks.typing_trace import LANGUAGES, Keystroke, typing_session

INTERVAL_S = 0.12  # 100 words a minute
MAX_TOKENS = 12
MEAN_OVER_S = 30.0
WARM_UP = 0.2  # of the time, before memory counts: the KV budget fills, allocators settle
CONFIDENCE = 0.95
CONFIG = "[runtime]\nkv_budget_mb = 16\n"  # the least there is: full within the warm-up


@dataclass(frozen=True, slots=True)
class Slope:
    """MiB an hour by least squares, and the half width of its confidence interval; 0 inside it is no growth seen."""

    mib_per_hour: float
    plus_minus: float
    n_means: int


@dataclass(slots=True)
class Tally:
    """ttft_ms, rss: with the second each belongs to. ended: keystrokes by what became of their suggestion."""

    ttft_ms: list[tuple[float, float]] = field(default_factory=list)
    rss: list[tuple[float, float]] = field(default_factory=list)
    ended: Counter[str] = field(default_factory=Counter)


def main(argv: Sequence[str] | None = None) -> int:
    """Run; 1 when the daemon wedged, died or failed a keystroke."""
    parser = common_parser(__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    arguments = parser.parse_args(argv)
    tally = Tally()
    with running_daemon(daemon_flags(arguments), _prepare) as daemon:
        with Client(daemon.target) as client:
            status = client.call("GET", "/v1/status").data
            _type(client, daemon, tally, arguments.minutes * 60, quiet=arguments.json)
        try:
            is_idle, last = await_idle(daemon.target)
        except OSError:  # nobody is there any more
            is_idle, last = False, status
    slope = slope_of(tally.rss, arguments.minutes * 60 * WARM_UP)
    report = Report(
        benchmark="typing_soak",
        environment=describe_environment(status),
        figures=_figures(tally),
        counts={
            "minutes": arguments.minutes,
            "keystrokes": dict(tally.ended),
            "wedged": not is_idle,
            "rss_slope": asdict(slope) if slope else None,
            "kv_cache": last["kv_cache"],
        },
        notes=(
            f"The slope is over means of {MEAN_OVER_S:.0f} s after the first {WARM_UP:.0%} of the time, "
            f"{CONFIDENCE:.0%} confidence.",
        ),
    )
    publish(report, quiet=arguments.json)
    return 1 if not is_idle or set(tally.ended) - {"left", "ended"} else 0


def slope_of(rss: Sequence[tuple[float, float]], after_s: float) -> Slope | None:
    """The slope of memory (second, MiB) after `after_s`; None when there are fewer than three means."""
    windows: dict[int, list[float]] = {}
    for at, size in rss:
        if at >= after_s:
            windows.setdefault(int((at - after_s) // MEAN_OVER_S), []).append(size)
    if len(windows) < 3:
        return None
    hours = np.array([number * MEAN_OVER_S / 3600 for number in windows])
    means = np.array([float(np.mean(sizes)) for sizes in windows.values()])
    fit = stats.linregress(hours, means)
    quantile = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(means) - 2))
    half = quantile * float(fit.stderr) if math.isfinite(fit.stderr) else math.inf
    return Slope(round(float(fit.slope), 3), round(half, 3), len(means))


def _type(client: Client, daemon: Daemon, tally: Tally, seconds: float, *, quiet: bool) -> None:
    """Type until the time is over or the daemon is gone, looking at its memory once a second."""
    process = psutil.Process(daemon.pid)
    started = time.monotonic()
    looked = reported = 0.0
    for key in _endless():
        at = time.monotonic() - started
        if at >= seconds:
            return
        if at - looked >= 1.0 or not tally.rss:
            looked = at
            try:
                tally.rss.append((at, process.memory_info().rss / MIB))
            except psutil.NoSuchProcess:
                return
        if not quiet and at - reported >= 60:
            reported = at
            say(f"{at / 60:.0f} min: {tally.rss[-1][1]:.0f} MiB, {sum(tally.ended.values())} keys")
        tally.ended[_keystroke(client, key, tally, at)] += 1
        time.sleep(max(0.0, started + at + INTERVAL_S - time.monotonic()))


def _endless() -> Iterator[Keystroke]:
    """The sessions in turn for ever, each round in a document of its own."""
    number = 0
    while True:
        for language in LANGUAGES:
            for key in typing_session(language):
                document = f"{key.document_id}-{number}"
                yield Keystroke(document, key.revision, key.phase, f"{number}. {key.text}")
        number += 1


def _keystroke(client: Client, key: Keystroke, tally: Tally, at: float) -> str:
    """Ask for a suggestion and leave it when the next key is due; what became of it."""
    body = {
        "text": key.text,
        "document_id": key.document_id,
        "revision": key.revision,
        "max_tokens": MAX_TOKENS,
    }
    started = time.monotonic()
    first = True
    try:
        for event in client.stream("/v1/continue", body):
            if event.name == "error":
                return f"error event {event.data['error']['code']}"
            if event.name == "delta" and first:
                first = False
                tally.ttft_ms.append((at, event.at_ms))
            if event.name == "done":
                return "ended"
            if time.monotonic() - started >= INTERVAL_S:
                return "left"
    except Refused as error:
        return f"{error.status} {error.code}"
    except (OSError, Broken) as error:
        return f"broken: {type(error).__name__}"
    return "stream without an end"


def _figures(tally: Tally) -> dict[str, Figure]:
    ends = tally.ttft_ms[-1][0] if tally.ttft_ms else 0.0
    early = [ms for at, ms in tally.ttft_ms if ends * WARM_UP <= at < ends * 2 * WARM_UP]
    late = [ms for at, ms in tally.ttft_ms if at >= ends * (1 - WARM_UP)]
    samples = {
        "ttft_ms": ([ms for _, ms in tally.ttft_ms], "ms"),
        "ttft_second_fifth_ms": (early, "ms"),
        "ttft_last_fifth_ms": (late, "ms"),
        "rss_mib": ([size for _, size in tally.rss], "MiB"),
    }
    return {name: figure(values, unit) for name, (values, unit) in samples.items() if values}


def _prepare(home: Path) -> None:
    (home / "config.toml").write_text(CONFIG)


if __name__ == "__main__":
    sys.exit(main())
