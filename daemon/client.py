"""The daemon over HTTP, as the command line sees it. Loopback only, never through a proxy."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from daemon.auth_token import read_token
from daemon.errors import (
    AuthError,
    DaemonError,
    InputError,
    LoadFailed,
    NotRunning,
    RequestFailed,
    TryLater,
)
from daemon.instance import Endpoint, find_daemon
from daemon.unix_socket import is_owners
from daemon.writing import Body, Finished, Piece, Task, Waiting, WritingEvent

if TYPE_CHECKING:
    import httpx

    from daemon.config import Loaded

_CONNECT_TIMEOUT_S = 2.0
_READ_TIMEOUT_S = 60.0  # the daemon sends a comment every 15 s
_LOADING_TIMEOUT_S = 120.0
_LOADING_PAUSE_S = 0.2


def require_daemon(loaded: Loaded) -> Endpoint:
    """Return the live daemon of this home, or raise NotRunning with what to do."""
    endpoint = find_daemon(loaded.paths)
    port, origin = loaded.config.server.port, loaded.origins["server.port"]
    if endpoint is None:
        raise NotRunning(
            f"No daemon of {loaded.paths.home} is running. Start it with `pushkin serve`."
        )
    if origin.startswith(("--", "PUSHKIN_")) and port not in (0, endpoint.port):
        raise NotRunning(
            f"No pushkin daemon on port {port} ({origin}): "
            f"the one of {loaded.paths.home} listens on {endpoint.port}."
        )
    return endpoint


class DaemonClient:
    """One connection to the daemon; a context manager. Errors are DaemonErrors."""

    def __init__(self, loaded: Loaded, endpoint: Endpoint) -> None:
        import httpx

        self._unix_path = _usable_socket(endpoint)
        self._address = f"127.0.0.1:{endpoint.port}"
        self._home = loaded.paths.home
        self._token_file = loaded.paths.token_file
        self._may_send_token = False
        self._open_http = httpx.Client(
            base_url="http://localhost" if self._unix_path else f"http://{self._address}",
            transport=httpx.HTTPTransport(uds=self._unix_path) if self._unix_path else None,
            timeout=httpx.Timeout(_READ_TIMEOUT_S, connect=_CONNECT_TIMEOUT_S),
            trust_env=False,
        )

    @property
    def _http(self) -> httpx.Client:
        """The connection with the token, which is sent to nobody who has not proved to know it."""
        if not self._may_send_token:
            token = read_token(self._token_file)
            if self._unix_path is None:
                self._demand_proof(token)
            self._open_http.headers["Authorization"] = f"Bearer {token}"
            self._may_send_token = True
        return self._open_http

    def _demand_proof(self, token: str) -> None:
        from api.identity import is_proof, key_id, new_nonce
        from api.tokens import token_digest

        digest, nonce = token_digest(token.encode()), new_nonce()
        with _translated():
            question = {"nonce": nonce, "key": key_id(digest)}
            answer = _json_object(self._open_http.get("/health", params=question))
        if not is_proof(answer.get("proof"), digest, nonce, self._address):
            raise AuthError(
                f"What answers at {self._address} did not prove that it is the daemon of {self._home}, so it "
                "was not given the token. See what listens there; `pushkin token --rotate` makes a new one."
            )

    def __enter__(self) -> DaemonClient:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._open_http.close()

    def get(self, path: str) -> dict[str, Any]:
        """Return the JSON object at `path`."""
        with _translated():
            response = self._http.get(path)
            if response.is_error:
                raise _refusal(response)
            answer: dict[str, Any] = response.json()
            return answer

    def send(self, method: str, path: str, **body: Any) -> dict[str, Any]:
        """Send `json`, or `data` and `files`, and return the JSON object that is answered."""
        with _translated():
            response = self._http.request(method, path, **body)
            if response.is_error:
                raise _refusal(response)
            answer: dict[str, Any] = response.json()
            return answer

    def delete(self, path: str) -> None:
        """Delete what is at `path`; nothing is answered."""
        with _translated():
            response = self._http.delete(path)
            if response.is_error:
                raise _refusal(response)

    def text_of(self, path: str) -> Iterator[str]:
        """Yield the text at `path` piece by piece."""
        with _translated(), self._http.stream("GET", path) as response:
            if response.is_error:
                response.read()
                raise _refusal(response)
            yield from response.iter_text()

    def transcribed(self, content: bytes, fields: dict[str, str]) -> Iterator[str]:
        """Yield the text of a recording as it is recognised."""
        with (
            _translated(),
            self._http.stream(
                "POST",
                "/v1/audio/transcriptions",
                data={**fields, "stream": "true"},
                files={"file": content},
            ) as response,
        ):
            if response.is_error:
                response.read()
                raise _refusal(response)
            for _, event in parse_sse(response.iter_bytes()):
                if "error" in event:
                    raise fault(event["error"], status=None)
                if event["type"] == "transcript.text.delta":
                    yield event["delta"]

    @contextlib.contextmanager
    def events(self) -> Iterator[Iterator[tuple[str, dict[str, Any]]]]:
        """What the daemon tells from now on, for the length of the block."""
        with _translated(), self._http.stream("GET", "/v1/events") as response:
            if response.is_error:
                response.read()
                raise _refusal(response)
            yield parse_sse(response.iter_bytes())

    def health(self) -> dict[str, Any]:
        """What `/health` answers, whether it is well or not."""
        with _translated():
            answer: dict[str, Any] = self._http.get("/health").json()
            return answer

    def is_healthy(self) -> bool:
        """Whether `/health` says that tokens are produced."""
        import httpx

        try:
            return self._open_http.get("/health").is_success
        except httpx.HTTPError:
            return False

    def write(
        self, task: Task, body: Body, *, sleep: Callable[[float], None] = time.sleep
    ) -> Iterator[WritingEvent]:
        """Yield the events of one generation; closing the iterator cancels it in the daemon.

        Waits up to two minutes for a model that is still loading.
        """
        deadline = time.monotonic() + _LOADING_TIMEOUT_S
        while True:
            with (
                _translated(),
                self._http.stream("POST", f"/v1/{task}", json={**body, "stream": True}) as response,
            ):
                if response.is_success:
                    yield from _events(response.iter_bytes())
                    return
                response.read()
                if not _is_loading(response) or time.monotonic() >= deadline:
                    raise _refusal(response)
            yield Waiting("the model is loading")
            sleep(_LOADING_PAUSE_S)


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    """Turn httpx's errors into ours, in this one place."""
    import httpx

    try:
        yield
    except httpx.ConnectError as error:
        raise NotRunning("The daemon does not accept connections any more.") from error
    except httpx.HTTPError as error:
        raise RequestFailed(
            f"The daemon broke the connection off ({type(error).__name__}). "
            "`pushkin status` says whether it is still there."
        ) from error


