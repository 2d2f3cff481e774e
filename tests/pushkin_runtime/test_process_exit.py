"""A process that used an engine ends by itself, with exit code 0 and nothing on stderr."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import sys
from pathlib import Path
from pushkin_runtime.runtime import Runtime, RuntimeOptions

runtime = Runtime(RuntimeOptions(model_dir=Path(sys.argv[1]), engine=sys.argv[2]))
runtime.start()
assert runtime.wait_loaded(60)
assert runtime.status().state == "ready", runtime.status().error
assert runtime.close(drain_s=10)
"""


@pytest.mark.parametrize("engine", ["mlx", "onnx", "torch"])
def test_the_process_ends_cleanly(engine: str, tiny_model: Path) -> None:
    """MLX aborts the process when a thread ends with its streams still there."""
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tiny_model), engine],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert (ended.returncode, ended.stderr) == (0, "")
