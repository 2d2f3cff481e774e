"""A microphone that hears what we play: a private PulseAudio with a null sink, bit-exact at 16 kHz.

It needs no sound hardware, no D-Bus and no root, and touches no sound server of the user's. `norewinds` makes
the monitor punctual; without it the first second of what is played may be lost.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

NEEDED = ("pulseaudio", "pactl", "paplay")
_START_S = 10.0
_RATE = 16_000


def missing() -> list[str]:
    """What is not installed of what a virtual microphone needs."""
    programs = [name for name in NEEDED if shutil.which(name) is None]
    try:
        import sounddevice  # noqa: F401
    except OSError:
        programs.append("libportaudio2")
    folders = [*Path("/usr/lib").glob("*/alsa-lib"), Path("/usr/lib64/alsa-lib")]
    if not any((folder / "libasound_module_pcm_pulse.so").exists() for folder in folders):
        programs.append("libasound2-plugins")
    return programs


@dataclass(slots=True)
class VirtualMicrophone:
    """A running sound server. environment: what a program needs to hear it as the device `pulse`."""

    folder: Path
    environment: dict[str, str]
    process: subprocess.Popen[bytes]
    device: str = "pulse"

    def play(self, pcm: NDArray[np.int16], sink: str = "mic") -> subprocess.Popen[bytes]:
        """Begin to speak these samples, 16 kHz mono; wait for the process to hear them out."""
        command = ["paplay", "--raw", "--rate=16000", "--channels=1", "--format=s16le"]
        player = subprocess.Popen(
            [*command, "--latency-msec=500", f"--device={sink}"],
            env={**os.environ, **self.environment},
            stdin=subprocess.PIPE,
        )
        assert player.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            player.stdin.write(pcm.astype("<i2").tobytes())
            player.stdin.close()
        return player

    def control(self, *arguments: str) -> str:
        """Run `pactl`."""
        return subprocess.run(
            ["pactl", *arguments],
            env={**os.environ, **self.environment},
            check=True,
            capture_output=True,
            text=True,
            timeout=10,
        ).stdout

    def kill(self) -> None:
        """The sound server dies."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)


@contextlib.contextmanager
def virtual_microphone(*modules: str) -> Iterator[VirtualMicrophone]:
    """Start one, with its environment set in this process too; modules: more of them, after the null sink.

    Raises RuntimeError when it does not come up.
    """
    with tempfile.TemporaryDirectory(prefix="mic-") as name:
        microphone = _start(Path(name), modules)
        kept = {key: os.environ.get(key) for key in microphone.environment}
        os.environ.update(microphone.environment)
        try:
            _await_socket(microphone)
            yield microphone
        finally:
            microphone.process.kill()
            microphone.process.wait(10)
            for key, value in kept.items():
                os.environ.pop(key, None)
                if value is not None:
                    os.environ[key] = value


def restart(microphone: VirtualMicrophone, *modules: str) -> None:
    """Start the sound server of the same place again, after `kill`."""
    (microphone.folder / "run/pulse/native").unlink(missing_ok=True)
    microphone.process = _start(microphone.folder, modules).process
    _await_socket(microphone)


def _start(folder: Path, modules: tuple[str, ...]) -> VirtualMicrophone:
    for part in ("home", "run", "run/pulse", "state"):
        (folder / part).mkdir(mode=0o700, exist_ok=True)
    socket = folder / "run/pulse/native"
    private = {
        "HOME": str(folder / "home"),
        "XDG_RUNTIME_DIR": str(folder / "run"),
        "PULSE_RUNTIME_PATH": str(folder / "run/pulse"),
        "PULSE_STATE_PATH": str(folder / "state"),
    }
    sink = f"module-null-sink sink_name=mic rate={_RATE} channels=1 format=s16le norewinds=1"
    loaded = [f"module-native-protocol-unix auth-anonymous=1 socket={socket}", sink, *modules]
    options = ["-n", "--daemonize=no", "--exit-idle-time=-1", "--use-pid-file=no"]
    quiet = ["--realtime=no", "--high-priority=no", "--log-target=stderr", "--log-level=error"]
    process = subprocess.Popen(
        ["pulseaudio", *options, *quiet, *(part for m in loaded for part in ("-L", m))],
        env={**os.environ, **private},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    environment = {"PULSE_SERVER": f"unix:{socket}", "PULSE_SOURCE": "mic.monitor"}
    return VirtualMicrophone(folder, environment, process)


def _await_socket(microphone: VirtualMicrophone) -> None:
    give_up_at = time.monotonic() + _START_S
    while microphone.process.poll() is None and time.monotonic() < give_up_at:
        with contextlib.suppress(subprocess.SubprocessError):
            microphone.control("info")
            return
        time.sleep(0.05)
    raise RuntimeError("PulseAudio did not start")
