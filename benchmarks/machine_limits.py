"""What the machine can do at best, measured beside what a model makes of it: bytes a second and operations a second.

A decode step reads every weight once, so bandwidth bounds it; prefill computes on them, so arithmetic does.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

READ_BYTES = 1 << 30  # far beyond any last-level cache
GEMM_SIZE = 2048
N_READS, N_GEMMS = 7, 5


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineLimits:
    """The best of several passes with `n_threads` threads.

    read_gb_s: 10⁹ bytes read a second. f32_gflop_s, int8_gop_s: 10⁹ operations a second of a square matrix product, a
    multiplication and an addition each counting as one; int8_gop_s is None where PyTorch has no such product.
    """

    n_threads: int
    read_gb_s: float
    f32_gflop_s: float
    int8_gop_s: float | None

    def decode_tok_s(self, n_bytes: int) -> float:
        """Tokens a second when each reads `n_bytes`."""
        return self.read_gb_s * 1e9 / n_bytes

    def prefill_tok_s(self, n_weights: int) -> float:
        """Tokens a second when each passes `n_weights` weights, in the fastest arithmetic there is."""
        return max(self.f32_gflop_s, self.int8_gop_s or 0.0) * 1e9 / (2 * n_weights)


def measure_limits(n_threads: int) -> MachineLimits:
    """Measure on an otherwise idle machine; takes a few seconds and 1 GiB."""
    with _threads(n_threads):
        read = torch.ones(READ_BYTES // 4)
        seconds = _best(read.sum, N_READS)
        del read
        a, b = torch.randn(2, GEMM_SIZE, GEMM_SIZE).unbind()
        n_operations = 2 * GEMM_SIZE**3
        return MachineLimits(
            n_threads=n_threads,
            read_gb_s=READ_BYTES / seconds / 1e9,
            f32_gflop_s=n_operations / _best(lambda: a @ b, N_GEMMS) / 1e9,
            int8_gop_s=_int8_gop_s(n_operations),
        )


def _int8_gop_s(n_operations: int) -> float | None:
    a, b = torch.randint(-8, 8, (2, GEMM_SIZE, GEMM_SIZE), dtype=torch.int8).unbind()
    try:
        return n_operations / _best(lambda: torch._int_mm(a, b), N_GEMMS) / 1e9
    except RuntimeError:  # this build of torch has no such kernel for this processor
        return None


def _best(work: Callable[[], object], n: int) -> float:
    """Seconds of the fastest of `n` passes."""
    best = float("inf")
    for _ in range(n):
        started = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - started)
    return best


@contextmanager
def _threads(n: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)
