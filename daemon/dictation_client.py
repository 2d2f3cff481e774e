"""The daemon's dictation as the command line uses it: a WebSocket for live sound, a form for recordings."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any

from daemon.auth_token import read_token
from daemon.client import fault
from daemon.errors import AuthError, NotRunning, RequestFailed

if TYPE_CHECKING:
    from websockets.sync.client import ClientConnection

    from audio.ring import Ring
    from daemon.config import Loaded
    from daemon.instance import Endpoint

_OPEN_S = 5.0
_CLOSE_S = 2.0
_READ_S = 0.1
_BLOCK = 4096


class DictationSocket:
    """One dictation in the daemon; a context manager. Errors are DaemonErrors."""

    def __init__(self, loaded: Loaded, endpoint: Endpoint, start: dict[str, Any]) -> None:
        token_file = loaded.paths.token_file
        self._token = read_token(token_file) if token_file.exists() else ""
        self._url = f"ws://127.0.0.1:{endpoint.port}/v1/dictation"
        self._start = {"type": "start", **start}
        self._socket: ClientConnection | None = None

    def __enter__(self) -> DictationSocket:
        from websockets.exceptions import InvalidHandshake
        from websockets.sync.client import connect

        headers = {"Authorization": f"Bearer {self._token}"} if self._token else {}
        self._context = connect(
            self._url,
            additional_headers=headers,
            proxy=None,
            open_timeout=_OPEN_S,
            close_timeout=_CLOSE_S,
        )
        try:
            self._socket = self._context.__enter__()
        except InvalidHandshake as error:
            raise AuthError(f"The daemon refused the dictation: {error}.") from error
        except OSError as error:
            raise NotRunning(
                "The daemon does not answer. Start it with `pushkin serve`."
            ) from error
        self._socket.send(json.dumps(self._start))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._context.__exit__(kind, error, traceback)

    def tell(self, action: str) -> None:
        """Send "stop" or "cancel"; nothing happens when the daemon has hung up."""
        from websockets.exceptions import ConnectionClosed

        assert self._socket is not None
        try:
            self._socket.send(json.dumps({"type": action}))
        except ConnectionClosed:
            return

    def send_from(self, ring: Ring) -> threading.Thread:
        """Send what comes into `ring`, on a thread of its own, until the ring ends; then "stop"."""
        from websockets.exceptions import ConnectionClosed

        socket = self._socket
        assert socket is not None

        def pump() -> None:
            try:
                while not ring.is_over:
                    lost, block = ring.read(_BLOCK, _READ_S)
                    if lost:
                        socket.send(bytes(2 * lost))
                    if len(block):
                        socket.send(block.astype("<i2").tobytes())
                socket.send('{"type": "stop"}')
            except ConnectionClosed:
                return

        thread = threading.Thread(target=pump, name="dictation-pump", daemon=True)
        thread.start()
        return thread

    def events(self) -> Iterator[dict[str, Any]]:
        """Every event until the daemon has said the last. Raises the error it ended with."""
        from websockets.exceptions import ConnectionClosed

        assert self._socket is not None
        failure: dict[str, Any] | None = None
        while True:
            try:
                event: dict[str, Any] = json.loads(self._socket.recv())
            except ConnectionClosed:
                break
            failure = event["error"] if event["type"] == "error" else failure
            yield event
            if event["type"] == "ended":
                if event["reason"] == "error" and failure is not None:
                    raise fault(failure, status=None)
                return
        if failure is not None:
            raise fault(failure, status=None)
        raise RequestFailed("The daemon ended the dictation before it was finished.")


class DictatedText:
    """What a document would hold: commits appended, edits made. Offsets are UTF-16, as the daemon counts them."""

    def __init__(self, before: str = "") -> None:
        self._units = before.encode("utf-16-le")

    def take(self, event: dict[str, Any]) -> None:
        """Do what a commit or a command says."""
        if event["type"] == "commit":
            self._units += event["text"].encode("utf-16-le")
        elif event["type"] == "command" and event["edit"] is not None:
            edit = event["edit"]
            start = 2 * edit["start_utf16"]
            end = start + 2 * edit["length_utf16"]
            inserted = edit["text"].encode("utf-16-le")
            self._units = self._units[:start] + inserted + self._units[end:]

    @property
    def text(self) -> str:
        """All of it."""
        return self._units.decode("utf-16-le")
