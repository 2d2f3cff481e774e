"""A web page in a real browser against a real daemon that asks for no token: nothing reaches a handler.

The page is on another port of the loopback interface, which no permission prompt of the browser guards, or
under a name that an attacker's DNS has turned to 127.0.0.1. It tries everything a page can, and reports to its
own server what came of it; the daemon's log says what it saw.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
PATIENCE_S = 60
REBOUND = "rebound.test"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        CHROMIUM is None,
        reason="NO BROWSER WAS TRIED: install chromium to see that web pages are kept out",
    ),
]

PAGE = """<!doctype html><title>page</title><body><script>
const base = "http://TARGET", results = {};
const writing = JSON.stringify({text: "A", max_tokens: 1});
const json = {"Content-Type": "application/json"};
async function attempt(name, action) {
  const late = new Promise((_, reject) => setTimeout(() => reject(new Error("no answer")), 5000));
  try { results[name] = "ok " + await Promise.race([action(), late]); }
  catch (error) { results[name] = "failed " + error; }
}
const status = async (path, options) => {
  const answer = await fetch(base + path, options);
  return answer.type + " " + answer.status + " " + (await answer.text());
};
const loaded = (tag, source, extra = {}) => new Promise((resolve, reject) => {
  const element = Object.assign(document.createElement(tag), extra, {[source]: base + "/v1/models"});
  element.onload = () => resolve("loaded"); element.onerror = () => reject(new Error("error"));
  document.body.append(element);
});
const submit = (enctype, method, path) => new Promise((resolve) => {
  const frame = Object.assign(document.createElement("iframe"), {name: enctype + method});
  const form = Object.assign(document.createElement("form"),
    {action: base + path, method, enctype, target: frame.name});
  form.append(Object.assign(document.createElement("input"), {name: '{"text": "A", "x', value: '": 1}'}));
  document.body.append(frame, form);
  frame.onload = () => resolve("submitted"); form.submit();
});
(async () => {
  await attempt("fetch cors GET", () => status("/v1/models", {}));
  await attempt("fetch cors health", () => status("/health", {}));
  await attempt("fetch cors POST json", () => status("/v1/continue", {method: "POST", headers: json, body: writing}));
  await attempt("fetch cors POST with a key", () =>
    status("/v1/continue", {method: "POST", headers: {...json, "X-Api-Key": "guess"}, body: writing}));
  await attempt("fetch cors credentials", () => status("/v1/models", {credentials: "include"}));
  await attempt("fetch cors DELETE", () => status("/v1/documents/a", {method: "DELETE"}));
  await attempt("fetch cors PUT", () => status("/v1/consent", {method: "PUT", headers: json, body: '{"global": "on"}'}));
  await attempt("fetch no-cors GET", () => status("/v1/models", {mode: "no-cors"}));
  await attempt("fetch no-cors POST text", () => status("/v1/continue", {mode: "no-cors", method: "POST", body: writing}));
  await attempt("fetch no-cors POST blob", () =>
    status("/v1/continue", {mode: "no-cors", method: "POST", body: new Blob([writing])}));
  await attempt("fetch no-cors POST urlencoded", () =>
    status("/v1/continue", {mode: "no-cors", method: "POST", body: new URLSearchParams({text: "A"})}));
  const file = new FormData(); file.append("file", new Blob(["RIFF"]), "a.wav");
  await attempt("fetch no-cors POST form", () =>
    status("/v1/audio/transcriptions", {mode: "no-cors", method: "POST", body: file}));
  await attempt("fetch no-cors pair", () =>
    status("/v1/pair", {mode: "no-cors", method: "POST", body: '{"code": "000000", "client": "page"}'}));
  await attempt("fetch no referrer", () => status("/v1/models", {mode: "no-cors", referrerPolicy: "no-referrer"}));
  await attempt("beacon", async () => navigator.sendBeacon(base + "/v1/continue", new Blob([writing])));
  await attempt("XMLHttpRequest", () => new Promise((resolve, reject) => {
    const request = new XMLHttpRequest(); request.open("POST", base + "/v1/continue");
    request.onload = () => resolve(request.status + request.responseText);
    request.onerror = () => reject(new Error("error")); request.send(writing);
  }));
  await attempt("WebSocket", () => new Promise((resolve, reject) => {
    const socket = new WebSocket(base.replace("http", "ws") + "/v1/dictation");
    socket.onopen = () => resolve("opened"); socket.onerror = () => reject(new Error("error"));
  }));
  await attempt("EventSource", () => new Promise((resolve, reject) => {
    const source = new EventSource(base + "/v1/events");
    source.onopen = () => resolve("opened");
    source.onerror = () => { source.close(); reject(new Error("error")); };
  }));
  await attempt("img", () => loaded("img", "src"));
  await attempt("script", () => loaded("script", "src"));
  await attempt("style", () => loaded("link", "href", {rel: "stylesheet"}));
  await attempt("audio", () => loaded("audio", "src"));
  await attempt("frame", () => loaded("iframe", "src"));
  await attempt("form urlencoded", () => submit("application/x-www-form-urlencoded", "post", "/v1/continue"));
  await attempt("form multipart", () => submit("multipart/form-data", "post", "/v1/audio/transcriptions"));
  await attempt("form text", () => submit("text/plain", "post", "/v1/continue"));
  await attempt("form GET", () => submit("application/x-www-form-urlencoded", "get", "/v1/persona/export"));
  await attempt("window", async () => { open(base + "/v1/models"); return "opened"; });
  await fetch("/report", {method: "POST", body: JSON.stringify(results)});
  location = base + "/v1/status";
})();
</script>"""


class Site:
    """The page's own server; `results` is set when the page has tried everything."""

    def __init__(self) -> None:
        self.target = ""
        self.results: dict[str, str] = {}
        self.reported = threading.Event()


