"""Microphones by name. PortAudio freezes its list when it starts, so looking again means starting it again."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from audio.errors import CaptureFailed, DeviceNotFound


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A microphone. index: PortAudio's, good until the next `refresh`; name and host_api: to remember it by."""

    index: int
    name: str
    host_api: str
    rate: int
    channels: int
    is_default: bool


def portaudio() -> Any:
    """The sounddevice module. Raises CaptureFailed when PortAudio is not there."""
    try:
        import sounddevice
    except OSError as error:
        raise CaptureFailed(
            "PortAudio is not installed: `apt install libportaudio2` on Debian and Ubuntu; "
            "on macOS `make setup` brings it"
        ) from error
    return sounddevice


def refresh() -> None:
    """Have PortAudio look for devices again. No stream may be open."""
    sounddevice = portaudio()
    sounddevice._terminate()
    sounddevice._initialize()


def list_devices() -> list[Device]:
    """Every device that records, the default one first. Raises CaptureFailed."""
    sounddevice = portaudio()
    try:
        apis = sounddevice.query_hostapis()
        default = sounddevice.default.device[0]
        found = [
            Device(
                index=number,
                name=str(info["name"]),
                host_api=str(apis[info["hostapi"]]["name"]),
                rate=round(info["default_samplerate"]),
                channels=int(info["max_input_channels"]),
                is_default=number == default,
            )
            for number, info in enumerate(sounddevice.query_devices())
            if info["max_input_channels"] > 0
        ]
    except sounddevice.PortAudioError as error:
        raise CaptureFailed(f"the list of microphones could not be read: {error}") from error
    return sorted(found, key=lambda device: not device.is_default)


def choose(devices: list[Device], name: str | None) -> Device:
    """The device of this name, or the default one. Raises DeviceNotFound.

    A name matches whole, or as the only one that contains it, whatever the case.
    """
    if not devices:
        raise DeviceNotFound(
            "there is no microphone: connect one, or send the sound over `/v1/dictation`",
            param="device",
        )
    if name is None:
        return devices[0]
    wanted = name.casefold()
    exact = [device for device in devices if device.name.casefold() == wanted]
    partial = [device for device in devices if wanted in device.name.casefold()]
    if exact or len({device.name for device in partial}) == 1:
        return (exact or partial)[0]
    names = [device.name for device in devices]
    near = get_close_matches(name, names, n=1, cutoff=0.3)
    hint = f"; nearest: {near[0]}" if near else ""
    problem = "more than one microphone has" if partial else "no microphone has"
    raise DeviceNotFound(
        f"{problem} this name{hint}; `pushkin dictation devices` lists them", param="device"
    )
