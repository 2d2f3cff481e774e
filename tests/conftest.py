"""Fixtures shared by all tests."""

from __future__ import annotations

import hashlib
import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from daemon.egress import forbid_outbound
from daemon.environment import set_defaults

# As the program has it, however the tests are started; and MLX compiles nothing: what it keeps for the main thread it gives
# back after Python has ended, and the process with it (MLX 0.32).
set_defaults()
os.environ.setdefault("MLX_DISABLE_COMPILE", "1")

CHILDREN = Path(__file__).parent / "house" / "children"

refused = pytest.StashKey[
    list[str]
]()  # the ways out that were tried, see tests/house/test_egress.py


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden", action="store_true", help="rewrite golden files, then review the diff"
    )


def pytest_configure(config: pytest.Config) -> None:
    """No test and no process of a test reaches beyond loopback: it is stopped, and the test fails."""
    forbid_outbound(config.stash.setdefault(refused, []).append, may_bind=True)
    _, log = tempfile.mkstemp(prefix="outbound-")
    paths = [str(CHILDREN), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ |= {"OUTBOUND_LOG": log, "PYTHONPATH": os.pathsep.join(paths)}


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item) -> None:
    log = Path(os.environ["OUTBOUND_LOG"])
    tried = item.config.stash[refused] + log.read_text().splitlines()
    item.config.stash[refused].clear()
    log.write_text("")
    if tried:
        pytest.fail(f"reached for the network: {'; '.join(tried)}", pytrace=False)


def pytest_unconfigure() -> None:
    Path(os.environ.pop("OUTBOUND_LOG")).unlink()


@pytest.fixture(scope="session", autouse=True)
def _ctrl_c() -> None:
    """Children hear Ctrl-C though a shell had us run in the background, where it is ignored."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _umask() -> Iterator[None]:
    """Every test begins with the usual umask, though the daemon hardens the process it starts in."""
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.fixture
def outbound_refusals(request: pytest.FixtureRequest) -> Iterator[list[str]]:
    """For tests that are to be stopped: the ways out they tried, forgiven at the end."""
    yield request.config.stash[refused]
    request.config.stash[refused].clear()


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[Path, str], None]:
    """`golden(path, text)` asserts that the file holds the text, or rewrites it on request."""

    def check(path: Path, text: str) -> None:
        if request.config.getoption("--update-golden"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        assert path.exists(), f"{path} is missing: run `make golden` and review it"
        assert path.read_text(encoding="utf-8") == text, (
            f"{path} differs: review, then run `make golden`"
        )

    return check


@pytest.fixture
def write_adapter() -> Callable[..., None]:
    """`write_adapter(root, name, base, seed=..., fill=..., rank=..., dtype=..., **manifest)`: an adapter of all
    modules of `base` with random matrices, or with B full of one number."""
    import ml_dtypes
    import numpy as np
    from safetensors.numpy import save

    from adapters.format import JSON_NAME, TARGETS, WEIGHTS_NAME, AdapterManifest, BaseModel

    def write(root: Path, name: str, base: BaseModel, **options: Any) -> None:
        rng = np.random.default_rng(options.pop("seed", 0))
        rank, fill = options.pop("rank", 4), options.pop("fill", None)
        dtype = np.dtype(options.pop("dtype", ml_dtypes.bfloat16))
        tensors = {}
        for module, (n_out, n_in) in base.modules.items():
            a = rng.standard_normal((rank, n_in)) / n_in**0.5
            b = (
                rng.standard_normal((n_out, rank)) * 0.3
                if fill is None
                else np.full((n_out, rank), fill)
            )
            tensors[f"{module}.lora_a"] = a.astype(dtype)
            tensors[f"{module}.lora_b"] = b.astype(dtype)
        content = save(tensors)
        manifest = {
            "name": name,
            "rank": rank,
            "alpha": 2.0 * rank,
            "scale": 2.0,
            "target_modules": TARGETS,
            "base_id": base.id,
            "base_digest": base.digest,
            "sha256": hashlib.sha256(content).hexdigest(),
            "n_bytes": len(content),
        }
        folder = root / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / WEIGHTS_NAME).write_bytes(content)
        (folder / JSON_NAME).write_bytes(AdapterManifest(**(manifest | options)).to_json())

    return write
