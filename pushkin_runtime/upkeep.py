"""What the inference thread does about memory: refuse what does not fit, shed what is idle, unload when nobody comes."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from pathlib import Path

from pushkin_runtime.errors import ModelDoesNotFit
from pushkin_runtime.model_config import SMALL_MODEL
from pushkin_runtime.model_store import expected_shapes, read_config, require_files
from pushkin_runtime.system_memory import Pressure, SystemMemory
from pushkin_runtime.workshop import Workshop

log = logging.getLogger(__name__)

MARGIN_BYTES = 256 << 20  # libraries, activations, the daemon itself
# By engine, of a large model: bytes of a number in the KV cache, and memory of the weights over their size on disk
# (ONNX Runtime and XNNPACK pack 4-bit matrices anew: python -m benchmarks.engine_speed). Others: 2 and 1.
KV_WIDTH = {"onnx": 4, "executorch": 4}
PACKED = {"onnx": 1.25, "executorch": 1.4}
QUIET_S = 5.0  # without a request: longer than a pause between two words
LOOK_S = 10.0  # between two looks at the pressure, while there is anything to shed
AGAIN_S = 60.0  # pressure that lasts sheds no more often
_ORDER: tuple[Pressure, ...] = ("normal", "warn", "critical")


def needed_bytes(model_dir: Path, engine: str, context_length: int) -> tuple[int, int]:
    """Return the memory of the weights and of one full KV cache with an engine, from the sizes alone.

    context_length: tokens, 0 for the model's own limit. Raises ModelError.
    """
    files = require_files(model_dir)
    config = read_config(model_dir)
    n_parameters = sum(math.prod(shape) for shape in expected_shapes(config).values())
    stored = sum(path.stat().st_size for path in files)
    if n_parameters <= SMALL_MODEL:
        weights, width = max(stored, 4 * n_parameters), 4
    else:
        weights, width = round(stored * PACKED.get(engine, 1.0)), KV_WIDTH.get(engine, 2)
    n_tokens = min(context_length or config.context_length, config.context_length)
    per_token = 2 * config.n_layers * config.n_kv_heads * config.head_dim * width
    return weights, per_token * n_tokens


def check_fit(model_dir: Path, engine: str, context_length: int, memory: SystemMemory) -> None:
    """Raise ModelDoesNotFit, with the numbers, when loading would take more than there is."""
    available = memory.available_bytes()
    weights, kv = needed_bytes(model_dir, engine, context_length)
    needed = weights + kv + MARGIN_BYTES
    if available is None or needed <= available:
        return
    raise ModelDoesNotFit(
        f"{model_dir.name} needs {_mb(needed)} MB of memory: {_mb(weights)} for its weights, {_mb(kv)} for one "
        f"text of full length, {_mb(MARGIN_BYTES)} to work with; {_mb(available)} are available. "
        "Close other programs, lower context_length, or choose a smaller model."
    )


class Upkeep:
    """Inference thread only, but for `worked`.

    idle_unload_s: so long without a request unloads the model; 0 keeps it. on_unload: called once it has been released.
    """

    def __init__(
        self,
        memory: SystemMemory,
        *,
        idle_unload_s: float = 0.0,
        on_unload: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._memory, self._idle_unload_s, self._clock = memory, idle_unload_s, clock
        self.unloaded = on_unload
        self._worked_at = self._looked_at = clock()
        self._shed_at = -math.inf
        self._level: Pressure = "normal"

    def worked(self) -> None:
        """A request has come."""
        self._worked_at = self._clock()

    @property
    def is_quiet(self) -> bool:
        """Whether nobody has come for so long that work which a request would have to wait for may begin."""
        return self._clock() - self._worked_at >= QUIET_S

    @property
    def wants_unload(self) -> bool:
        """Whether nobody has come for long enough; to be asked when there is nothing to do."""
        return bool(self._idle_unload_s) and self._clock() - self._worked_at >= self._idle_unload_s

    def wait_s(self, shop: Workshop) -> float | None:
        """How long the thread may sleep before there is something to do here; None for ever."""
        waits = [LOOK_S] if shop.cache.n_entries or shop.adapters.n_resident else []
        if self._idle_unload_s:
            waits.append(max(0.0, self._worked_at + self._idle_unload_s - self._clock()))
        return min(waits, default=None)

    def look(self, shop: Workshop) -> None:
        """Shed what is idle if memory runs short: half of the KV at a warning, all of it in need."""
        now = self._clock()
        if now - self._looked_at < LOOK_S:
            return
        self._looked_at = now
        before, self._level = self._level, self._memory.pressure()
        is_worse = _ORDER.index(self._level) > _ORDER.index(before)
        if self._level == "normal" or not (is_worse or now - self._shed_at >= AGAIN_S):
            return
        self._shed_at = now
        n_bytes = shop.cache.n_bytes + shop.adapters.n_bytes
        shop.cache.shed(0.5 if self._level == "warn" else 1.0)
        shop.adapters.shed()
        if self._level == "critical":
            self._memory.give_back()
        n_shed = n_bytes - shop.cache.n_bytes - shop.adapters.n_bytes
        log.warning("memory is short", extra={"level": self._level, "n_bytes_shed": n_shed})


def _mb(n_bytes: int) -> int:
    return round(n_bytes / 2**20)
