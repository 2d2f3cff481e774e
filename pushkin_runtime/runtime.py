"""The runtime as the rest of the daemon sees it: start, submit, status, health, close.

Every method may be called from any thread; only `wait_loaded` and `close` wait.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import Future
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from pushkin_runtime.adapter_jobs import load_adapter, unload_adapter
from pushkin_runtime.adapter_pool import AdapterPool
from pushkin_runtime.admission import check_request
from pushkin_runtime.dictation import check_dictation
from pushkin_runtime.engines.base import Engine, EngineOptions
from pushkin_runtime.engines.registry import (
    MODEL_FREE,
    EngineChoice,
    choose_engine,
    create_engine,
)
from pushkin_runtime.errors import Draining, EngineFailed, NotReady, QueueFull
from pushkin_runtime.generate import Generation
from pushkin_runtime.handle import GenerationHandle
from pushkin_runtime.inference_thread import InferenceThread, Job
from pushkin_runtime.liveness import RETRY_AFTER_S, Clocks, Liveness
from pushkin_runtime.observer import Observer, ObserverDesk
from pushkin_runtime.options import RuntimeOptions
from pushkin_runtime.persona import PersonaDesk, PersonaSource
from pushkin_runtime.prompt_cache import PromptCache
from pushkin_runtime.renewal import Renewal
from pushkin_runtime.speech import SpeechDesk, checked_samples
from pushkin_runtime.speech_types import SpeechInfo, SpeechRows
from pushkin_runtime.submissions import Submissions
from pushkin_runtime.system_memory import SystemMemory, system_memory
from pushkin_runtime.tokenizer import TextTokenizer
from pushkin_runtime.types import (
    AdapterRef,
    AdapterStatus,
    EventSink,
    GenerationRequest,
    Health,
    ModelInfo,
    PersonaRequest,
    RuntimeState,
    RuntimeStatus,
    Task,
)
from pushkin_runtime.upkeep import Upkeep, check_fit
from pushkin_runtime.workshop import Workshop, unwritable

log = logging.getLogger(__name__)

CreateEngine = Callable[[EngineChoice, EngineOptions], Engine]

__all__ = ["CreateEngine", "Runtime", "RuntimeOptions"]


class Runtime:
    """Owns the inference thread. Build, `start`, use, `close`.

    create: makes the engine; tests and embedders may pass one of their own. clocks: for `health`. memory: of the
    machine. Raises EngineUnavailable for an unknown engine name.
    """

    def __init__(
        self,
        options: RuntimeOptions,
        create: CreateEngine = create_engine,
        clocks: Clocks | None = None,
        memory: SystemMemory | None = None,
    ) -> None:
        self.options = options
        self._choice = choose_engine(options.engine)
        self._create = create
        self._memory = memory or system_memory()
        self._personas = PersonaDesk()
        self._observers = ObserverDesk()
        self._submissions = Submissions()
        self._state: RuntimeState = "loading"
        self._error: str | None = None
        self._shop: Workshop | None = None
        self._load_ms: float | None = None
        self._model: ModelInfo | None = None
        self._loaded = threading.Event()
        self._lock = threading.Lock()
        self._awake: Future[None] = Future()
        self._awake.set_result(None)
        self._liveness = Liveness(
            clocks or Clocks(), prefill_chunk=options.prefill_chunk, stall_s=options.stall_s
        )
        self._thread = self._new_thread()

    def _new_thread(self) -> InferenceThread:
        return InferenceThread(
            self._load,
            queue_limit=self.options.queue_limit,
            max_active=self.options.max_active,
            on_failed_load=self._fail,
            liveness=self._liveness,
            upkeep=Upkeep(
                self._memory, idle_unload_s=self.options.idle_unload_s, on_unload=self._unload
            ),
        )

    def start(self) -> None:
        """Start loading the model on the inference thread; returns at once."""
        self._thread.start()

    def wait_loaded(self, timeout_s: float) -> bool:
        """Wait until loading succeeded or failed; whether it did in time. `status` says which."""
        return self._loaded.wait(timeout_s)

    def wake(self) -> Future[None]:
        """Have the model loaded again if it was unloaded; the future is done when that has succeeded or failed, and
        at once when there is nothing to wait for. A model that was there once is tried again after a failure."""
        with self._lock:
            if self._state == "unloaded" or (self._state == "failed" and self._model):
                self._state, self._awake = "loading", Future()
                self._thread = self._new_thread()
                self._thread.start()
            return self._awake

    def observe(self, observer: Observer) -> None:
        """Have `observer` look on, from the next request and load on."""
        self._observers.observer = observer

    def use_personas(self, source: PersonaSource) -> None:
        """Condition generations on what `source` makes, from the next request on."""
        self._personas.source = source

    def forget_personas(self) -> None:
        """Drop what was computed under any persona: a document was deleted, or consent was withdrawn."""
        # Where it cannot be done the caches go anyway, or soon.
        with contextlib.suppress(Draining, EngineFailed, NotReady, QueueFull):
            self._thread.submit(Job(_forget_personas))

    def submit(self, request: GenerationRequest, sink: EventSink) -> GenerationHandle:
        """Queue a generation; its events go to `sink` on the inference thread, the last one Done or Failed.

        A newer request for the same document and task supersedes the older one; an older revision than
        the one running is superseded at once.
        Raises NotReady, Draining, QueueFull, AdapterError, CapabilityMissing or InvalidRequest.
        """
        shop = self._ready_shop()
        pool = shop.adapters
        check_request(request, shop.engine.tokenizer)
        check_dictation(request, shop.engine)
        persona = self._personas.check(request)
        if not pool.fits(persona):  # rows without the adapter that reads them would only do harm
            request, persona = replace(request, persona=PersonaRequest(mode="off")), ()
        adapters = pool.resolve(request.adapters, request.task, persona)
        pool.prefetch(adapters)
        observer = self._observers.observer
        handle = GenerationHandle(
            request,
            sink if request.ahead else observer.events(request, sink),  # it answers nobody
            adapters=adapters,
            wake=self._thread.wake,
            on_end=self._submissions.leave,
        )
        self._submissions.enter(handle, self._thread.submit)
        return handle

    def cancel(self, request_id: str) -> bool:
        """End a queued or running generation; whether there was one."""
        handle = self._submissions.find(request_id)
        if handle is None:
            return False
        handle.cancel()
        return True

    def adapters(self) -> Future[list[AdapterStatus]]:
        """Every installed adapter, by name, broken ones included. Raises NotReady or Draining."""
        return self._ready_shop().adapters.statuses()

    def default_adapters(self, task: Task) -> tuple[AdapterRef, ...]:
        """What a request that names none gets, the persona's aside. Raises NotReady, Draining or AdapterError."""
        return self._ready_shop().adapters.resolve(None, task).refs

    def load_adapter(self, name: str, *, pinned: bool) -> Future[AdapterStatus]:
        """Bring an adapter into memory and measure its effect; pinned: keep it there.

        Raises NotReady, Draining, QueueFull or AdapterError; the future raises what loading raised.
        """
        pool = self._ready_shop().adapters
        wanted = pool.resolve((AdapterRef(name),), "continue")
        pool.prefetch(wanted)
        job = Job(lambda shop: load_adapter(shop.adapters, wanted, pinned))
        self._thread.submit(job)
        return job.future

    def unload_adapter(self, name: str) -> Future[AdapterStatus]:
        """Give back the memory of an adapter and of what was computed under it. Raises as `load_adapter`."""
        wanted = self._ready_shop().adapters.resolve((AdapterRef(name),), "continue")
        job = Job(lambda shop: unload_adapter(shop, wanted))
        self._thread.submit(job)
        return job.future

    def load_speech(self) -> Future[SpeechInfo]:
        """Read the speech model, if it is not in memory yet, so that the first utterance need not wait for it.

        Raises as `encode_speech`.
        """
        self._ready_shop()
        job = Job(_load_speech)
        self._thread.submit(job)
        return job.future

    def encode_speech(self, samples: NDArray[np.float32]) -> Future[SpeechRows]:
        """Turn an utterance, (n,) float32 at 16 kHz, into what `GenerationRequest.speech` takes.

        It runs between tokens of others, a layer at a time, and costs what its length costs. The samples are copied.
        Raises NotReady, Draining, QueueFull or InvalidRequest; the future raises CapabilityMissing without a speech
        model, ModelError for a damaged one, InvalidRequest for more speech than it reads at once (30 s).
        """
        self._ready_shop()
        heard = checked_samples(samples)
        job = Job(lambda shop: shop.speech.model().encode(heard))
        self._thread.submit(job)
        return job.future

    def tokenizer(self) -> TextTokenizer:
        """The loaded model's. Raises NotReady or Draining."""
        return self._ready_shop().engine.tokenizer

    def status(self) -> RuntimeStatus:
        """A snapshot; numbers of the inference thread may be one step old."""
        shop = self._shop
        return RuntimeStatus(
            state=self._state,
            error=self._error,
            engine=self._choice.name,
            engine_reason=self._choice.reason,
            model=self._model,
            load_ms=self._load_ms,
            n_queued=self._thread.n_queued,
            n_active=self._thread.n_active,
            max_active=self.options.max_active,
            queue_limit=self.options.queue_limit,
            n_requests=self._submissions.n_entered,
            n_tokens=self._liveness.n_tokens,
            kv_entries=shop.cache.n_entries if shop else 0,
            kv_bytes=shop.cache.n_bytes if shop else 0,
            kv_budget_bytes=self.options.kv_budget_bytes,
            adapters_resident=shop.adapters.n_resident if shop else 0,
            adapters_bytes=shop.adapters.n_bytes if shop else 0,
            adapters_budget_bytes=self.options.adapters.budget_bytes,
            last_token_age_s=self._liveness.token_age_s(),
            heartbeat_age_s=self._liveness.heartbeat_age_s(),
        )

    def health(self) -> Health:
        """Whether generation works, proved by a recent token; asks for a self-test token when idle."""
        if self._state == "loading":
            return Health(ok=False, state="loading", reason="the model is loading", retry_after_s=1)
        if self._state == "unloaded":
            return Health(
                ok=True, state="unloaded", reason="idle; the next request loads the model"
            )
        if self._state != "ready":
            reason = self._error or "shutting down"
            return Health(ok=False, state=self._state, reason=reason)
        return self._liveness.look(self._start_self_test)

    def wait_for_work(self, timeout_s: float | None = None) -> bool:
        """Wait until there is work whose progress can be watched: an idle runtime wakes nobody up."""
        return self._liveness.wait_for_work(timeout_s)

    def is_stalled(self) -> bool:
        """Whether there is work and nothing moves; to be asked every second or so while there is."""
        if self._state != "ready":
            return False
        if self._liveness.wants_self_test:
            self.health()
        return self._liveness.is_stalled

    def close(self, *, drain_s: float) -> bool:
        """End open generations as cancelled and release the model; whether it stopped in `drain_s`."""
        with self._lock:
            self._state = "draining"
        return self._thread.close(drain_s)

    # -- on the inference thread ----------------------------------------------------------------

    def _load(self) -> Workshop:
        started = time.monotonic()
        if self._choice.name not in MODEL_FREE:
            context_length = self.options.context_length
            check_fit(self.options.model_dir, self._choice.name, context_length, self._memory)
        engine = self._create(
            self._choice,
            EngineOptions(
                model_dir=self.options.model_dir,
                context_length=self.options.context_length,
                n_threads=self.options.n_threads,
                cache_dir=self.options.cache_dir,
            ),
        )
        cache = PromptCache(engine, self.options.kv_budget_bytes)
        pool = AdapterPool(engine, self.options.adapters, self._thread.wake, self._observers)
        shop = Workshop(
            engine=engine,
            cache=cache,
            adapters=pool,
            renewal=Renewal(cache, pool),
            persona=self._personas,
            observers=self._observers,
            speech=SpeechDesk(engine, self.options),
            prefill_chunk=self.options.prefill_chunk,
            banned=unwritable(engine),
            on_progress=self._liveness.note,
            lookup_tasks=self.options.lookup_tasks,
            cache_reuse=self.options.cache_reuse,
        )
        self._warm_up(shop)
        shop.adapters.prefetch_defaults()
        self._load_ms = (time.monotonic() - started) * 1000
        self._shop, self._model = shop, engine.info
        self._settle("ready")
        log.info("model loaded", extra={"engine": engine.name, "load_ms": round(self._load_ms)})
        return shop

    def _warm_up(self, shop: Workshop) -> None:
        """Produce one token before the first request does: it pays for lazy initialisation."""
        handle = self._liveness.self_test(self._thread.wake)
        self._liveness.begin()
        for _ in Generation(handle, shop).run():
            self._liveness.end()
            self._liveness.begin()
        self._liveness.end()
        shop.cache.clear()

    def _settle(self, state: RuntimeState) -> None:
        """Loading has ended so."""
        with self._lock:
            if self._state == "loading":
                self._state = state
        self._loaded.set()
        if not self._awake.done():
            self._awake.set_result(None)

    def _unload(self) -> None:
        """Nobody has come for long, and the thread has released everything but what is held here."""
        self._shop = None
        with self._lock:
            if self._state == "ready":
                self._state = "unloaded"
        self._memory.give_back()
        log.info("model unloaded", extra={"idle_s": round(self.options.idle_unload_s)})

    def _fail(self, error: Exception) -> None:
        self._error = str(error)
        self._settle("failed")
        log.error("model not loaded", extra={"error_type": type(error).__name__})

    # -- helpers --------------------------------------------------------------------------------

    def _ready_shop(self) -> Workshop:
        if self._state == "loading":
            raise NotReady("The model is still loading; ask again in a second.", retry_after_s=1)
        if self._state == "unloaded":
            self.wake()
            raise NotReady("The model was unloaded, and is loading; ask again.", retry_after_s=1)
        if self._state == "failed":
            raise NotReady(f"The model could not be loaded: {self._error}", retry_after_s=None)
        if self._state == "draining":
            raise Draining("The daemon is shutting down; ask again when it is back.")
        if self._liveness.is_stalled:
            raise NotReady(
                "Generation does not move; ask again when the daemon has started anew.",
                retry_after_s=RETRY_AFTER_S,
            )
        shop = self._shop
        if shop is None:  # it goes just now
            raise NotReady("The model is being unloaded; ask again.", retry_after_s=1)
        return shop

    def _start_self_test(self) -> None:
        with contextlib.suppress(Draining, EngineFailed, NotReady):
            self._thread.submit(self._liveness.self_test(self._thread.wake), is_urgent=True)


def _load_speech(shop: Workshop) -> Generator[bool, None, SpeechInfo]:
    info = shop.speech.model().info
    yield True
    return info


def _forget_personas(shop: Workshop) -> Generator[bool, None, None]:
    shop.cache.drop(lambda key: key.persona_version != 0)
    yield True
