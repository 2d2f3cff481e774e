"""What a person writes, and what they call their things, is nowhere but where it belongs.

A real daemon gets a canary in every field of every route; then its logs, crash file, output, metrics, status,
events, trace, diagnostics bundle and temporary folder are searched for it.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
import threading
import time
import zipfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
import websockets
from websockets.sync.client import connect

from tests.daemon.canary_requests import MARK, Sent, application, canary, requests_of, routes
from tests.daemon.conftest import Daemon, environment

PATIENCE_S = 60.0

# Routes that no request of this test can make succeed, and why. Everything else has to, once.
REFUSED = {
    "POST /v1/adapters/{name}/load": "no adapter has a canary's name",
    "POST /v1/adapters/{name}/unload": "likewise",
    "POST /v1/folders": "only folders of the configuration, and it has none",
    "DELETE /v1/folders/{name}": "likewise",
    "GET /v1/models/{model_id}": "no model has a canary's name",
    "DELETE /v1/requests/{request_id}": "that request is over",
    "POST /v1/pair": "no code is offered",
    "DELETE /v1/pairings/{pairing_id}": "likewise",
    "POST /lora-adapters": "there is no adapter to scale",
    "POST /props": "not here",
    "POST /slots/{id_slot}": "not here",
    "POST /infill": "not here",
    "POST /apply-template": "not here",
    "POST /v1/audio/transcriptions": "the scripted engine hears nothing",
}
LAST = ("DELETE /v1/persona", "DELETE /v1/stats")  # they end what the others need


@dataclass
class Evidence:
    """places: what was found where. statuses: every status that a route answered with."""

    places: dict[str, bytes] = field(default_factory=dict)
    statuses: dict[str, set[int]] = field(default_factory=lambda: defaultdict(set))
    answers: str = ""


@pytest.fixture(scope="module")
def evidence(tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    """A daemon's whole life, told everything that must not come out."""
    folder = tmp_path_factory.mktemp("canaries")
    home, temporary = folder / "home", folder / "tmp"
    temporary.mkdir()
    trace = folder / "trace.json"
    env = environment(home, PUSHKIN_LOG_LEVEL="debug", TMPDIR=str(temporary))
    command = [sys.executable, "-m", "daemon", "serve", "--json", "--trace", str(trace)]
    daemon = Daemon(command, home, env)
    found = Evidence()
    try:
        daemon.wait_for("ready")
        with daemon.client() as client, listening(daemon) as heard:
            _speak(client, found)
            _speak_over_websockets(daemon)
            found.places["status"] = client.get("/v1/status").content
            found.places["metrics"] = client.get("/metrics").content
            _diagnose(folder, env, found)
            for sent in _sent(last=True):
                _send(client, sent, found)
        assert daemon.stop() == 0
        found.places["events"] = _without_ids(heard)
        found.places["output"] = _rest_of(daemon)
    finally:
        daemon.close()
    found.places |= {
        "log": b"".join(path.read_bytes() for path in home.glob("logs/daemon.jsonl*")),
        "faults": (home / "logs" / "faults.log").read_bytes(),
        "trace": trace.read_bytes(),
        "statistics": b"".join(path.read_bytes() for path in home.glob("stats.sqlite3*")),
        "temporary folder": _everything_in(temporary),
        "names in the home": "\n".join(map(str, home.rglob("*"))).encode(),
    }
    return found


PLACES = (
    "status", "metrics", "events", "output", "log", "faults", "trace", "diagnosis", "statistics",
    "temporary folder", "names in the home",
)  # fmt: skip


@pytest.mark.parametrize("place", PLACES)
def test_no_canary_is_found(evidence, place):
    content = evidence.places[place]
    at = content.find(MARK.encode())

    assert at < 0, f"{place}: {content[max(0, at - 300) : at + 100]!r}"


def test_every_place_was_looked_at(evidence):
    assert set(evidence.places) == set(PLACES)
    assert b'"event": "request finished"' in evidence.places["log"]
    assert b"/v1/continue" in evidence.places["trace"]
    assert b"pushkin_build_info" in evidence.places["diagnosis"]


def test_the_search_finds_what_is_there(evidence):
    """The user's own export is one of the few answers that may hold their text."""
    assert MARK in evidence.answers


def test_every_route_was_reached(evidence):
    counted = evidence.places["metrics"].decode()
    missing = [
        route
        for route in routes(application())
        if route not in LAST and f'route="{route.partition(" ")[2]}"' not in counted
    ]

    assert not missing


def test_every_route_did_its_work_once(evidence):
    """A route whose canaries were all refused has not been tested: teach `canary_requests` its body."""
    refused = [
        route
        for route in routes(application())
        if not route.startswith("WEBSOCKET")
        and route not in REFUSED
        and not any(status < 300 for status in evidence.statuses[route])
    ]

    assert not refused
    assert set(REFUSED) <= set(routes(application()))


def test_nothing_broke(evidence):
    broken = {route: found for route, found in evidence.statuses.items() if 500 in found}

    assert not broken


# -- speaking ------------------------------------------------------------------------------------