@contextmanager
def serving(site: Site) -> Iterator[int]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(PAGE.replace("TARGET", site.target).encode())

        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers["content-length"]))
            site.results = json.loads(content)
            self._answer(b"")
            site.reported.set()

        def _answer(self, body: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


@contextmanager
def chromium(url: str, profile: Path) -> Iterator[subprocess.Popen[bytes]]:
    assert CHROMIUM is not None
    flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-sync",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-dev-shm-usage",
        "--disable-popup-blocking",
        "--remote-debugging-port=0",
    ]
    rules = f"--host-resolver-rules=MAP {REBOUND} 127.0.0.1, MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost"
    process = subprocess.Popen(
        [CHROMIUM, *flags, rules, f"--user-data-dir={profile}", url],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(PATIENCE_S)


def requests_seen(home: Path) -> list[dict[str, Any]]:
    """What the daemon's log says about each request: its method, its route if a handler was reached, its status."""
    lines = (home / "logs" / "daemon.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    return [record for record in records if "duration_ms" in record and "method" in record]


@pytest.mark.parametrize(
    ("page_host", "target_host"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("localhost", "127.0.0.1"),
        (REBOUND, "127.0.0.1"),
        (REBOUND, REBOUND),
    ],
)
def test_nothing_a_page_does_reaches_a_handler(
    start_daemon, tmp_path: Path, page_host: str, target_host: str
) -> None:
    daemon = start_daemon(tmp_path / "home", "--no-auth", PUSHKIN_LOG_LEVEL="debug")
    site = Site()
    site.target = f"{target_host}:{daemon.port}"
    with serving(site) as port, chromium(f"http://{page_host}:{port}/", tmp_path / "profile"):
        assert site.reported.wait(PATIENCE_S), "the page did not come to its end"
    own = httpx.get(f"http://127.0.0.1:{daemon.port}/health", trust_env=False)
    assert daemon.stop() == 0

    seen = requests_seen(daemon.home)
    reached = [record["route"] for record in seen if record.get("route") is not None]
    assert (own.status_code, reached) == (200, ["/health"])  # ours: the log does show who gets in
    seen = [record for record in seen if record.get("route") is None]
    http = {record["status"] for record in seen if record["method"] != "WEBSOCKET"}
    assert http <= {403, 421}
    assert {record["method"] for record in seen} >= {"GET", "POST", "OPTIONS", "WEBSOCKET"}
    assert len(seen) >= 20  # they did arrive: it was the daemon that refused them
    told = {name for name, result in site.results.items() if result.startswith("ok")}
    opaque = {name for name in told if site.results[name] == "ok opaque 0 "}
    assert told - opaque <= BLIND


# What a page cannot see the end of has worked in its eyes; there the daemon's log is what counts.
BLIND = {"beacon", "window", "frame", "form urlencoded", "form multipart", "form text", "form GET"}


def test_a_page_of_a_rebound_name_on_the_daemons_own_port_is_not_answered(
    start_daemon, tmp_path: Path
) -> None:
    """After the rebinding the page's origin is the daemon's, so that browsers vouch for it: Host alone tells."""
    daemon = start_daemon(tmp_path / "home", "--no-auth", PUSHKIN_LOG_LEVEL="debug")
    assert CHROMIUM is not None
    shown = subprocess.run(
        [
            *(
                CHROMIUM,
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--dump-dom",
                "--no-first-run",
            ),
            *("--disable-dev-shm-usage", "--disable-background-networking", "--disable-quic"),
            f"--host-resolver-rules=MAP {REBOUND} 127.0.0.1",
            f"--user-data-dir={tmp_path / 'profile'}",
            f"http://{REBOUND}:{daemon.port}/v1/models",
        ],
        capture_output=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert daemon.stop() == 0

    assert b"host_refused" in shown.stdout
    assert {(record.get("route"), record["status"]) for record in requests_seen(daemon.home)} == {
        (None, 421)
    }
