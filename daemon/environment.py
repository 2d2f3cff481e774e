"""What libraries read from the environment when they are first imported, the same however the program is started."""

from __future__ import annotations

import os

# One thread for NumPy's and PyTorch's products: two wait for each other in a loop, which takes a whole processor from the
# engine, whose own threads are `[runtime] threads`. No library may go to the network by itself.
DEFAULTS = {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_OFFLINE": "1",
}


def set_defaults() -> None:
    """Set what the user has not set; before anything heavy is imported."""
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)  # noqa: TID251 - nothing of ours reads it