def parse_sse(chunks: Iterator[bytes]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (event, data) of a server-sent event stream cut into chunks anywhere.

    Lines end at LF only: text may hold U+2028 and its like, where `str.splitlines` would cut.
    """
    pending = b""
    event, data = "message", b""
    for chunk in chunks:
        *lines, pending = (pending + chunk).split(b"\n")
        for line in lines:
            name, _, value = line.removesuffix(b"\r").partition(b":")
            if name == b"event":
                event = value.removeprefix(b" ").decode()
            elif name == b"data":
                data += value.removeprefix(b" ")
            elif not line.strip(b"\r") and data:
                yield event, json.loads(data)
                event, data = "message", b""


def _events(chunks: Iterator[bytes]) -> Iterator[WritingEvent]:
    for event, data in parse_sse(chunks):
        if event == "delta":
            yield Piece(data["index"], data["text"])
        elif event == "progress":
            yield Waiting("reading the text")
        elif event == "done":
            yield Finished(data)
            return
        elif event == "error":
            raise fault(data["error"], status=None)
    raise RequestFailed("The daemon ended the stream before the text was finished.")


def _is_loading(response: httpx.Response) -> bool:
    return (
        response.status_code == 503
        and "Retry-After" in response.headers
        and _error_of(response).get("code") == "not_ready"
    )


def _refusal(response: httpx.Response) -> DaemonError:
    return fault(_error_of(response), status=response.status_code)


def _error_of(response: httpx.Response) -> dict[str, Any]:
    error = _json_object(response).get("error")
    return error if isinstance(error, dict) else {}


def _json_object(response: httpx.Response) -> dict[str, Any]:
    """The body of an answer that may hold anything; {} if it is no JSON object."""
    try:
        body = response.json()
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def _usable_socket(endpoint: Endpoint) -> str | None:
    """The daemon's Unix socket, if it has one that only this user can have put there."""
    path = endpoint.unix_socket
    return path if path is not None and is_owners(Path(path)) else None


def fault(error: dict[str, Any], *, status: int | None) -> DaemonError:
    """Return the exception for an API error body; its class decides the exit code."""
    message = error.get("message") or f"The daemon answered with status {status}."
    code = error.get("code")
    if status == 401:
        return AuthError(
            "The daemon refused the token. `pushkin token --rotate` makes a new one, "
            "which a running daemon takes at once."
        )
    if code in ("queue_full", "draining"):
        return TryLater(message)
    if code == "not_ready":
        return LoadFailed(message)
    if status is not None and 400 <= status < 500:
        return InputError(message)
    return RequestFailed(message)
