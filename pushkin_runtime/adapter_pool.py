"""Which adapters a request gets, and their matrices in memory: loaded aside, swapped in between tokens.

Reading, checking and stacking happen on one loader thread; bringing the result into the engine's arrays and
everything that touches them on the inference thread. What is resident is bounded in bytes, least
recently used out first; pinned ones and those of running generations stay.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, get_args

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from adapters.composition import Composition, compose
from adapters.errors import (
    AdapterError,
    AdapterIncompatible,
    AdapterIneffective,
    AdapterInUse,
    AdapterNotFound,
    AdapterUnsupported,
)
from adapters.registry import AdapterRegistry, AdapterSpec, read_weights
from pushkin_runtime.engines.base import Engine, Lora
from pushkin_runtime.errors import RuntimeFault
from pushkin_runtime.observer import ObserverDesk
from pushkin_runtime.types import AdapterRef, AdapterState, AdapterStatus, Task

log = logging.getLogger(__name__)

PROBE_TEXT = "The old house stood by the river. Старый дом стоял у реки."
PROBE_TOKENS = 8
PROBE_FLOOR = 1e-6  # a change of the logits below this is none
MAX_LOADED_ASIDE = 16  # sets that were read for requests which may have been cancelled since

_DTYPES: dict[str, Any] = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16}


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterOptions:
    """roots: folders of adapters, the first that has a name wins. budget_bytes: for resident matrices.

    defaults: what a request without `adapters` gets, by task; a task that is not listed gets the adapter
    that has the task's name, if one fits the model.
    """

    roots: tuple[Path, ...] = ()
    budget_bytes: int = 512 << 20
    defaults: Mapping[Task, tuple[AdapterRef, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AdapterSet:
    """Adapters and scales of one request, checked and in canonical order: without those of scale 0, by name."""

    refs: tuple[AdapterRef, ...] = ()
    specs: tuple[AdapterSpec, ...] = ()

    @property
    def composition(self) -> tuple[str, ...]:
        """Which matrices are needed: the SHA-256 of each file."""
        return tuple(spec.manifest.sha256 for spec in self.specs)

    @property
    def key(self) -> tuple[tuple[str, float], ...]:
        """What keys and values depend on: the files and the scales."""
        return tuple(zip(self.composition, (ref.scale for ref in self.refs), strict=True))

    @property
    def factors(self) -> tuple[float, ...]:
        """The factor of each adapter: its own scale times the requested one."""
        return tuple(
            spec.manifest.scale * ref.scale for spec, ref in zip(self.specs, self.refs, strict=True)
        )


NO_ADAPTERS = AdapterSet()


@dataclass(slots=True, eq=False)
class _Resident:
    lora: Lora
    n_users: int = 0


class AdapterPool:
    """Owned by the runtime, made on the inference thread once the model is loaded.

    wake: has the inference thread look again when a load has ended. observers: who watches loads.
    """

    def __init__(
        self,
        engine: Engine,
        options: AdapterOptions,
        wake: Callable[[], None],
        observers: ObserverDesk | None = None,
    ) -> None:
        self._engine = engine
        self._options = options
        self._wake = wake
        self._observers = observers or ObserverDesk()
        self._registry = AdapterRegistry(options.roots, engine.base)
        self._lock = threading.Lock()
        self._loads: dict[tuple[str, ...], Future[Composition]] = {}
        self._residents: OrderedDict[tuple[str, ...], _Resident] = OrderedDict()
        self._pinned: set[str] = set()
        self._probes: dict[str, float] = {}
        self._unprobed: list[str] = []
        self._loader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="adapter-loader")

    # -- any thread -----------------------------------------------------------------------------

    def resolve(
        self,
        wanted: tuple[AdapterRef, ...] | None,
        task: Task,
        persona: tuple[AdapterRef, ...] = (),
    ) -> AdapterSet:
        """Return the set a request asks for; () means really none, None the task's default with what the
        persona needs.

        Raises AdapterError subclasses, with the request field at fault.
        """
        if wanted is None:
            return self._default(task, persona)
        return self._checked(wanted)

    def fits(self, refs: tuple[AdapterRef, ...]) -> bool:
        """Whether all are installed and made for this model. Raises AdapterCorrupt or AdapterUnsupported."""
        try:
            for ref in refs:
                self._registry.find(ref.name)
        except (AdapterNotFound, AdapterIncompatible):
            return False
        return True

    def prefetch(self, wanted: AdapterSet) -> None:
        """Start loading what is not resident; returns at once."""
        with self._lock:
            is_needed = wanted.composition not in self._residents
            is_full = len(self._loads) >= MAX_LOADED_ASIDE  # then its turn starts the load
        if wanted.specs and is_needed and not is_full:
            # Once the pool is closed it takes nothing more, and nobody will ask for it.
            with contextlib.suppress(RuntimeError):
                self._future(wanted)

    def prefetch_defaults(self) -> None:
        """Start loading what requests without `adapters` will get; broken defaults wait for the request."""
        for task in get_args(Task):
            with contextlib.suppress(AdapterError):
                self.prefetch(self.resolve(None, task))

    def statuses(self) -> Future[list[AdapterStatus]]:
        """Look at every installed adapter on the loader thread, broken ones with what is wrong with them."""
        return self._loader.submit(self._statuses)

    def status(self, spec: AdapterSpec) -> AdapterStatus:
        """Return one adapter's facts and state."""
        manifest = spec.manifest
        with self._lock:
            resident = self._residents.get((manifest.sha256,))
            is_resident = any(manifest.sha256 in key for key in self._residents)
            is_loading = any(manifest.sha256 in key for key in self._loads)
        state: AdapterState = "loading" if is_loading else "on_disk"
        return AdapterStatus(
            name=manifest.name,
            state="resident" if is_resident else state,
            task=manifest.task,
            rank=manifest.rank,
            alpha=manifest.alpha,
            scale=manifest.scale,
            rslora=manifest.rslora,
            n_bytes=manifest.n_bytes,
            sha256=manifest.sha256,
            base_id=manifest.base_id,
            base_digest=manifest.base_digest,
            languages=manifest.languages,
            pinned=manifest.sha256 in self._pinned,
            applied_modules=resident.lora.n_modules if resident else None,
            probe_delta=self._probes.get(manifest.sha256),
        )

    @property
    def n_resident(self) -> int:
        """Sets of adapters whose matrices are in memory."""
        return len(self._residents)

    @property
    def n_bytes(self) -> int:
        """Memory of the resident matrices."""
        with self._lock:
            return sum(resident.lora.n_bytes for resident in self._residents.values())

    def close(self) -> None:
        """Stop loading; what is queued is dropped."""
        self._loader.shutdown(wait=False, cancel_futures=True)

    # -- inference thread -----------------------------------------------------------------------

    def is_ready(self, wanted: AdapterSet) -> bool:
        """Whether `acquire` will not wait; starts the load if need be."""
        if not wanted.specs:
            return True
        if wanted.composition in self._residents:
            return True
        with self._lock:
            # What cancelled requests left behind; whoever still wants it reads it again.
            done = [key for key, future in self._loads.items() if future.done()]
            for key in done[: max(0, len(self._loads) - MAX_LOADED_ASIDE)]:
                if key != wanted.composition:
                    del self._loads[key]
        return self._future(wanted).done()

    def acquire(self, wanted: AdapterSet) -> Lora | None:
        """Return the matrices of a ready set with its factors, None for the bare base; `release` follows.

        Raises what loading them raised (AdapterError), or EngineFailed.
        """
        if not wanted.specs:
            return None
        resident = self._resident(wanted.composition)
        resident.n_users += 1
        return self._engine.rescale(resident.lora, wanted.factors)

    def release(self, wanted: AdapterSet) -> None:
        """A generation that acquired `wanted` has ended."""
        resident = self._residents.get(wanted.composition)
        if resident is not None:
            resident.n_users -= 1
            self._evict(room_for=0)

    def pin(self, spec: AdapterSpec) -> None:
        """Keep a resident adapter in memory until it is unloaded.

        Raises AdapterInUse when pinned adapters would take more than the budget.
        """
        key = (spec.manifest.sha256,)
        with self._lock:
            pinned = {(sha256,) for sha256 in self._pinned} | {key}
            n_bytes = sum(self._residents[k].lora.n_bytes for k in pinned if k in self._residents)
            if n_bytes > self._options.budget_bytes:
                raise AdapterInUse(
                    f"{spec.manifest.name}: pinned adapters would take {n_bytes / 2**20:.0f} MB of a "
                    f"budget of {self._options.budget_bytes / 2**20:.0f} MB; unload one first."
                )
            self._pinned.add(spec.manifest.sha256)

    def unload(self, spec: AdapterSpec) -> None:
        """Drop every resident set with this adapter. Raises AdapterInUse while a generation runs with it."""
        sha256 = spec.manifest.sha256
        with self._lock:
            hit = [key for key in self._residents if sha256 in key]
            if any(self._residents[key].n_users for key in hit):
                raise AdapterInUse(
                    f"{spec.manifest.name}: a generation is running with it; ask again when it has ended."
                )
            for key in hit:
                del self._residents[key]
            self._pinned.discard(sha256)

    def shed(self) -> None:
        """Drop every resident set that no generation runs with and nobody has pinned."""
        self._evict(room_for=self._options.budget_bytes)

    def idle_work(self) -> bool:
        """Bring one prefetched set into the engine, or measure one new adapter; whether there was any."""
        with self._lock:
            done = [key for key, future in self._loads.items() if future.done()]
        try:
            if done:
                self._resident(done[0])
            elif self._unprobed:
                self.probe(self._unprobed.pop())
            else:
                return False
        except (AdapterError, RuntimeFault) as error:  # told again to the request that needs it
            log.warning("adapter unusable", extra={"error_type": type(error).__name__})
        return True

    def probe(self, sha256: str) -> None:
        """Measure how far a resident adapter moves the logits of a fixed prompt.

        One that moves none is refused from then on.
        """
        resident = self._residents.get((sha256,))
        if resident is not None and sha256 not in self._probes:
            before, after = self._probe_logits(None), self._probe_logits(resident.lora)
            self._probes[sha256] = float(np.abs(after - before).max())

    # -- helpers --------------------------------------------------------------------------------

    def _default(self, task: Task, persona: tuple[AdapterRef, ...]) -> AdapterSet:
        refs = self._options.defaults.get(task)
        if refs is None:
            refs = self._named_after(task)
        named = {ref.name for ref in refs}
        return self._checked((*refs, *(ref for ref in persona if ref.name not in named)))

    def _named_after(self, task: Task) -> tuple[AdapterRef, ...]:
        """The installed adapter with the task's name; none when there is none for this model."""
        named = (AdapterRef(task),)
        return named if self.fits(named) else ()

    def _checked(self, wanted: Sequence[AdapterRef]) -> AdapterSet:
        found: list[tuple[AdapterRef, AdapterSpec]] = []
        for index, ref in enumerate(wanted):
            try:
                spec = self._registry.find(ref.name)
                self._refuse_ineffective(spec)
            except AdapterError as error:
                error.param = f"adapters[{index}].name"
                raise
            if ref.scale != 0:
                found.append((ref, spec))
        found.sort(key=lambda pair: pair[0].name)
        return AdapterSet(tuple(ref for ref, _ in found), tuple(spec for _, spec in found))

    def _statuses(self) -> list[AdapterStatus]:
        return [
            self.status(listed.spec)
            if listed.spec is not None
            else AdapterStatus(name=listed.name, state="broken", problem=listed.problem)
            for listed in self._registry.list()
        ]

    def _refuse_ineffective(self, spec: AdapterSpec) -> None:
        delta = self._probes.get(spec.manifest.sha256)
        if delta is not None and delta < PROBE_FLOOR:
            raise AdapterIneffective(
                f"{spec.manifest.name}: it is loaded but changes nothing (probe delta {delta:g}). "
                "Install it again from its source.",
            )

    def _future(self, wanted: AdapterSet) -> Future[Composition]:
        with self._lock:
            running = self._loads.get(wanted.composition)
            if running is None:
                load = partial(self._read, wanted.specs)
                running = self._loader.submit(
                    self._observers.observer.load(len(wanted.specs), load)
                )
                self._loads[wanted.composition] = running
                running.add_done_callback(lambda _: self._wake())
            return running

    def _read(self, specs: tuple[AdapterSpec, ...]) -> Composition:
        """On the loader thread."""
        dtype = _DTYPES[self._engine.lora_dtype]
        composition = compose([read_weights(spec) for spec in specs], dtype)
        if composition.n_bytes > self._options.budget_bytes:
            raise AdapterUnsupported(
                f"{' + '.join(spec.manifest.name for spec in specs)}: takes "
                f"{composition.n_bytes / 2**20:.0f} MB of memory, more than the budget of "
                f"{self._options.budget_bytes / 2**20:.0f} MB; raise adapters_budget_mb."
            )
        return composition

    def _resident(self, key: tuple[str, ...]) -> _Resident:
        """Return the resident set `key`, brought into the engine if its load has just ended."""
        resident = self._residents.get(key)
        if resident is None:
            with self._lock:
                loaded = self._loads.pop(key)
            composition = loaded.result()
            resident = _Resident(self._engine.load_lora(composition))
            self._evict(room_for=resident.lora.n_bytes)
            with self._lock:
                self._residents[key] = resident
            if len(key) == 1 and key[0] not in self._probes:
                self._unprobed.append(key[0])
        self._residents.move_to_end(key)
        return resident

    def _evict(self, *, room_for: int) -> None:
        with self._lock:
            held = sum(resident.lora.n_bytes for resident in self._residents.values())
            for key, resident in list(self._residents.items()):
                if held + room_for <= self._options.budget_bytes:
                    return
                is_pinned = len(key) == 1 and key[0] in self._pinned
                if not resident.n_users and not is_pinned:
                    held -= resident.lora.n_bytes
                    del self._residents[key]

    def _probe_logits(self, lora: Lora | None) -> NDArray[np.float32]:
        tokenizer = self._engine.tokenizer
        tokens = [tokenizer.bos_id, *tokenizer.encode(PROBE_TEXT)][:PROBE_TOKENS]
        return self._engine.logits(self._engine.new_cache(lora), tokens)