def _speak(client: httpx.Client, found: Evidence) -> None:
    client.put("/v1/consent", json={"global": "on"})
    client.put("/v1/stats/consent", json={"counts": True})
    document = canary(schema={"pattern": ""})
    client.put(f"/v1/documents/{document}", json={"text": canary(), "revision": 1})
    _until_indexed(client, document)
    for sent in _sent(last=False):
        _send(client, sent, found)
    answer = client.post("/v1/continue", json={"text": canary(), "max_tokens": 4}).json()
    edited = {"request_id": answer["id"], "outcome": "edited", "text": canary()}
    assert client.post("/v1/feedback", json=edited).json()["recorded"]
    found.answers += client.get("/v1/persona/export").text
    for method in ("GET", "DELETE"):
        route = f"{method} /v1/documents/{{document_id}}"
        _send(client, Sent(route, f"/v1/documents/{document}"), found)
    client.request(canary(schema={"pattern": ""}).upper(), f"/{canary(schema={'pattern': ''})}")


def _sent(*, last: bool) -> Iterator[Sent]:
    return (sent for sent in requests_of(application()) if (sent.route in LAST) == last)


def _send(client: httpx.Client, sent: Sent, found: Evidence) -> None:
    method = sent.route.partition(" ")[0]
    headers = dict(sent.headers)
    if sent.content_type:
        headers["Content-Type"] = sent.content_type
    with client.stream(
        method,
        sent.path,
        content=sent.content,
        data=sent.data,
        files=sent.files,
        headers=headers,
    ) as response:
        found.statuses[sent.route].add(response.status_code)
        if not sent.route.startswith("GET /v1/events"):
            response.read()


def _speak_over_websockets(daemon: Daemon) -> None:
    token = (daemon.home / "token").read_text().strip()
    for route in routes(application()):
        method, _, path = route.partition(" ")
        if method != "WEBSOCKET":
            continue
        for message in (
            json.dumps({"type": "start", "before": canary(), "after": canary(), "x": canary()}),
            json.dumps({"type": "start", "before": canary(), "after": canary()}),
            canary(),
        ):
            headers = {"Authorization": f"Bearer {token}"}
            address = f"ws://127.0.0.1:{daemon.port}{path}?{MARK}=1"
            try:
                with connect(address, additional_headers=headers, proxy=None) as socket:
                    socket.send(message)
                    socket.send('{"type": "stop"}')
                    socket.recv(timeout=PATIENCE_S)
            except (websockets.WebSocketException, TimeoutError):
                continue


def _until_indexed(client: httpx.Client, document: str) -> None:
    give_up_at = time.monotonic() + PATIENCE_S
    while client.get(f"/v1/documents/{document}").json().get("document") is None:
        assert time.monotonic() < give_up_at


# -- listening and looking -----------------------------------------------------------------------


class listening:
    """Everything `/v1/events` says while the block lasts."""

    def __init__(self, daemon: Daemon) -> None:
        self._client, self._lines = daemon.client(), []
        self._is_heard = threading.Event()
        self._thread = threading.Thread(target=self._listen)

    def _listen(self) -> None:
        try:
            with self._client.stream("GET", "/v1/events") as response:
                for line in response.iter_lines():
                    self._is_heard.set()
                    self._lines.append(line)
        except httpx.HTTPError:
            return

    def __enter__(self) -> list[str]:
        self._thread.start()
        assert self._is_heard.wait(PATIENCE_S)
        return self._lines

    def __exit__(self, *_: object) -> None:
        self._client.close()


def _without_ids(lines: list[str]) -> bytes:
    """Events without the ids and names that they tell of by contract."""

    def stripped(value: object) -> object:
        if isinstance(value, dict):
            return {k: stripped(v) for k, v in value.items() if k not in ("document_id", "client")}
        return value

    data = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
    assert data
    return json.dumps([stripped(json.loads(item)) for item in data]).encode()


def _diagnose(folder: Path, env: dict[str, str], found: Evidence) -> None:
    bundle = folder / "bundle.zip"
    command = [sys.executable, "-m", "daemon", "diagnose", "--yes", "--output", str(bundle)]
    subprocess.run(command, env=env, check=True, capture_output=True, timeout=PATIENCE_S)
    assert bundle.stat().st_mode & 0o777 == 0o600
    with zipfile.ZipFile(io.BytesIO(bundle.read_bytes())) as opened:
        parts = [name.encode() + b"\n" + opened.read(name) for name in opened.namelist()]
    content = b"\n".join(parts)
    token = (Path(env["PUSHKIN_HOME"]) / "token").read_bytes().strip()
    assert token not in content
    assert str(folder).encode() not in content
    found.places["diagnosis"] = content


def _rest_of(daemon: Daemon) -> bytes:
    assert daemon.process.stdout is not None
    assert daemon.process.stderr is not None
    return (daemon.process.stdout.read() + daemon.process.stderr.read()).encode()


def _everything_in(folder: Path) -> bytes:
    parts = []
    for path in folder.rglob("*"):
        parts.append(str(path.relative_to(folder)).encode())
        if path.is_file():
            parts.append(path.read_bytes())
    return b"\n".join(parts)
