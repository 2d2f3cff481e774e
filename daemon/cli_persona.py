"""`pushkin persona`: what was learned from your documents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from daemon.cli_options import json_option, load_config
from daemon.errors import InputError
from daemon.terminal import print_facts, print_json, print_note, print_table

_SUFFIXES = (".png", ".svg", ".pdf")
_BLOCKS = "▁▂▃▄▅▆▇█"
_BIN_WORDS = 3
_N_BINS = 16
_N_DOCUMENTS = 20
_LANGUAGES = {"en": "English", "ru": "Russian", "other": "other languages"}


@click.group("persona")
def persona_group() -> None:
    """What lil Pushkin has learned about your writing."""


def _check_picture(_: click.Context, __: click.Parameter, value: Path | None) -> Path | None:
    if value is not None and value.suffix.lower() not in _SUFFIXES:
        raise click.BadParameter(f"expected a name that ends in {', '.join(_SUFFIXES)}.")
    return value


@persona_group.command()
@click.option(
    "--plot",
    "picture",
    type=click.Path(dir_okay=False, path_type=Path),
    callback=_check_picture,
    help="Draw it as well: a .png, .svg or .pdf file.",
)
@json_option
def show(picture: Path | None, as_json: bool) -> None:
    """Print your languages, sentences, vocabulary, favourite words, punctuation and documents."""
    from daemon.index_access import open_access

    with open_access(load_config()) as access:
        persona = access.persona()
    if as_json:
        print_json(persona)
    if persona["portrait"] is None:
        print_note(_why_nothing(persona))
        if picture is not None:
            raise InputError("--plot: there is nothing to draw yet.")
        return
    if not as_json:
        _print_portrait(persona)
    if picture is not None:
        from daemon.persona_plot import plot

        plot(persona, picture)


def _why_nothing(persona: dict[str, Any]) -> str:
    if persona["consent"] == "off":
        return (
            "Consent is off: nothing is read, and what was learned is not used. "
            "`pushkin index consent ask` or `on` allows it."
        )
    if not persona["n_documents"]:
        return "Nothing is indexed yet. `pushkin index add FILE` makes a beginning."
    return (
        "The indexed documents were taken in before there were portraits; "
        "remove and add them again (`pushkin index`)."
    )


def _print_portrait(persona: dict[str, Any]) -> None:
    portrait = persona["portrait"]
    shares = " · ".join(
        f"{_LANGUAGES[name]} {share:.0%}"
        for name, share in sorted(portrait["shares"].items(), key=lambda item: -item[1])
    )
    predictability, min_p = persona["predictability"], persona["min_p"]
    print_facts(
        {
            "documents": persona["n_documents"],
            "words": persona["n_words"],
            "languages": shares,
            "strength": persona["strength"],
            "predictability": None if predictability is None else f"{predictability:.2f} of 1",
            "min-p": None if min_p is None else f"{min_p:.3f}",
            "version": persona["version"],
        }
    )
    languages = portrait["languages"]
    if languages:
        _heading("How you write")
        headings = ("", *(_LANGUAGES[one["language"]] for one in languages))
        columns = [_measures(one) for one in languages]
        print_table(
            headings, [(name, *(column[name] for column in columns)) for name in columns[0]]
        )
    for one in languages:
        _print_words(one)
    _heading("Documents")
    print_table(
        ("document", "words", "weight", "share"),
        [
            (one["id"], one["n_words"], one["weight"], f"{one['share']:.1%}")
            for one in portrait["documents"][:_N_DOCUMENTS]
        ],
    )
    n_more = len(portrait["documents"]) - _N_DOCUMENTS
    if n_more > 0:
        print_note(f"and {n_more} more")
    if portrait["n_uncounted"]:
        print_note(f"{portrait['n_uncounted']} older documents are not counted; add them again.")


def _measures(one: dict[str, Any]) -> dict[str, object]:
    """The rows of the table, in order."""
    sentence, paragraph, contrast = one["sentence_words"], one["paragraph_words"], one["contrast"]
    return {
        "words": one["n_words"],
        "words a sentence": _quartiles(sentence),
        "  spread of lengths": _bars(one["sentence_histogram"]),
        "  variation": f"{sentence['variation']:.2f}",
        "  5 words or fewer": f"{one['short_sentences']:.0%}",
        "  30 words or more": f"{one['long_sentences']:.0%}",
        "  contrast of neighbours": None if contrast is None else f"{contrast:.2f}",
        "words a paragraph": _quartiles(paragraph),
        "vocabulary (MTLD)": one["mtld"],
        "dialogue": f"{one['dialogue']:.0%}",
        **{f"{name}, per 1,000 words": f"{rate:.1f}" for name, rate in one["marks"].items()},
    }


def _quartiles(spread: dict[str, float]) -> str:
    return f"{spread['median']:.0f} ({spread['lower_quartile']:.0f}–{spread['upper_quartile']:.0f})"


def _bars(histogram: list[float]) -> str:
    """A histogram as one line of blocks, `_BIN_WORDS` words each; the last holds all longer sentences."""
    starts = range(0, _N_BINS * _BIN_WORDS, _BIN_WORDS)
    bins = [sum(histogram[start : start + _BIN_WORDS]) for start in starts]
    bins[-1] += sum(histogram[_N_BINS * _BIN_WORDS :])
    top = max(bins)
    return "".join(_BLOCKS[round((len(_BLOCKS) - 1) * share / top)] for share in bins)


def _print_words(one: dict[str, Any]) -> None:
    words, language = one["words"], _LANGUAGES[one["language"]]
    for name, sign in (("favourite", ""), ("shunned", "≤ ")):
        if words[name]:
            _heading(f"{name.capitalize()} words, {language} (per million)")
            print_table(
                ("word", "you", "people"),
                [
                    (
                        use["word"],
                        f"{sign}{use['per_million']:,.0f}",
                        f"{use['general_per_million']:,.0f}",
                    )
                    for use in words[name]
                ],
            )


def _heading(text: str) -> None:
    click.secho(f"\n{text}", bold=True)
