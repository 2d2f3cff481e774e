"""`GET /metrics`, and the event in the log that every request leaves."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from api.metrics.index_meter import IndexMeter
from api.metrics.instruments import Metrics
from api.metrics.process import cpu_seconds, open_files, resident_bytes, resident_of
from api.metrics.recent import RecentGenerations, quantile
from indexer.records import IndexEvent, Job
from pushkin_runtime.types import Timings, Usage

pytestmark = pytest.mark.anyio

Sample = tuple[str, frozenset[tuple[str, str]]]


def samples(page: str) -> dict[Sample, float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }


async def scrape(client) -> dict[Sample, float]:
    response = await client.get("/metrics")
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    return samples(response.text)


def value(found: dict[Sample, float], name: str, **labels: str) -> float:
    return found[(name, frozenset(labels.items()))]


async def test_a_generation_is_counted_by_stage_tokens_and_end(start_daemon):
    daemon = start_daemon(["one two three"])
    async with daemon.client() as client:
        answer = (await client.post("/v1/continue", json={"text": "abc", "max_tokens": 4})).json()
        found = await scrape(client)

    task = {"task": "continue"}
    usage = answer["usage"]
    assert value(found, "pushkin_generations_total", **task, finish_reason="length") == 1
    assert value(found, "pushkin_prompt_tokens_total", **task) == usage["prompt_tokens"]
    assert value(found, "pushkin_completion_tokens_total", **task) == 4
    for stage in ("queue", "adapter", "persona", "prefill", "decode", "total", "ttft"):
        assert value(found, "pushkin_stage_seconds_count", **task, stage=stage) == 1
    total_s = value(found, "pushkin_stage_seconds_sum", **task, stage="total")
    assert total_s == pytest.approx(answer["timings"]["total_ms"] / 1000, abs=1e-5)


async def test_tokens_from_the_cache_are_told_apart(start_daemon):
    daemon = start_daemon(["one"])
    async with daemon.client() as client:
        for _ in range(2):
            await client.post("/v1/continue", json={"text": "the same text", "max_tokens": 1})
        found = await scrape(client)

    n_prompt = value(found, "pushkin_prompt_tokens_total", task="continue")
    n_cached = value(found, "pushkin_cached_prompt_tokens_total", task="continue")
    assert 0 < n_cached < n_prompt
    assert value(found, "llamacpp:prompt_tokens_total") == n_prompt - n_cached


async def test_llama_server_names_are_on_the_page(start_daemon):
    daemon = start_daemon(["one two three"])
    async with daemon.client() as client:
        await client.post("/v1/continue", json={"text": "abc", "max_tokens": 4, "n": 2})
        found = await scrape(client)

    assert value(found, "llamacpp:tokens_predicted_total") == 8
    assert value(found, "llamacpp:n_decode_total") == 4
    assert value(found, "llamacpp:n_busy_slots_per_decode") == 2
    assert value(found, "llamacpp:requests_processing") == 0
    for name in (
        "prompt_seconds_total", "tokens_predicted_seconds_total", "prompt_tokens_seconds",
        "predicted_tokens_seconds", "requests_deferred",
    ):  # fmt: skip
        assert value(found, f"llamacpp:{name}") >= 0


async def test_a_broken_generation_is_counted_as_failed(start_daemon):
    daemon = start_daemon(fail_after=0)
    async with daemon.client() as client:
        assert (await client.post("/v1/continue", json={"text": "abc"})).status_code == 500
        found = await scrape(client)

    assert value(found, "pushkin_generations_total", task="continue", finish_reason="failed") == 1
    assert value(
        found, "pushkin_http_requests_total", method="POST", route="/v1/continue", status="500"
    ) == 1  # fmt: skip


async def test_no_client_can_make_labels(start_daemon):
    daemon = start_daemon()
    async with daemon.client() as client:
        for path in ("/my/secret/novel", "/v1/documents/my-secret-novel", "/v1/models/my-secret"):
            await client.get(path, headers={"X-Request-Id": "my-secret-id"})
        await client.request("SECRET", "/v1/continue")
        page = (await client.get("/metrics")).text

    assert "secret" not in page.lower()
    assert 'method="other"' in page
    assert 'route="/v1/models/{model_id}"' in page


async def test_the_page_needs_the_token(daemon):
    async with daemon.client(**{"X-None": "1"}) as client:
        assert (await client.get("/metrics")).status_code == 401


async def test_the_page_says_what_the_process_and_the_runtime_hold(start_daemon):
    daemon = start_daemon()
    async with daemon.client() as client:
        await client.post("/v1/continue", json={"text": "abc"})
        found = await scrape(client)

    assert value(found, "process_resident_memory_bytes") > 2**20
    assert value(found, "process_cpu_seconds_total") > 0
    assert value(found, "process_open_fds") > 2
    assert value(found, "pushkin_ready") == 1
    assert value(found, "pushkin_kv_cache_entries") == 1
    assert value(found, "pushkin_last_token_age_seconds") >= 0
    assert value(found, "pushkin_heartbeat_age_seconds") == 0
    build = {"version": "0.1.0", "engine": "scripted", "model": "scripted"}
    assert value(found, "pushkin_build_info", **build) == 1


def test_figures_of_the_process_are_plausible():
    assert (resident_bytes() or 0) > 2**20
    assert cpu_seconds() > 0
    assert (open_files() or 0) > 2


def test_memory_on_macos_is_the_footprint():
    import struct

    assert resident_of(struct.pack("=16s10Q", b"", 1, 2, 3, 4, 5, 6, 70, 80, 9, 10)) == 80
    assert resident_of(struct.pack("=16s10Q", b"", 1, 2, 3, 4, 5, 6, 70, 0, 9, 10)) == 70


# -- what is recent ------------------------------------------------------------------------------


def timings(ttft_ms: float | None) -> Timings:
    return Timings(
        queue_ms=0, adapter_ms=0, persona_ms=0, prefill_ms=0, ttft_ms=ttft_ms, decode_ms=10,
        total_ms=20, tokens_per_second=50,
    )  # fmt: skip


def test_only_the_last_minutes_count():
    now = [0.0]
    recent = RecentGenerations(lambda: now[0])
    usage = Usage(prompt_tokens=10, cached_tokens=5, completion_tokens=1)
    for ttft_ms in (1000.0, 10.0, 20.0, None):
        recent.add(usage, timings(ttft_ms))
        now[0] += 100

    summary = recent.summary(window_s=300)

    assert (summary.n_generations, summary.ttft_p50_ms, summary.ttft_p95_ms) == (3, 10.0, 20.0)
    assert (summary.cache_hit_share, summary.tokens_per_second) == (0.5, 50)
    now[0] += 1000
    assert recent.summary().ttft_p50_ms is None


@pytest.mark.parametrize(
    ("share", "expected"), [(0.5, 50), (0.95, 95), (0.99, 99), (1.0, 100), (0.0, 1)]
)
def test_quantiles_are_nearest_rank(share, expected):
    assert quantile([float(n) for n in range(100, 0, -1)], share) == expected


# -- the index -----------------------------------------------------------------------------------


def test_paragraphs_of_a_job_are_counted_once():
    metrics = Metrics()
    meter: IndexMeter = metrics.index

    def tell(state, n_embedded, finished_at=None):
        job = Job(id="j", kind="index", state=state, n_embedded=n_embedded, finished_at=finished_at)
        meter.heard(IndexEvent(kind="job", job=job))

    tell("queued", 0)
    tell("running", 3)
    assert meter.n_waiting == 1
    tell("running", 5)
    tell("done", 7, finished_at=1.0)

    read = metrics.registry.get_sample_value
    assert read("pushkin_index_embedded_paragraphs_total") == 7
    assert read("pushkin_index_jobs_total", {"kind": "index", "state": "done"}) == 1
    assert meter.n_waiting == 0


# -- the log -------------------------------------------------------------------------------------


@pytest.fixture
def logged() -> Iterator[Callable[[], dict[str, object]]]:
    """`logged()`: the fields of the newest "request finished"."""
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = records.append  # type: ignore[method-assign]
    log = logging.getLogger("pushkin.api")
    before = log.level
    log.setLevel(logging.DEBUG)
    log.addHandler(handler)
    yield lambda: vars([r for r in records if r.msg == "request finished"][-1])
    log.removeHandler(handler)
    log.setLevel(before)


async def test_a_request_leaves_one_event_with_its_numbers(start_daemon, logged):
    daemon = start_daemon(["one two"])
    body = {"text": "abc", "max_tokens": 2, "n": 2}
    async with daemon.client() as client:
        response = await client.post("/v1/continue", json=body)

    event = logged()
    assert (event["method"], event["route"], event["status"]) == ("POST", "/v1/continue", 200)
    assert event["finish_reasons"] == ["length"]  # the second row wrote the same and was dropped
    assert event["completion_tokens"] == response.json()["usage"]["completion_tokens"]
    assert event["n_bytes_out"] == len(response.content)
    assert event["n_bytes_in"] == int(response.request.headers["content-length"])
    assert event["levelname"] == "INFO"


async def test_the_path_is_logged_as_its_template(start_daemon, logged):
    daemon = start_daemon()
    async with daemon.client() as client:
        await client.delete("/v1/requests/my-secret-id")

    assert logged()["route"] == "/v1/requests/{request_id}"
    assert "finish_reasons" not in logged()


async def test_a_client_that_leaves_is_logged_as_cancelled(start_daemon, open_call, logged):
    daemon = start_daemon(gated=True, endless=True)
    async with open_call(daemon, "/v1/continue", {"text": "abc", "stream": True}) as call:
        await daemon.runtime.submitted(1)
        call.leave()
        await daemon.runtime.ending()
        daemon.permits.release(10_000)

    assert logged()["finish_reasons"] == ["cancelled"]


async def test_looking_is_logged_for_debugging_only(daemon, logged):
    async with daemon.client() as client:
        await client.get("/v1/status")
        assert logged()["levelname"] == "DEBUG"
        await client.get("/nowhere")
        assert (logged()["levelname"], logged()["route"]) == ("INFO", None)
