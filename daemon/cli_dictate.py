"""`pushkin dictate` and `pushkin dictation`: speech in, text out."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from daemon.cli_options import json_option, load_config, port_option
from daemon.errors import InputError, RequestFailed
from daemon.terminal import (
    print_facts,
    print_json,
    print_json_line,
    print_note,
    print_table,
    write_text,
)

if TYPE_CHECKING:
    from audio.capture import DeviceState, Microphone
    from audio.devices import Device
    from audio.errors import AudioError

_METER = 12
_QUIETEST_DBFS = -60.0


@click.command()
@click.option("--file", "file", metavar="PATH", help="A recording instead; - is standard input.")
@click.option(
    "--device", metavar="NAME", help="Not the default microphone: see `dictation devices`."
)
@click.option(
    "--mode",
    type=click.Choice(["auto", "dictate", "command"]),
    default="auto",
    show_default=True,
    help="Whether commands are obeyed, taken for text, or all there is.",
)
@click.option(
    "--language", metavar="CODE", multiple=True, help="en, ru. Repeatable; both if not given."
)
@json_option
@port_option
def dictate(
    *,
    file: str | None,
    device: str | None,
    mode: str,
    language: tuple[str, ...],
    as_json: bool,
    port: int | None,
) -> None:
    """Write what you say into a microphone, or what a recording says.

    Ctrl-C ends it; what was said by then is written. On a terminal text appears as you speak; elsewhere it
    is printed at the end, with spoken commands carried out. The sound goes to the daemon of this machine and is
    not kept.
    """
    if file is not None:
        if device is not None or mode != "auto":
            raise InputError("--device and --mode are for a microphone, not for --file.")
        _transcribe(file, language, as_json=as_json, port=port)
        return
    start: dict[str, Any] = {"mode": mode, "levels": True}
    if language:
        start["languages"] = list(language)
    _listen(device, start, as_json=as_json, port=port)


@click.group("dictation")
def dictation_group() -> None:
    """The daemon's own microphone: on, off, and which ones there are."""


def _switch(action: str, help_: str) -> click.Command:
    @json_option
    @port_option
    def run(*, as_json: bool, port: int | None) -> None:
        from daemon.client import DaemonClient, require_daemon

        loaded = load_config(port)
        with DaemonClient(loaded, require_daemon(loaded)) as client:
            body = {"action": action, "source": "microphone"}
            state = client.send("POST", "/v1/dictation", json=body)
        if as_json:
            print_json(state)
        else:
            print_facts({name: value for name, value in state.items() if value})

    return click.command(action, help=help_)(run)


for _action, _help in {
    "on": "Listen; the text comes as events on /v1/events.",
    "off": "Stop listening; what was said is still written.",
    "toggle": "The one or the other.",
    "cancel": "Stop listening and forget what was being said.",
}.items():
    dictation_group.add_command(_switch(_action, _help))


@dictation_group.command()
@json_option
def devices(*, as_json: bool) -> None:
    """List microphones, the default one first."""
    from audio.devices import list_devices
    from audio.errors import AudioError

    try:
        found = list_devices()
    except AudioError as error:
        raise RequestFailed(f"{error}.") from error
    if as_json:
        keys = ("name", "host_api", "rate", "channels", "is_default")
        print_json([{key: getattr(device, key) for key in keys} for device in found])
        return
    if not found:
        print_note("There is no microphone here.")
    rows = [(d.name, d.host_api, d.rate, d.channels, d.is_default) for d in found]
    print_table(("Name", "System", "Rate", "Channels", "Default"), list(rows))


def _transcribe(file: str, language: tuple[str, ...], *, as_json: bool, port: int | None) -> None:
    from daemon.client import DaemonClient, require_daemon

    try:
        content = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {error.strerror}") from error
    fields = {"model": "local"} | ({"language": language[0]} if len(language) == 1 else {})
    loaded = load_config(port)
    with DaemonClient(loaded, require_daemon(loaded)) as client:
        if as_json:
            fields["response_format"] = "verbose_json"
            path = "/v1/audio/transcriptions"
            print_json(client.send("POST", path, data=fields, files={"file": content}))
            return
        for piece in client.transcribed(content, fields):
            write_text(piece)
    if sys.stdout.isatty():
        write_text("\n")


