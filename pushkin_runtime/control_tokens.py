"""Names of our reserved tokens, and the control prefix with which training rows and prompts begin.

`<bos> <lang:..> <genre:..> [<author> name newline] text`. The first four ids are Gemma's. Control tokens are special: text that a person typed must be encoded with
special tokens off (`Tokenizer.encode_special_tokens = True`), so that it can never forge one.
"""

from __future__ import annotations

from collections.abc import Callable

PAD, EOS, BOS, UNK = "<pad>", "<eos>", "<bos>", "<unk>"
LANGUAGES: tuple[str, ...] = ("en", "ru")
GENRES: tuple[str, ...] = ("prose", "drama", "verse", "letters", "essay")
TASKS: tuple[str, ...] = ("continue", "rephrase", "story", "dictate")
AUTHOR = "<author>"

CONTROL_TOKENS: tuple[str, ...] = (
    *(f"<lang:{language}>" for language in LANGUAGES),
    *(f"<genre:{genre}>" for genre in GENRES),
    *(f"<task:{task}>" for task in TASKS),
    *("<before>", "<after>", "<selection>", "<result>", "<instruction>", AUTHOR),
    *("<sil>", "<dict>", "<cmd>", "<none>"),
    *(f"<unused{index}>" for index in range(32)),
)
RESERVED_TOKENS: tuple[str, ...] = (PAD, EOS, BOS, UNK, *CONTROL_TOKENS)
BYTE_TOKENS: tuple[str, ...] = tuple(f"<0x{byte:02X}>" for byte in range(256))


def prefix_ids(
    token_id: Callable[[str], int],
    encode: Callable[[str], list[int]],
    language: str,
    genre: str = "prose",
    author: str | None = None,
) -> list[int]:
    """Token ids of the control prefix.

    Args: token_id maps a reserved token's name to its id; encode maps plain text to ids without
    adding or recognising special tokens; author is a name as written, not a slug.
    Raises ValueError for a language or genre that has no token.
    """
    if language not in LANGUAGES or genre not in GENRES:
        raise ValueError(
            f"no control token for language {language!r}, genre {genre!r}: "
            f"expected one of {LANGUAGES} and {GENRES}"
        )
    ids = [token_id(BOS), token_id(f"<lang:{language}>"), token_id(f"<genre:{genre}>")]
    if author is not None:
        ids += [token_id(AUTHOR), *encode(f"{author}\n")]
    return ids
