"""How suggestions fare: shares with their uncertainty, by adapter, min-p and persona strength."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from usage.records import Suggestion

_Z = 1.959964  # 95 %
_MIN_P_EDGES = (0.05, 0.08, 0.11, 0.15)
_STRENGTH_EDGES = (0.5, 1.0, 1.5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """Suggestions of one kind. accepted includes edited; ignored: shown, and nothing more was heard.

    rate: accepted of all shown, low and high its 95 % Wilson interval. kept_share: of the characters shown.
    """

    value: str
    shown: int
    accepted: int
    edited: int
    rejected: int
    ignored: int
    rate: float | None
    low: float | None
    high: float | None
    kept_share: float | None


def rates(suggestions: Iterable[Suggestion]) -> dict[str, list[Rate]]:
    """Return the rates of all, and by task, adapters, min_p and persona_strength, most shown first."""
    kinds: dict[str, Callable[[Suggestion], str]] = {
        "all": lambda _: "all",
        "task": lambda s: s.task,
        "adapters": lambda s: s.adapters or "none",
        "min_p": lambda s: _bucket(s.min_p, _MIN_P_EDGES),
        "persona_strength": lambda s: _strength(s.persona_strength),
    }
    groups: dict[str, dict[str, list[Suggestion]]] = {kind: defaultdict(list) for kind in kinds}
    for suggestion in suggestions:
        for kind, value_of in kinds.items():
            groups[kind][value_of(suggestion)].append(suggestion)
    return {
        kind: sorted(
            (_rate(value, found) for value, found in by_value.items()),
            key=lambda rate: (-rate.shown, rate.value),
        )
        for kind, by_value in groups.items()
    }


def wilson(n_successes: int, n: int) -> tuple[float, float]:
    """Return the 95 % score interval of a share (Wilson 1927); (0, 1) of nothing."""
    if n == 0:
        return 0.0, 1.0
    share, z2 = n_successes / n, _Z * _Z
    middle = share + z2 / (2 * n)
    spread = _Z * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    scale = 1 + z2 / n
    return max(0.0, (middle - spread) / scale), min(1.0, (middle + spread) / scale)


def _rate(value: str, found: list[Suggestion]) -> Rate:
    outcomes = Counter(suggestion.outcome for suggestion in found)
    n, n_accepted = len(found), outcomes["accepted"] + outcomes["edited"]
    n_chars = sum(suggestion.n_chars for suggestion in found)
    low, high = wilson(n_accepted, n)
    return Rate(
        value=value,
        shown=n,
        accepted=n_accepted,
        edited=outcomes["edited"],
        rejected=outcomes["rejected"],
        ignored=outcomes["shown"],
        rate=n_accepted / n if n else None,
        low=low if n else None,
        high=high if n else None,
        kept_share=sum(s.accepted_chars for s in found) / n_chars if n_chars else None,
    )


def _strength(strength: float) -> str:
    return "none" if strength == 0 else _bucket(strength, _STRENGTH_EDGES)


def _bucket(value: float, edges: tuple[float, ...]) -> str:
    """The half-open range that holds a value: "0.08-0.11" is from 0.08 on and below 0.11."""
    lower = [edge for edge in edges if edge <= value]
    upper = [edge for edge in edges if edge > value]
    if not lower:
        return f"below {upper[0]:g}"
    return f"{lower[-1]:g}-{upper[0]:g}" if upper else f"{lower[-1]:g} and above"
