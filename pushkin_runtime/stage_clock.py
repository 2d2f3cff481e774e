"""When the stages of a generation ended."""

from __future__ import annotations

from dataclasses import dataclass

from pushkin_runtime.types import Timings


@dataclass(slots=True)
class StageClock:
    """The end of each stage, in milliseconds since `submit`."""

    queued: float = 0.0
    conditioned: float = 0.0
    adapted: float = 0.0
    prefilled: float = 0.0
    first_text: float | None = None

    def leave_queue(self, now_ms: float) -> None:
        """Work begins; stages that are not reached take no time."""
        self.queued = self.conditioned = self.adapted = self.prefilled = now_ms

    def timings(self, total_ms: float, n_steps: int) -> Timings:
        """What the client is told; n_steps: decode steps, 0 when there was no decode."""
        decode_ms = total_ms - self.prefilled if n_steps else 0.0
        return Timings(
            queue_ms=self.queued,
            adapter_ms=self.adapted - self.conditioned,
            persona_ms=self.conditioned - self.queued,
            prefill_ms=self.prefilled - self.adapted,
            ttft_ms=self.first_text,
            decode_ms=decode_ms,
            total_ms=total_ms,
            tokens_per_second=n_steps / decode_ms * 1000 if decode_ms > 0 else 0.0,
        )
