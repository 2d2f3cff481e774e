"""`pushkin-llama-server`: what the shipped editor starts as `llama-server`, and gets the daemon.

It takes llama-server's command line, of which only the port matters here. Where a daemon of this home
runs, it stays beside that one; else it is the daemon itself, so nothing is left behind when it ends.
"""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from daemon.cli_serve import EDITOR_PORT
from daemon.errors import AlreadyRunning, DaemonError, InputError, NotRunning
from daemon.terminal import print_error

if TYPE_CHECKING:
    from daemon.config import Loaded
    from daemon.instance import Endpoint
    from daemon.sockets import Listeners

LISTENING = "llama server listening"  # what the editor waits for on stderr

_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_LOOK_AGAIN_S = 0.2
_N_LOOKS = 25
_LOOK_TIMEOUT_S = 2.0


class ShimAnnouncer:
    """Says what the editor waits for, and no more."""

    def listening(self, listeners: Listeners) -> None: ...

    def ready(self, endpoint: Endpoint, token: str | None, token_file: Path) -> None:
        _say_listening()

    def stopping(self) -> None: ...


def editor_port(arguments: list[str]) -> int:
    """The port of a llama-server command line; every other flag is taken and means nothing here.

    Raises InputError for a port that is none, and for a host other than this machine.
    """
    port = _value(arguments, "--port")
    host = _value(arguments, "--host")
    if host is not None and host not in _LOOPBACK:
        raise InputError("--host: the daemon listens on this machine only, as localhost.")
    if port is None:
        return EDITOR_PORT
    if not (port.isascii() and port.isdigit() and 0 < int(port[:6]) <= 65535):
        raise InputError("--port: expected a number from 1 to 65535.")
    return int(port)


def main(arguments: list[str] | None = None) -> None:
    """Entry point; ends with the daemon, at SIGTERM, or with the process that started it."""
    given = sys.argv[1:] if arguments is None else arguments
    if "--version" in given:
        from daemon import __version__

        print_error(f"version: pushkin {__version__}")
        return
    try:
        _run(editor_port(given))
    except DaemonError as error:
        print_error(str(error))
        sys.exit(error.exit_code)


def _run(port: int) -> None:
    from daemon.config import load
    from daemon.instance import find_daemon
    from daemon.lifecycle import Serving, serve
    from daemon.parent import end_with_parent

    loaded = load({"server.editor_port": port})
    signal.signal(signal.SIGTERM, _leave)
    end_with_parent()
    endpoint = find_daemon(loaded.paths)
    if endpoint is None:
        try:
            serve(Serving(loaded=loaded, announcer=ShimAnnouncer()))
        except AlreadyRunning:  # somebody was quicker
            endpoint = _just_started(loaded)
    if endpoint is not None:
        _stay_beside(endpoint, port, loaded)


def _just_started(loaded: Loaded) -> Endpoint:
    """The daemon that holds the lock, as soon as it has said where it listens."""
    from daemon.instance import find_daemon

    for _ in range(_N_LOOKS):
        endpoint = find_daemon(loaded.paths)
        if endpoint is not None:
            return endpoint
        time.sleep(_LOOK_AGAIN_S)
    raise NotRunning("Another daemon was starting and is gone; start again.")


def _stay_beside(endpoint: Endpoint, port: int, loaded: Loaded) -> None:
    """Say when the running daemon answers, and end when it does."""
    from daemon.parent import wait_for_exit

    if endpoint.editor_port != port:
        raise NotRunning(
            f"The daemon of {loaded.paths.home} (pid {endpoint.pid}) does not answer the editor on port {port}. "
            f"Set `editor_port = {port}` under [server] in {loaded.paths.config_file} and restart it."
        )
    _await_health(endpoint, port)
    _say_listening()
    wait_for_exit(endpoint.pid)


def _await_health(endpoint: Endpoint, port: int) -> None:
    import httpx

    from daemon.parent import is_alive

    with httpx.Client(trust_env=False, timeout=_LOOK_TIMEOUT_S) as client:
        while is_alive(endpoint.pid):
            try:
                if client.get(f"http://127.0.0.1:{port}/health").is_success:
                    return
            except httpx.HTTPError:
                pass
            time.sleep(_LOOK_AGAIN_S)
    raise NotRunning("The daemon ended before it could answer; its log says why.")


def _value(arguments: list[str], flag: str) -> str | None:
    """What follows a flag, `--flag value` or `--flag=value`; the last one holds."""
    found = None
    for place, argument in enumerate(arguments):
        if argument == flag and place + 1 < len(arguments):
            found = arguments[place + 1]
        elif argument.startswith(f"{flag}="):
            found = argument.partition("=")[2]
    return found


def _say_listening() -> None:
    sys.stderr.write(LISTENING + "\n")
    sys.stderr.flush()


def _leave(_: int, __: object) -> None:
    raise SystemExit(0)


if __name__ == "__main__":
    main()
