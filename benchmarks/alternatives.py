"""What five alternatives cost beside one: from one prefill, decoded as a batch, on a prompt that is known already.

`--model DIR` measures any model folder, so a slice of a larger shape (`benchmarks.true_shape --layers 6`) too.
"""

from __future__ import annotations

import sys
from dataclasses import asdict

from benchmarks.harness import (
    Report,
    common_parser,
    daemon_flags,
    describe_environment,
    figure,
    publish,
)
from benchmarks.in_process import run_bare, started
from benchmarks.lookup import options
from benchmarks.typing_trace import LANGUAGES, read_script
from pushkin_runtime.runtime import Runtime
from pushkin_runtime.sampling_types import SamplingOverrides
from pushkin_runtime.types import GenerationRequest

N = 5
MAX_TOKENS = 10
BAR_MS = 120.0  # for five of ten tokens on the embedded model
BAR_RATIO = 2.0  # five against one at the 4B's shape


def main() -> int:
    """Run and publish."""
    parser = common_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=30)
    arguments = parser.parse_args()
    took_ms: dict[int, list[float]] = {1: [], N: []}
    n_told, n_distinct = 0, 0
    with started(Runtime(options(**daemon_flags(arguments)))) as runtime:
        for number in range(2 * (arguments.rounds + 1)):
            text = str(read_script(LANGUAGES[number % 2])["before"])
            for n in (1, N) if number % 4 < 2 else (N, 1):
                request = GenerationRequest(
                    request_id=f"{number}-{n}",
                    task="continue",
                    text=text,
                    n=n,
                    max_tokens=MAX_TOKENS,
                    ignore_eos=True,
                    return_tokens=True,
                    sampling=SamplingOverrides(seed=number // 2),
                )
                run = run_bare(runtime, request)
                if number >= 2:  # the first of each language reads the text
                    took_ms[n].append(run.total_ms)
                if n == N and number >= 2:
                    n_told += len(run.result.choices)
                    n_distinct += len({c.tokens[0].token for c in run.result.choices})
        status = runtime.status()
    assert status.model is not None
    ratios = [five / one for one, five in zip(took_ms[1], took_ms[N], strict=True)]
    publish(
        Report(
            benchmark="alternatives",
            environment=describe_environment(
                {"engine": {"name": status.engine}, "model": asdict(status.model)}
            ),
            figures={
                "one_ms": figure(took_ms[1], "ms"),
                "five_ms": figure(took_ms[N], "ms", bar=BAR_MS),
                "five_to_one": figure(ratios, "times", bar=BAR_RATIO),
            },
            counts={
                "alternatives_a_request": round(n_told / len(took_ms[N]), 2),
                "distinct_first_tokens": round(n_distinct / len(took_ms[N]), 2),
            },
            notes=(
                f"{MAX_TOKENS} tokens each, from submission to the last event; the prompt is known.",
            ),
        ),
        quiet=arguments.json,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
