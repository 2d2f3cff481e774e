"""Coverage-guided fuzzing of what reads bytes from strangers: `python -m benchmarks.fuzz_parsers --seconds 120`.

Each target either takes its input or refuses it in its own words; anything else is a finding, and so is a single
input that takes longer than five seconds or more than 1 GiB. libFuzzer ends its process, so each target has one.
Needs `atheris`, which has no wheel for every Python.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import re
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

Target = Callable[[bytes], None]

_INPUT_TIMEOUT_S = 5
_MEMORY_MB = 1024
_GRACE_S = 60.0
_BOUNDARY = b"--x\r\n"


def fuzz_safetensors(data: bytes) -> None:
    """The header of an adapter's tensors."""
    from adapters.errors import AdapterError
    from adapters.tensor_file import parse_header

    n_payload = data[0] if data else 0
    with contextlib.suppress(AdapterError):
        infos = parse_header(data[1:], n_payload, "fuzz")
        assert sum(info.stop - info.start for info in infos.values()) == n_payload


def fuzz_sse(data: bytes) -> None:
    """The event stream as the command line reads it: cut anywhere, it says the same."""
    from daemon.client import parse_sse

    step = 1 + (data[0] if data else 0) % 7
    pieces = [data[at : at + step] for at in range(0, len(data), step)]
    assert _events(parse_sse(iter(pieces))) == _events(parse_sse(iter([data])))


def fuzz_multipart(data: bytes) -> None:
    """A document's form and a recording's, in chunks of any size."""
    from starlette.requests import Request

    from api.errors import ApiError
    from api.transcription_form import read_transcription
    from api.uploads import read_upload

    step = 1 + (data[0] if data else 0)
    body = _BOUNDARY + data[1:]
    headers = [(b"content-type", b"multipart/form-data; boundary=x")]

    def request() -> Request:
        pieces = [body[at : at + step] for at in range(0, len(body), step)]
        messages = [
            {"type": "http.request", "body": piece, "more_body": n + 1 < len(pieces)}
            for n, piece in enumerate(pieces)
        ]

        async def receive() -> dict[str, object]:
            return messages.pop(0)

        return Request({"type": "http", "method": "PUT", "headers": headers}, receive)

    async def read_both() -> None:
        with contextlib.suppress(ApiError):
            await read_upload(request(), "d")
        with contextlib.suppress(ApiError):
            await read_transcription(request())

    asyncio.run(read_both())


TARGETS: dict[str, Target] = {
    "safetensors": fuzz_safetensors,
    "sse": fuzz_sse,
    "multipart": fuzz_multipart,
}

_SEEDS: dict[str, list[bytes]] = {
    "safetensors": [
        b"\x08"
        + json.dumps({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode(),
        b"\x00" + json.dumps({"__metadata__": {"a": "b"}}).encode(),
    ],
    "sse": [b'\x01event: delta\ndata: {"index": 0, "text": "a"}\n\n: ping\n\ndata: {}\r\n\r\n'],
    "multipart": [
        b'\x20Content-Disposition: form-data; name="file"; filename="a.txt"\r\n\r\ntext\r\n'
        b'--x\r\nContent-Disposition: form-data; name="consent"\r\n\r\ntrue\r\n--x--\r\n'
    ],
}


def _events(events: Iterator[tuple[str, object]]) -> object:
    """All events, or how reading them failed: the server is the daemon, whose data is JSON in UTF-8."""
    try:
        return list(events)
    except ValueError as error:
        return type(error).__name__


def main(arguments: list[str] | None = None) -> int:
    """Fuzz the targets one after the other; JSON on stdout, exit code 1 for a finding."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("targets", nargs="*", default=list(TARGETS), help=", ".join(TARGETS))
    parser.add_argument("--seconds", type=int, default=120, help="for each target")
    parser.add_argument("--inside", choices=TARGETS, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.inside:
        _fuzz_here(options.inside, options.seconds)
    reports = {name: _fuzz(name, options.seconds) for name in options.targets}
    print(json.dumps(reports, indent=2))
    return int(any(report["finding"] for report in reports.values()))


def _fuzz(name: str, seconds: int) -> dict[str, object]:
    """Run one target in a process of its own; a finding is the end of what it said."""
    command = [sys.executable, "-m", "benchmarks.fuzz_parsers", "--inside", name]
    ended = subprocess.run(
        [*command, "--seconds", str(seconds)],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=seconds + _GRACE_S,
        check=False,
    )
    runs = re.findall(r"Done (\d+) runs", ended.stderr)
    covered = re.findall(r"cov: (\d+)", ended.stderr)
    return {
        "runs": int(runs[-1]) if runs else None,
        "coverage": int(covered[-1]) if covered else None,
        "seconds": seconds,
        "finding": None if ended.returncode == 0 else (ended.stdout + ended.stderr)[-4000:],
    }


def _peak_mb() -> int:
    """The peak that libFuzzer will read: on Linux a process begins with the peak of the one that started it."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // (1 << 20 if sys.platform == "darwin" else 1 << 10)


def _fuzz_here(name: str, seconds: int) -> None:
    import atheris

    with atheris.instrument_imports(
        include=["adapters", "api", "daemon", "starlette", "python_multipart"]
    ):
        import adapters.tensor_file  # noqa: F401
        import api.transcription_form  # noqa: F401
        import daemon.client  # noqa: F401
    with tempfile.TemporaryDirectory(prefix="pushkin-fuzz-") as folder:
        for number, seed in enumerate(_SEEDS[name]):
            (Path(folder) / f"seed-{number}").write_bytes(seed)
        flags = [
            f"-max_total_time={seconds}",
            f"-timeout={_INPUT_TIMEOUT_S}",
            f"-rss_limit_mb={_peak_mb() + _MEMORY_MB}",
        ]
        flags += ["-max_len=4096", f"-artifact_prefix={folder}/"]
        atheris.Setup(["fuzz", *flags, folder], TARGETS[name])
        atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())
