"""The state of the daemon as a person reads it: a few lines, from the JSON of the API."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

Answer = dict[str, Any]

_MARKS = {"ok": "green", "loading": "yellow", "draining": "yellow", "failed": "red"}


def status_table(process: Answer, health: Answer, answer: Answer) -> Table:
    """Return the lines, the state coloured by what `GET /health` says."""
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    for name, value in status_lines(process, health, answer):
        style = _MARKS.get(health["status"], "") if name == "state" else ""
        table.add_row(Text(name, style="cyan"), Text(value, style=style))
    return table


def status_lines(process: Answer, health: Answer, answer: Answer) -> Iterator[tuple[str, str]]:
    """Yield (name, value). process: pid and port. health, answer: of /health and /v1/status."""
    recent, queue, kv, adapters = (
        answer[name] for name in ("recent", "queue", "kv_cache", "adapters")
    )
    state = answer["error"] or health["reason"]
    yield "state", f"{health['status']}: {state}"
    yield "process", f"pid {process['pid']}, port {process['port']}, up {_age(answer['uptime_s'])}"
    yield "engine", f"{answer['engine']['name']} ({answer['engine']['reason']})"
    yield "model", _model(answer["model"])
    yield "queue", f"{queue['n_active']} active, {queue['n_queued']} waiting of {queue['limit']}"
    minutes = f"{recent['window_s'] / 60:.0f} min"
    yield (
        "answers",
        f"{recent['n_generations']} in {minutes}, {answer['counts']['requests']} in all",
    )
    if recent["n_generations"]:
        first = f"{_ms(recent['ttft_p50_ms'])} / {_ms(recent['ttft_p95_ms'])}"
        yield "first text", f"{first} (p50 / p95, {minutes})"
        yield "speed", f"{_number(recent['tokens_per_second'])} tokens/s (median, {minutes})"
        yield (
            "from the cache",
            f"{_percent(recent['cache_hit_share'])} of prompt tokens ({minutes})",
        )
    yield "KV caches", f"{kv['n_entries']}, {_mb(kv['n_bytes'])} of {_mb(kv['budget_bytes'])}"
    yield (
        "adapters",
        f"{adapters['n_resident']} in memory, {_mb(adapters['n_bytes'])} of {_mb(adapters['budget_bytes'])}",
    )
    yield "documents", _index(answer["index"])
    yield "memory", _mb(answer["resident_bytes"])
    if answer.get("dictation"):
        yield "dictation", str(answer["dictation"].get("state", "there"))


def _model(model: Answer | None) -> str:
    if model is None:
        return "none"
    return (
        f"{model['id']}, {model['quantization']}, {_mb(model['n_bytes'])}, window {model['window']}"
    )


def _index(index: Answer | None) -> str:
    if index is None:
        return "–"
    waiting = f", {index['n_waiting']} waiting" if index["n_waiting"] else ""
    return f"{index['n_documents']}, {index['n_paragraphs']} paragraphs, {_mb(index['n_bytes'])}{waiting}"


def _age(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = ((days, "d"), (hours, "h"), (minutes, "min"), (int(seconds), "s"))
    shown = [f"{n} {unit}" for n, unit in parts if n][:2]
    return " ".join(shown) or "0 s"


def _mb(n_bytes: int | None) -> str:
    return "–" if n_bytes is None else f"{n_bytes / 2**20:.0f} MB"


def _ms(milliseconds: float | None) -> str:
    return "–" if milliseconds is None else f"{milliseconds:.0f} ms"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.0f}"


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f} %"
