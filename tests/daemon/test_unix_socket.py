"""The Unix socket: for its owner only, nothing stale in the way, and the way commands prefer."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from daemon.errors import SocketsUnusable
from daemon.unix_socket import MAX_PATH_BYTES, OwnersSocket, is_owners, open_unix, peer_uid

Pushkin = Callable[..., subprocess.CompletedProcess[bytes]]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "p.sock"


@pytest.fixture(scope="module")
def daemon(start_daemon, tmp_path_factory):
    home = tmp_path_factory.mktemp("u") / "home"
    home.mkdir(mode=0o700)
    (home / "config.toml").write_text('[server]\nunix_socket = "on"\n')
    return start_daemon(home)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def over(path: Path) -> httpx.Client:
    return httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), base_url="http://localhost")


def test_folder_and_socket_are_private_even_under_a_loose_umask(path: Path) -> None:
    before = os.umask(0)
    try:
        with open_unix(path):
            assert (mode(path.parent), mode(path)) == (0o700, 0o700)
            assert is_owners(path)
    finally:
        os.umask(before)

    assert not path.exists()


def test_a_connection_of_the_owner_is_taken_and_says_whose_it_is(path: Path) -> None:
    with open_unix(path) as listener, socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        connection, _ = listener.accept()
        with connection:
            assert peer_uid(connection) == os.geteuid()


def test_somebody_else_is_sent_away(path: Path) -> None:
    someone_else = os.geteuid() + 1
    with open_unix(path, owner=someone_else) as listener, socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        with pytest.raises(ConnectionAbortedError):
            listener.accept()
        client.settimeout(5)

        assert client.recv(1) == b""


def test_the_uid_is_read_where_macos_keeps_it() -> None:
    class Connection:
        """Answers LOCAL_PEERCRED with a struct xucred: version, uid, number of groups, groups."""

        def getsockopt(self, level: int, option: int, size: int) -> bytes:
            assert (level, option) == (0, 1)
            return b"\0\0\0\0\xf5\x01\0\0".ljust(size, b"\0")

    assert peer_uid(Connection(), platform="darwin") == 501  # type: ignore[arg-type]
    assert peer_uid(Connection(), platform="plan9") is None  # type: ignore[arg-type]


def test_a_socket_left_by_a_killed_daemon_is_replaced(path: Path) -> None:
    path.parent.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(path))
        killed.listen()
    assert path.is_socket()

    with open_unix(path), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


def test_a_socket_that_lives_is_left_alone(path: Path) -> None:
    with open_unix(path):
        with pytest.raises(SocketsUnusable, match="another process listens"), open_unix(path):
            pass
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))


def test_what_is_no_socket_is_not_removed(path: Path) -> None:
    path.parent.mkdir(mode=0o700)
    path.write_text("a novel")

    with pytest.raises(SocketsUnusable, match="not a socket"), open_unix(path):
        pass
    assert path.read_text() == "a novel"


def test_a_folder_that_others_can_enter_is_refused(path: Path) -> None:
    path.parent.mkdir(mode=0o755)
    path.parent.chmod(0o755)

    with pytest.raises(SocketsUnusable, match="mode 0700"), open_unix(path):
        pass
    assert not is_owners(path)


def test_a_folder_behind_a_link_is_refused(path: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    path.parent.symlink_to(tmp_path / "elsewhere")

    with pytest.raises(SocketsUnusable, match="mode 0700"), open_unix(path):
        pass


@pytest.mark.parametrize("extra", [0, 1])
def test_a_path_too_long_is_refused_with_both_lengths(tmp_path: Path, extra: int) -> None:
    folder = tmp_path / "r"
    room = MAX_PATH_BYTES - len(os.fsencode(folder)) - 1
    path = folder / ("s" * (room + extra))

    if extra:
        with (
            pytest.raises(SocketsUnusable, match=f"{MAX_PATH_BYTES + 1} bytes long.* 103"),
            open_unix(path),
        ):
            pass
    else:
        with open_unix(path) as listener:
            assert isinstance(listener, OwnersSocket)


def test_the_daemon_answers_there_with_the_same_guards(daemon) -> None:
    path = Path(json.loads((daemon.home / "endpoint.json").read_text())["unix_socket"])
    token = {"Authorization": f"Bearer {(daemon.home / 'token').read_text().strip()}"}
    with over(path) as client:
        codes = [
            client.get("/v1/status", headers=headers).status_code
            for headers in (
                token,
                {},
                token | {"Host": "evil.com"},
                token | {"Origin": "https://evil.com"},
                token | {"Host": f"127.0.0.1:{daemon.port}"},
            )
        ]

    assert path == daemon.home / "run" / "pushkin.sock"
    assert codes == [200, 401, 421, 403, 200]


def test_over_tcp_a_host_without_the_port_stays_refused(daemon) -> None:
    with daemon.client() as client:
        assert client.get("/health", headers={"Host": "localhost"}).status_code == 421


def test_commands_prefer_it(daemon, pushkin: Pushkin) -> None:
    lock = daemon.home / "daemon.lock"
    record = lock.read_bytes()
    try:
        # The port now leads nowhere: whoever gets an answer came through the socket.
        lock.write_bytes(record.replace(str(daemon.port).encode(), b"1"))
        result = pushkin("status", "--json", home=daemon.home)
    finally:
        lock.write_bytes(record)

    assert (result.returncode, result.stderr) == (0, b"")
    assert json.loads(result.stdout)["state"] == "ready"


def test_a_path_that_cannot_be_is_a_clear_error(pushkin: Pushkin, home: Path) -> None:
    too_long = pushkin("serve", PUSHKIN_UNIX_SOCKET=f"/tmp/{'x' * 120}/p.sock")
    relative = pushkin("serve", PUSHKIN_UNIX_SOCKET="p.sock")

    assert (too_long.returncode, relative.returncode) == (1, 2)
    assert b"bytes long" in too_long.stderr
    assert b"whole path" in relative.stderr
    assert b"Traceback" not in too_long.stderr


def test_it_goes_with_the_daemon(start_daemon, tmp_path: Path) -> None:
    home = tmp_path / "h"
    home.mkdir(mode=0o700)
    (home / "config.toml").write_text('[server]\nunix_socket = "on"\n')
    killed = start_daemon(home)
    assert killed.stop(9) == -9
    assert (home / "run" / "pushkin.sock").is_socket()

    again = start_daemon(home)
    with over(home / "run" / "pushkin.sock") as client:
        assert client.get("/health").status_code == 200
    assert again.stop() == 0
    assert not (home / "run" / "pushkin.sock").exists()
