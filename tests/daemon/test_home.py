"""The state folder, the token and the lock: private, atomic, and clear about what is wrong."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest

from daemon.auth_token import ensure_token, read_token, rotate_token
from daemon.errors import AlreadyRunning, AuthError, HomeUnusable
from daemon.instance import (
    Endpoint,
    InstanceLock,
    find_daemon,
    publish_endpoint,
    read_refusal,
    record_refusal,
    withdraw_endpoint,
)
from daemon.paths import Paths, find_model, prepare

ENDPOINT = Endpoint(pid=os.getpid(), port=1799, version="0.1.0")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def paths(home: Path) -> Paths:
    prepared = Paths(home, home / "logs")
    prepare(prepared)
    return prepared


def test_folders_are_made_private_even_under_a_loose_umask(home: Path) -> None:
    before = os.umask(0)
    try:
        prepare(Paths(home, home / "logs"))
        ensure_token(home / "token")
    finally:
        os.umask(before)

    assert (mode(home), mode(home / "logs"), mode(home / "token")) == (0o700, 0o700, 0o600)


def test_a_folder_made_by_hand_is_tightened(home: Path) -> None:
    home.mkdir(mode=0o755)

    prepare(Paths(home, home / "logs"))

    assert mode(home) == 0o700


def test_a_home_that_cannot_be_used_is_named_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)

    for home in (tmp_path / "file" / "home", shared, Path.home()):
        with pytest.raises(HomeUnusable, match="PUSHKIN_HOME") as caught:
            prepare(Paths(home, home / "logs"))
        assert str(home) in str(caught.value)


def test_the_token_is_256_bits_and_stays_the_same(paths: Paths) -> None:
    token = ensure_token(paths.token_file)

    assert len(token) == 43  # 32 bytes in base64url
    assert ensure_token(paths.token_file) == token
    assert {file.name for file in paths.home.iterdir()} == {"token", "logs"}


def test_first_starts_at_the_same_time_agree_on_one_token(paths: Paths) -> None:
    barrier = threading.Barrier(8)
    tokens: list[str] = []

    def first_start() -> None:
        barrier.wait()
        tokens.append(ensure_token(paths.token_file))

    threads = [threading.Thread(target=first_start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(tokens) == 8
    assert len(set(tokens)) == 1


def test_rotation_changes_the_token_and_repairs_an_unsafe_file(paths: Paths) -> None:
    old = ensure_token(paths.token_file)
    paths.token_file.chmod(0o644)
    with pytest.raises(AuthError, match="mode is 0644, expected 0600"):
        read_token(paths.token_file)

    new = rotate_token(paths.token_file)

    assert new != old
    assert read_token(paths.token_file) == new
    assert mode(paths.token_file) == 0o600


@pytest.mark.parametrize("content", ["", "short\n", "x" * 44, "ключ" * 11])
def test_a_damaged_token_is_refused(paths: Paths, content: str) -> None:
    ensure_token(paths.token_file)
    paths.token_file.write_text(content, encoding="utf-8")

    with pytest.raises(AuthError, match="does not hold a token"):
        ensure_token(paths.token_file)


def test_a_token_behind_a_link_is_refused(paths: Paths, tmp_path: Path) -> None:
    ensure_token(tmp_path / "elsewhere")
    paths.token_file.symlink_to(tmp_path / "elsewhere")

    with pytest.raises(AuthError, match="cannot read the token"):
        ensure_token(paths.token_file)


def test_a_home_has_one_daemon_and_clients_find_it(paths: Paths) -> None:
    assert find_daemon(paths) is None
    with InstanceLock(paths.lock_file) as lock:
        lock.record(ENDPOINT)

        assert find_daemon(paths) == ENDPOINT
        with (
            pytest.raises(AlreadyRunning, match=f"pid {ENDPOINT.pid}, port 1799"),
            InstanceLock(paths.lock_file),
        ):
            pass

    assert find_daemon(paths) is None


def test_a_lock_file_left_by_a_killed_daemon_is_nobody(paths: Paths) -> None:
    with InstanceLock(paths.lock_file) as lock:
        lock.record(ENDPOINT)
        left_behind = paths.lock_file.read_bytes()
    paths.lock_file.write_bytes(left_behind)

    assert find_daemon(paths) is None


def test_the_endpoint_is_private_and_clears_an_earlier_refusal(paths: Paths) -> None:
    record_refusal(paths, "Port 1799 is taken.")
    assert read_refusal(paths) == "Port 1799 is taken."

    publish_endpoint(paths, ENDPOINT)

    assert read_refusal(paths) is None
    assert mode(paths.endpoint_file) == 0o600
    withdraw_endpoint(paths)
    withdraw_endpoint(paths)
    assert not paths.endpoint_file.exists()


def test_a_model_of_the_user_hides_a_bundled_one_of_the_same_name(paths: Paths) -> None:
    assert find_model("pushkin-mini", paths).parent.name == "models"
    own = paths.models / "pushkin-mini"
    own.mkdir(parents=True)

    assert find_model("pushkin-mini", paths) == own
    assert find_model("/elsewhere/model", paths) == Path("/elsewhere/model")
