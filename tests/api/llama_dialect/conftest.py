"""Helpers of the llama-server dialect's tests."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from pushkin_runtime.adapter_pool import AdapterOptions
from pushkin_runtime.engines.scripted_engine import BASE


def frames_of(text: str) -> list[Any]:
    """A strict reader: `data:` lines only, comments skipped, an empty line after each."""
    assert text.endswith("\n\n")
    frames = []
    for block in text.removesuffix("\n\n").split("\n\n"):
        if block.startswith(":"):
            continue
        assert block.startswith("data: {"), block
        assert "\n" not in block
        frames.append(json.loads(block.removeprefix("data: ")))
    return frames


@pytest.fixture
def read_frames() -> Callable[[str], list[Any]]:
    return frames_of


@pytest.fixture
def with_adapters(tmp_path, write_adapter, start_daemon):
    """A daemon with the adapters formal (0) and plain (1), neither a default."""
    for seed, name in enumerate(("formal", "plain")):
        write_adapter(tmp_path, name, BASE, seed=seed, task="continue", languages=("en",))
    return start_daemon(adapters=AdapterOptions(roots=(tmp_path,)))
