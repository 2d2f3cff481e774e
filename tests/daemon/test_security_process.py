"""The checklist of `docs/security.md` where the process holds it: where it listens, what it never does."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import pytest

PICKLE_WATCH = Path(__file__).with_name("pickle_watching_daemon.py")
Pushkin = Callable[..., subprocess.CompletedProcess[bytes]]


def listening_at(pid: int) -> set[str]:
    """The local addresses of the TCP sockets that a process listens on, as /proc writes them."""
    inodes = {
        path.readlink().name for path in Path(f"/proc/{pid}/fd").iterdir() if path.is_symlink()
    }
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in inodes:
                found.add(fields[1].partition(":")[0])
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_s1_it_listens_on_loopback_and_nowhere_else(start_daemon, home: Path) -> None:
    """Servers that listened to everybody were found by the hundred thousand."""
    daemon = start_daemon(home)
    loopback = {"0100007F", "00000000000000000000000001000000"}

    assert "0100007F" in listening_at(daemon.process.pid)
    assert listening_at(daemon.process.pid) <= loopback


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "192.168.1.2"])
def test_s1_no_setting_opens_it_to_the_network(pushkin: Pushkin, home: Path, address: str) -> None:
    home.mkdir()
    by_flag = pushkin("serve", "--host", address)
    by_variable = pushkin("serve", PUSHKIN_HOST=address)
    (home / "config.toml").write_text(f'[server]\nhost = "{address}"\n')
    by_file = pushkin("serve")

    assert [by_flag.returncode, by_variable.returncode, by_file.returncode] == [2, 2, 2]


def test_s5_the_token_is_in_no_argument_log_or_output(
    start_daemon, home: Path, pushkin: Pushkin
) -> None:
    daemon = start_daemon(home, PUSHKIN_LOG_LEVEL="debug")
    token = (home / "token").read_bytes().strip()
    assert pushkin("status").returncode == 0
    with daemon.client() as client:
        client.get("/v1/status", headers={"Authorization": f"Bearer {token.decode()}x"})
    if sys.platform == "linux":
        process = Path(f"/proc/{daemon.process.pid}")
        assert token not in (process / "cmdline").read_bytes()
        assert token not in (process / "environ").read_bytes()
    assert daemon.stop() == 0

    written = {
        path.name for path in home.rglob("*") if path.is_file() and token in path.read_bytes()
    }
    assert written == {"token"}
    assert token.decode() not in daemon.process.stdout.read() + daemon.process.stderr.read()


@pytest.mark.slow
def test_s11_nothing_is_unpickled_while_serving(start_daemon, home: Path) -> None:
    """CVE-2025-62164: the real engine loads, writes, takes adapters and forgets, and no pickle is opened."""
    daemon = start_daemon(home, program=PICKLE_WATCH, PUSHKIN_ENGINE="torch")
    with daemon.client() as client:
        for path in ("/v1/continue", "/v1/rephrase"):
            answer = client.post(path, json={"text": "It was a bright cold day", "max_tokens": 4})
            assert answer.status_code == 200, answer.text
        assert client.get("/v1/adapters").json()["adapters"]
        assert client.put("/v1/consent", json={"global": "on"}).status_code == 200
        assert client.put("/v1/documents/d", json={"text": "A paragraph. " * 40}).status_code == 202
        assert client.delete("/v1/persona").status_code == 200

    assert daemon.stop() == 0


def test_s11_the_watch_does_notice(tmp_path: Path) -> None:
    content = tmp_path / "content"
    content.write_bytes(pickle.dumps(OrderedDict()))
    program = (
        f"import sys; sys.path.insert(0, {str(PICKLE_WATCH.parent)!r})\n"
        "from pickle_watching_daemon import watch; sys.addaudithook(watch)\n"
        f"import pickle; pickle.load(open({str(content)!r}, 'rb'))"
    )

    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 86
