"""Continues and rephrases an English and a Russian paragraph, and prints the text as it comes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from benchmarks.harness import REPOSITORY, common_parser, daemon_flags, running_daemon
from benchmarks.http_client import Body, Client

EXAMPLES = ("english.txt", "russian.txt")
MAX_TOKENS = 48
SEED = 1799
SHOWN_CHARS = 300  # of the text that is continued


def main() -> int:
    """Start a daemon, show both tasks in both languages."""
    arguments = common_parser(__doc__).parse_args()
    with running_daemon(daemon_flags(arguments)) as daemon, Client(daemon.target) as client:
        for name in EXAMPLES:
            text = (REPOSITORY / "examples" / name).read_text(encoding="utf-8").rstrip("\n")
            _show(client, name, text)
    return 0


def _show(client: Client, name: str, text: str) -> None:
    language = Path(name).stem.capitalize()
    shared: Body = {"max_tokens": MAX_TOKENS, "sampling": {"seed": SEED}}
    print(f"\n── {language}, continued ──\n…{text[-SHOWN_CHARS:]}", end="")
    _stream(client, "/v1/continue", {"text": text, **shared})

    selection = text.rstrip().rpartition("\n")[2]
    print(f"\n── {language}, rephrased ──\n{selection}\n→ ", end="")
    _stream(client, "/v1/rephrase", {"text": selection, **shared})


def _stream(client: Client, path: str, body: Body) -> None:
    timings: dict[str, Any] = {}
    for event in client.stream(path, body):
        if event.name == "delta":
            print(event.data["text"], end="", flush=True)
        elif event.name == "done":
            timings = event.data["timings"]
        elif event.name == "error":
            print(f"\n{event.data['error']['message']}", file=sys.stderr)
    if timings:
        print(f"\n[first text after {timings['ttft_ms']:.0f} ms, ", end="")
        print(f"{timings['tokens_per_second']:.0f} tokens/s]")


if __name__ == "__main__":
    sys.exit(main())
