"""Read by every Python process that a test starts: it may not reach out either, and says so if it tries."""

from __future__ import annotations

import os
import runpy
import sys
from pathlib import Path

_EGRESS = Path(__file__).resolve().parents[3] / "daemon" / "egress.py"


def _tell(event: str) -> None:
    with Path(os.environ["OUTBOUND_LOG"]).open("a") as log:
        log.write(f"{event} in {' '.join(sys.orig_argv)}\n")


if "OUTBOUND_LOG" in os.environ:
    runpy.run_path(str(_EGRESS))["forbid_outbound"](_tell)
