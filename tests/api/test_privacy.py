"""What a person writes is in no log record and in no error, whatever happens."""

from __future__ import annotations

import json
import logging

import pytest

from pushkin_runtime.types import Delta

pytestmark = pytest.mark.anyio

CANARY = "КАНАРЕЙКА-canary-7"


class Recorder(logging.Handler):
    """Keeps everything a record could show: message, arguments, extras, tracebacks."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.seen: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.name.startswith("http"):
            return  # the test's own client
        trace = logging.Formatter().format(record) if record.exc_info else ""
        self.seen.append(f"{record.getMessage()} {record.__dict__!r} {trace}")


@pytest.fixture
def recorder():
    recorder = Recorder()
    root = logging.getLogger()
    level = root.level
    root.addHandler(recorder)
    root.setLevel(logging.DEBUG)
    yield recorder
    root.removeHandler(recorder)
    root.setLevel(level)


REQUESTS = [
    ("/v1/continue", {"text": CANARY}),
    ("/v1/continue", {"text": CANARY, "suffix": CANARY, "stop": [CANARY], "stream": True}),
    ("/v1/rephrase", {"text": CANARY, "instruction": CANARY, "before": CANARY, "explain": True}),
    ("/v1/story", {"prompt": CANARY, "document_id": CANARY}),
    ("/v1/continue", {"text": CANARY, "n": CANARY}),
    ("/v1/continue", {"text": [CANARY], "quality": CANARY, "persona": CANARY}),
    ("/v1/continue", {"text": CANARY, "adapters": [{"name": CANARY}]}),
    ("/v1/continue", {"text": CANARY, "quality": "best"}),
    ("/v1/continue", {"text": CANARY + "\ud800"}),
    ("/v1/continue", [CANARY]),
    ("/completion", {"prompt": CANARY}),
    ("/completion", {"prompt": [CANARY, [CANARY, 2]], "stop": [CANARY], "stream": True}),
    ("/completion", {"prompt": CANARY, "n_predict": CANARY, "logit_bias": {CANARY: CANARY}}),
    ("/completion", {"prompt": CANARY, "grammar": CANARY, "samplers": [CANARY]}),
    ("/completion", {"prompt": CANARY * 1000, "response_fields": [CANARY]}),
    ("/tokenize", {"content": CANARY}),
    ("/infill", {"input_prefix": CANARY, "input_suffix": CANARY}),
    (f"/v1/{CANARY}", {}),
]


@pytest.mark.parametrize(("path", "body"), REQUESTS)
async def test_no_log_record_and_no_error_holds_the_text(start_daemon, recorder, path, body):
    daemon = start_daemon([CANARY])
    async with daemon.client() as client:
        content = json.dumps(body)
        response = await client.post(
            path, content=content, headers={"Content-Type": "application/json"}
        )
        await client.delete(f"/v1/requests/{CANARY}")

    assert recorder.seen
    assert not [line for line in recorder.seen if CANARY in line or "canary-7" in line]
    if response.status_code != 200:
        assert "canary-7" not in response.text


async def test_a_broken_body_is_not_quoted(daemon, recorder):
    async with daemon.client() as client:
        response = await client.post(
            "/v1/continue",
            content=f'{{"text": "{CANARY}" oops'.encode(),
            headers={"Content-Type": "application/json"},
        )

    assert response.status_code == 400
    assert "canary-7" not in response.text + "".join(recorder.seen)


@pytest.mark.parametrize("stream", [False, True])
async def test_an_unforeseen_failure_is_logged_by_place_and_class_only(
    start_daemon, recorder, stream
):
    daemon = start_daemon()

    def submit(request, sink):
        if stream:
            handle = daemon.runtime.inner.submit(request, lambda _: None)
            sink(Delta(0, "first"))
            sink(Delta(0, "\ud800"))  # cannot be sent: the stream must still end as a stream
            return handle
        raise ValueError(request.text)

    daemon.services.runtime.submit = submit
    async with daemon.client() as client:
        response = await client.post("/v1/continue", json={"text": CANARY, "stream": stream})

    assert response.status_code == (200 if stream else 500)
    assert '"code":"internal_error"' in response.text
    assert any("request failed" in line and "error_type" in line for line in recorder.seen)
    assert "canary-7" not in response.text + "".join(recorder.seen)