def _listen(device: str | None, start: dict[str, Any], *, as_json: bool, port: int | None) -> None:
    from audio.errors import AudioError
    from daemon.client import require_daemon
    from daemon.dictation_client import DictationSocket

    loaded = load_config(port)
    endpoint = require_daemon(loaded)
    screen = _Screen(as_json=as_json)
    try:
        microphone = _microphone(device or loaded.config.dictation.microphone or None, screen)
    except AudioError as error:
        raise RequestFailed(f"{error}.") from error
    start |= {"format": "s16le", "rate": microphone.form.rate, "channels": 1}
    with DictationSocket(loaded, endpoint, start) as socket:
        try:
            microphone.start()
            socket.send_from(microphone.ring)
            _show(socket, microphone, screen)
        except AudioError as error:
            raise RequestFailed(f"{error}.") from error
        finally:
            microphone.close()
            screen.end()


def _show(socket: Any, microphone: Microphone, screen: _Screen) -> None:
    """Show events to the end. Ctrl-C stops listening, once more gives up."""
    events = socket.events()
    while True:
        try:
            for event in events:
                screen.take(event)
            return
        except KeyboardInterrupt:
            if screen.is_stopping:
                socket.tell("cancel")
                raise
            screen.is_stopping = True
            microphone.close()  # ends the ring, and with it the sound: then "stop" is sent
            events = socket.events()


def _microphone(name: str | None, screen: _Screen) -> Microphone:
    from audio.capture import CaptureHooks, CaptureOptions, Microphone

    hooks = CaptureHooks(device=screen.device, dropped=screen.dropped, failed=screen.failed)
    return Microphone(CaptureOptions(device=name), hooks)


class _Screen:
    """Commits to stdout as they come, a preview with a level meter on the last line of the terminal."""

    def __init__(self, *, as_json: bool) -> None:
        from daemon.dictation_client import DictatedText

        self._as_json = as_json
        self._is_live = sys.stdout.isatty() and not as_json
        self._has_preview = sys.stderr.isatty() and not as_json
        self._document = DictatedText()
        self._preview = ""
        self._dbfs = -120.0
        self._is_drawn = False
        self.is_stopping = False

    def take(self, event: dict[str, Any]) -> None:
        """Show one event."""
        if self._as_json:
            if event["type"] != "level":
                print_json_line(event)
            return
        self._document.take(event)
        kind = event["type"]
        if kind == "level":
            self._dbfs = event["dbfs"]
        elif kind == "partial":
            self._preview = event["text"][event["stable_chars"] :]
        elif kind in ("commit", "final"):
            self._preview = ""
        self._clear()
        if kind == "commit" and self._is_live:
            write_text(event["text"])
        elif kind == "command":
            offered = " (say so again, or type it)" if event["needs_confirmation"] else ""
            print_note(f"[{_named(event)}]{offered}")
        elif kind == "error":
            print_note(event["error"]["message"])
        elif kind == "dropped":
            print_note(f"[{event['ms'] / 1000:.1f} s of sound were lost]")
        self._draw()

    def end(self) -> None:
        """The last thing on the screen: the text itself where it was not shown as it came."""
        self._clear()
        if self._as_json:
            return
        if self._is_live:
            write_text("\n")
        elif self._document.text:
            write_text(self._document.text)

    def device(self, state: DeviceState, device: Device) -> None:
        """The microphone's own news, on its thread."""
        if state != "ready":
            words = {"lost": "is gone", "back": "is back"}[state]
            print_note(f"[{device.name} {words}]")
        elif self._has_preview:
            print_note(f"Listening to {device.name}; Ctrl-C ends it.")

    def dropped(self, seconds: float) -> None:
        """Sound that never came."""
        print_note(f"[{seconds:.1f} s of sound were lost]")

    def failed(self, error: AudioError) -> None:
        """The microphone is lost for good."""
        print_note(str(error))

    def _draw(self) -> None:
        if not self._has_preview or self.is_stopping:
            return
        share = max(0.0, min(1.0, 1 - self._dbfs / _QUIETEST_DBFS))
        n_full = round(share * _METER)
        meter = "▮" * n_full + "▯" * (_METER - n_full)
        if self._is_live:
            click.echo("", err=True)
        click.echo(click.style(f"{meter} {self._preview[-60:]}", dim=True), err=True, nl=False)
        self._is_drawn = True

    def _clear(self) -> None:
        if self._is_drawn:
            self._is_drawn = False
            up = "\x1b[1A" if self._is_live else ""
            click.echo(f"\r\x1b[2K{up}", err=True, nl=False)


def _named(event: dict[str, Any]) -> str:
    """A command in words; what it is about stays out: the terminal may be shared."""
    words = [event["name"]]
    words += [
        str(value)
        for key, value in event["arguments"].items()
        if key in ("scope", "count", "label")
    ]
    return " ".join(words)
