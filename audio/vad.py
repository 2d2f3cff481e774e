"""Silero's voice activity detector on onnxruntime, from the file in its wheel.

The package itself is never imported: that would import torch. 32 ms frames with 4 ms of context (silero-vad 6).
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any, Final

import numpy as np

from audio.errors import SpeechUnavailable
from audio.pcm import SAMPLE_RATE, Samples

FRAME: Final = 512
"""Samples of one decision: 32 ms."""

FRAME_S: Final = FRAME / SAMPLE_RATE
_CONTEXT = 64
_FILE = "silero_vad.onnx"


class SpeechDetector:
    """The network, shared by all streams of a process; about 0.3 ms a frame on one core."""

    def __init__(self, path: Path | None = None) -> None:
        """Raises SpeechUnavailable when the file or onnxruntime is not there."""
        path = path or _find_model()
        try:
            import onnxruntime

            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = options.inter_op_num_threads = 1
            options.log_severity_level = 3
            self._session: Any = onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            raise SpeechUnavailable(
                f"the voice detector could not be loaded ({type(error).__name__}): "
                "install `silero-vad` and `onnxruntime` again, as `make setup` does"
            ) from error

    def stream(self) -> SpeechStream:
        """A stream that starts in silence."""
        return SpeechStream(self._session)


class SpeechStream:
    """One stream's state; used from one thread."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self._rate = np.array(SAMPLE_RATE, np.int64)
        self.reset()

    def reset(self) -> None:
        """Forget what was heard."""
        self._state = np.zeros((2, 1, 128), np.float32)
        self._input = np.zeros((1, _CONTEXT + FRAME), np.float32)

    def probability(self, frame: Samples) -> float:
        """The probability of speech in a frame, (FRAME,) float32."""
        self._input[0, :_CONTEXT] = self._input[0, -_CONTEXT:].copy()
        self._input[0, _CONTEXT:] = frame
        feeds = {"input": self._input, "state": self._state, "sr": self._rate}
        output, self._state = self._session.run(None, feeds)
        return float(output[0, 0])


def _find_model() -> Path:
    spec = importlib.util.find_spec("silero_vad")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder) / "data" / _FILE
        if path.is_file():
            return path
    raise SpeechUnavailable(
        f"the voice detector's file {_FILE} is not installed: "
        "run `pip install --no-deps silero-vad`, as `make setup` does"
    )
