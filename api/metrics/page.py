"""The page of `GET /metrics`: the instruments, and what is read off the daemon at that moment.

llama-server's names stand on the same page, so that its dashboards and scrapers work unchanged.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from prometheus_client import generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.metrics_core import Metric

from api.metrics import process
from api.metrics.instruments import LlamaTotals, Metrics
from audio.dictation import DictationLoad
from indexer.store import Totals
from pushkin_runtime.types import RuntimeStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """What is true while the page is written. index, dictation: None without, or while it is not open.

    started_at: Unix seconds.
    """

    version: str
    started_at: float
    uptime_s: float
    status: RuntimeStatus
    n_listeners: int
    index: Totals | None
    dictation: DictationLoad | None = None


def metrics_page(metrics: Metrics, moment: Moment) -> bytes:
    """Return the page in Prometheus' text format 0.0.4."""
    return generate_latest(_Page(metrics, moment))


class _Page:
    """The instruments of a registry and the figures of a moment, as one thing to collect."""

    def __init__(self, metrics: Metrics, moment: Moment) -> None:
        self._metrics, self._moment = metrics, moment

    def collect(self) -> Iterable[Metric]:
        yield from self._metrics.registry.collect()
        yield from _runtime_figures(self._moment)
        yield from _index_figures(self._moment, self._metrics.index.n_waiting)
        yield from _dictation_figures(self._moment.dictation)
        yield from _process_figures(self._moment)
        yield from _llama_figures(self._metrics.llama, self._moment.status)


def _runtime_figures(moment: Moment) -> Iterator[Metric]:
    status = moment.status
    model = status.model.id if status.model else ""
    facts = {"version": moment.version, "engine": status.engine, "model": model}
    yield InfoMetricFamily("pushkin_build", "What runs.", value=facts)
    # Not `health()`: that may ask for a token, and a scrape must not wake a machine that rests.
    yield _gauge(
        "ready", "1 while the model is loaded and takes requests.", status.state == "ready"
    )
    yield _gauge("uptime_seconds", "Since the daemon started.", moment.uptime_s)
    yield _gauge("queued_requests", "Requests waiting for a turn.", status.n_queued)
    yield _gauge("active_requests", "Requests taking turns.", status.n_active)
    yield _gauge("queue_limit", "Requests that may wait.", status.queue_limit)
    yield _gauge("kv_cache_entries", "Idle KV caches held.", status.kv_entries)
    yield _gauge("kv_cache_bytes", "Memory of the idle KV caches.", status.kv_bytes)
    yield _gauge("kv_cache_budget_bytes", "The most they may take.", status.kv_budget_bytes)
    yield _gauge("adapters_resident", "Sets of adapters in memory.", status.adapters_resident)
    yield _gauge("adapters_bytes", "Memory of their matrices.", status.adapters_bytes)
    yield _gauge("adapters_budget_bytes", "The most they may take.", status.adapters_budget_bytes)
    yield _gauge("event_listeners", "Clients of GET /v1/events.", moment.n_listeners)
    yield _gauge(
        "heartbeat_age_seconds",
        "Since the inference thread last moved; 0 while it has nothing to do.",
        status.heartbeat_age_s,
    )
    if status.last_token_age_s is not None:
        yield _gauge("last_token_age_seconds", "Since the last token.", status.last_token_age_s)


def _index_figures(moment: Moment, n_waiting: int) -> Iterator[Metric]:
    if moment.index is None:
        return
    yield _gauge("index_documents", "Documents in the index.", moment.index.n_documents)
    yield _gauge("index_paragraphs", "Paragraphs in the index.", moment.index.n_paragraphs)
    yield _gauge("index_bytes", "Size of the index on disk.", moment.index.n_bytes)
    yield _gauge("index_queue", "Jobs of the indexer that have not ended.", n_waiting)


_DICTATION = {
    "utterances": ("n_utterances", "Utterances of sessions that have ended."),
    "recognition_passes": ("n_passes", "Passes of the recogniser."),
    "noises": ("n_empty", "Sounds too short to be speech."),
    "contradicted_commits": (
        "n_contradicted",
        "Commits that a later pass would have put otherwise.",
    ),
    "shed_texts": ("n_shed", "Texts dropped or cut as too fast or repeating."),
    "audio_seconds": ("audio_s", "Sound that was given to the recogniser."),
    "recognition_seconds": ("passes_s", "Time that recognition took."),
}


def _dictation_figures(load: DictationLoad | None) -> Iterator[Metric]:
    if load is None:
        return
    yield _gauge("dictation_sessions", "Sessions that are open.", load.n_sessions)
    yield _gauge(
        "transcriptions", "Recordings being transcribed or waiting.", load.n_transcriptions
    )
    yield _gauge("speech_loaded", "1 while the speech model is in memory.", load.is_loaded)
    yield _counter("dictation_ended", "Sessions that have ended.", load.n_ended)
    for name, (figure, what) in _DICTATION.items():
        yield _counter(f"dictation_{name}", what, load.totals.get(figure, 0))


def _process_figures(moment: Moment) -> Iterator[Metric]:
    """Under the names that every Prometheus client library uses."""
    cpu = CounterMetricFamily("process_cpu_seconds", "Processor time.")
    cpu.add_metric((), process.cpu_seconds())
    yield cpu
    yield GaugeMetricFamily(
        "process_start_time_seconds", "Start, in Unix seconds.", value=moment.started_at
    )
    resident, n_open = process.resident_bytes(), process.open_files()
    if resident is not None:
        yield GaugeMetricFamily("process_resident_memory_bytes", "Memory in RAM.", value=resident)
    if n_open is not None:
        yield GaugeMetricFamily("process_open_fds", "Open descriptors.", value=n_open)


def _llama_figures(totals: LlamaTotals, status: RuntimeStatus) -> Iterator[Metric]:
    """llama-server's page. Its busy slots are our rows of a batch: both count sequences a step."""
    counters = {
        "prompt_tokens": ("Prompt tokens processed.", totals.prompt_tokens),
        "prompt_seconds": ("Prompt process time.", totals.prompt_ms / 1000),
        "tokens_predicted": ("Generation tokens processed.", totals.predicted_tokens),
        "tokens_predicted_seconds": ("Predict process time.", totals.predicted_ms / 1000),
        "n_decode": ("Decode steps.", totals.n_steps),
    }
    gauges = {
        "n_busy_slots_per_decode": (
            "Sequences in a decode step, mean.",
            _ratio(totals.predicted_tokens, totals.n_steps),
        ),
        "prompt_tokens_seconds": (
            "Prompt throughput in tokens/s, mean.",
            _ratio(totals.prompt_tokens, totals.prompt_ms / 1000),
        ),
        "predicted_tokens_seconds": (
            "Generation throughput in tokens/s, mean.",
            _ratio(totals.predicted_tokens, totals.predicted_ms / 1000),
        ),
        "requests_processing": ("Requests processing.", status.n_active),
        "requests_deferred": ("Requests deferred.", status.n_queued),
    }
    for name, (what, value) in counters.items():
        counter = CounterMetricFamily(f"llamacpp:{name}", what)
        counter.add_metric((), value)
        yield counter
    for name, (what, value) in gauges.items():
        yield GaugeMetricFamily(f"llamacpp:{name}", what, value=value)


def _gauge(name: str, what: str, value: float) -> Metric:
    return GaugeMetricFamily(f"pushkin_{name}", what, value=value)


def _counter(name: str, what: str, value: float) -> Metric:
    counter = CounterMetricFamily(f"pushkin_{name}", what)
    counter.add_metric((), value)
    return counter


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
