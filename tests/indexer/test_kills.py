"""`kill -9` at any moment: `python -m benchmarks.index_kills` does this a thousand times."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

N_KILLS = 25


def test_a_killed_indexer_loses_and_doubles_nothing(quick_path):
    command = [sys.executable, "-m", "benchmarks.index_kills", "--json"]
    command += ["--kills", str(N_KILLS), "--longest-ms", "30", "--folder", str(quick_path)]

    done = subprocess.run(
        command,
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    counts = json.loads(done.stdout)["counts"]
    assert counts["wrong"] == 0
    assert counts["commits and deletions acknowledged"] > N_KILLS
    assert counts["kills with a job in hand"] > 0
