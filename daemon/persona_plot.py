"""The portrait as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from daemon.errors import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOURS = {"en": "#2b6cb0", "ru": "#c05621"}
_NAMES = {"en": "English", "ru": "Russian"}
_MAX_SENTENCE_WORDS = 60
_N_WORDS = 12
_N_DOCUMENTS = 10


def plot(persona: dict[str, Any], path: Path) -> None:
    """Draw what `GET /v1/persona` answered; its portrait must not be None. Raises InputError."""
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError:
        raise InputError(
            "--plot needs matplotlib, which comes with the training extra: pip install 'pushkin[train]'."
        ) from None
    portrait = persona["portrait"]
    languages = portrait["languages"]
    style: Any = {
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "svg.fonttype": "none",  # text stays text
    }
    with rc_context(style):
        figure = Figure(figsize=(11, 4 + 3.4 * len(languages)), layout="constrained")
        grid = figure.add_gridspec(1 + len(languages), 6)
        figure.suptitle(_title(persona), fontsize=12)
        _sentences(figure.add_subplot(grid[0, :2]), languages)
        _marks(figure.add_subplot(grid[0, 2:4]), languages)
        _documents(figure.add_subplot(grid[0, 4:]), portrait["documents"])
        for row, one in enumerate(languages, 1):
            for kind, columns in (("favourite", slice(0, 3)), ("shunned", slice(3, 6))):
                _words(figure.add_subplot(grid[row, columns]), one, kind)
        figure.savefig(path, dpi=150, format=path.suffix[1:].lower())


def _title(persona: dict[str, Any]) -> str:
    known = f"{persona['n_documents']} documents, {persona['n_words']:,} words"
    if persona["predictability"] is None:
        return known
    return (
        f"{known} · predictability {persona['predictability']:.2f} · min-p {persona['min_p']:.3f}"
    )


def _sentences(axes: Axes, languages: list[dict[str, Any]]) -> None:
    for one in languages:
        shares = one["sentence_histogram"][:_MAX_SENTENCE_WORDS]
        median, richness = one["sentence_words"]["median"], one["mtld"]
        label = f"{_NAMES[one['language']]}: median {median:.0f}"
        label += "" if richness is None else f", MTLD {richness:.0f}"
        lengths = range(1, len(shares) + 1)
        axes.step(lengths, shares, where="mid", color=_COLOURS[one["language"]], label=label)
        axes.axvline(median, color=_COLOURS[one["language"]], linewidth=0.8, linestyle=":")
    axes.set(title="Sentences by length", xlabel="words", ylabel="share")
    axes.set_ylim(bottom=0)
    if languages:
        axes.legend(frameon=False, loc="upper right")


def _marks(axes: Axes, languages: list[dict[str, Any]]) -> None:
    height = 0.8 / max(1, len(languages))
    for position, one in enumerate(languages):
        names = list(one["marks"])
        places = [at + position * height for at in range(len(names))]
        axes.barh(places, list(one["marks"].values()), height, color=_COLOURS[one["language"]])
        axes.set_yticks([at + 0.4 - height / 2 for at in range(len(names))], names)
    axes.invert_yaxis()
    axes.set(title="Punctuation", xlabel="per 1,000 words")


def _documents(axes: Axes, documents: list[dict[str, Any]]) -> None:
    shown = documents[:_N_DOCUMENTS]
    names = [_short(one["id"]) for one in shown]
    axes.barh(range(len(shown)), [100 * one["share"] for one in shown], color="#4a5568")
    axes.set_yticks(range(len(shown)), names)
    axes.invert_yaxis()
    axes.set(title="Documents", xlabel="% of the portrait")


def _words(axes: Axes, one: dict[str, Any], kind: str) -> None:
    """Two dots a word on a logarithmic axis: the user's use and everybody's."""
    from matplotlib.ticker import LogLocator, StrMethodFormatter

    uses = one["words"][kind][:_N_WORDS]
    colour = _COLOURS[one["language"]]
    axes.set_title(f"{kind.capitalize()} words, {_NAMES[one['language']]}")
    if not uses:
        axes.axis("off")
        axes.text(0.5, 0.5, "none stand out yet", ha="center", transform=axes.transAxes)
        return
    places, you = range(len(uses)), "you" if kind == "favourite" else "you, at most"
    here = [max(0.5, use["per_million"]) for use in uses]
    people = [use["general_per_million"] for use in uses]
    axes.hlines(places, people, here, color="#cbd5e0", zorder=1)
    axes.scatter(people, places, color="#a0aec0", label="people", zorder=2)
    axes.scatter(here, places, color=colour, label=you, zorder=3)
    axes.set_yticks(places, [use["word"] for use in uses])
    axes.set_xscale("log", subs=())
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.invert_yaxis()
    axes.set_xlabel("per million words")
    axes.legend(frameon=False)


def _short(name: str) -> str:
    return name if len(name) <= 16 else f"{name[:15]}…"
