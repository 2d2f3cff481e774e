"""Text ↔ tokens for Gemma-style BPE with byte fallback (the `tokenizers` library does the work).

User text never becomes a special token: specials are added by id in `prompt.py`, and a literal
`<bos>` in a document is encoded as ordinary characters.
"""

from __future__ import annotations

import bisect
import codecs
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from pushkin_runtime.errors import ModelCorrupt, ModelNotFound

_BYTE_PIECE = re.compile(r"^<0x([0-9A-F]{2})>$")
MAX_PREFIXES = 512  # answers of `starting_with` that are remembered
SPACE = "▁"  # how SentencePiece-style vocabularies write a space


class TextTokenizer:
    """A loaded `tokenizer.json`; safe to use from any thread."""

    def __init__(self, source: Path | Tokenizer, vocab_size: int) -> None:
        """source: a tokenizer.json, or a tokenizer built in memory.

        Raises ModelNotFound or ModelCorrupt (unreadable, no <bos> or <eos>, more than `vocab_size` tokens).
        """
        path = source if isinstance(source, Path) else "tokenizer"
        self._tokenizer = _read(source) if isinstance(source, Path) else source
        self._tokenizer.encode_special_tokens = True
        self.n_tokens = self._tokenizer.get_vocab_size()
        if self.n_tokens > vocab_size:
            raise ModelCorrupt(
                f"{path}: {self.n_tokens} tokens, but the model has {vocab_size} embeddings."
            )
        self._by_prefix: dict[bytes, NDArray[np.int64]] = {}
        self._special = {
            token.content: index
            for index, token in self._tokenizer.get_added_tokens_decoder().items()
            if token.special
        }
        missing = [name for name in ("<bos>", "<eos>") if name not in self._special]
        if missing:
            raise ModelCorrupt(f"{path}: no special token {' or '.join(missing)}.")
        self.bos_id = self._special["<bos>"]
        self.eos_id = self._special["<eos>"]

    def encode(self, text: str) -> list[int]:
        """Return the tokens of `text`, without `<bos>`; specials in the text are plain characters."""
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def encode_with_specials(self, text: str) -> list[int]:
        """Like `encode`, but names of special tokens in the text become those tokens. Not for prompts."""
        tokens: list[int] = []
        for part in self._special_names.split(text):
            known = self._special.get(part)
            tokens += self.encode(part) if known is None else [known]
        return tokens

    def special_id(self, name: str) -> int | None:
        """Return the id of the special token `name`, e.g. "<lang:ru>", or None if there is none."""
        return self._special.get(name)

    def require_special(self, name: str) -> int:
        """Like `special_id`, for a token the vocabulary must have. Raises ModelCorrupt."""
        index = self._special.get(name)
        if index is None:
            raise ModelCorrupt(f"The tokenizer has no special token {name}. Copy the model again.")
        return index

    def end_ids(self) -> frozenset[int]:
        """Tokens that end a text: `<eos>` and, where the vocabulary has it, `<end_of_turn>`."""
        ends = (self._special.get(name) for name in ("<eos>", "<end_of_turn>"))
        return frozenset(index for index in ends if index is not None)

    def special_ids(self) -> frozenset[int]:
        """Every special token; none of them is ever emitted as text."""
        return frozenset(self._special.values())

    def token_bytes(self, index: int) -> bytes:
        """Return what token `index` adds to the text, as UTF-8; b"" for specials and unknown ids."""
        return self._bytes[index] if 0 <= index < len(self._bytes) else b""

    def piece(self, index: int) -> bytes:
        """Return token `index` as it is shown: what it adds to a text, or a special token's name."""
        name = self._names.get(index)
        return self.token_bytes(index) if name is None else name.encode()

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of `tokens`; incomplete UTF-8 at the end is dropped."""
        stream = StreamDetokenizer(self)
        return "".join(stream.push(token) for token in tokens)

    def starting_with(self, prefix: bytes) -> NDArray[np.int64]:
        """Return the tokens whose text starts with `prefix` (itself included), ascending; read-only."""
        known = self._by_prefix.get(prefix)
        if known is not None:
            return known
        pieces, ids = self._sorted_pieces
        low = bisect.bisect_left(pieces, prefix)
        high = low
        while high < len(pieces) and pieces[high].startswith(prefix):
            high += 1
        found = np.sort(ids[low:high])
        found.flags.writeable = False
        if len(self._by_prefix) >= MAX_PREFIXES:
            self._by_prefix.clear()
        self._by_prefix[prefix] = found
        return found

    @cached_property
    def _names(self) -> dict[int, str]:
        return {index: name for name, index in self._special.items()}

    @cached_property
    def _special_names(self) -> re.Pattern[str]:
        names = sorted(self._special, key=len, reverse=True)
        return re.compile(f"({'|'.join(map(re.escape, names))})")

    @cached_property
    def _bytes(self) -> list[bytes]:
        pieces = [self._tokenizer.id_to_token(i) for i in range(self.n_tokens)]
        specials = self.special_ids()
        return [
            b"" if i in specials or piece is None else _piece_bytes(piece)
            for i, piece in enumerate(pieces)
        ]

    @cached_property
    def _sorted_pieces(self) -> tuple[list[bytes], NDArray[np.int64]]:
        order = sorted((piece, i) for i, piece in enumerate(self._bytes) if piece)
        return [piece for piece, _ in order], np.array([i for _, i in order], dtype=np.int64)


def _read(path: Path) -> Tokenizer:
    if not path.is_file():
        raise ModelNotFound(f"{path} is missing. Copy or download the model again.")
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:
        raise ModelCorrupt(f"{path}: not a readable tokenizer ({error}).") from error


def _piece_bytes(piece: str) -> bytes:
    match = _BYTE_PIECE.match(piece)
    if match:
        return bytes([int(match.group(1), 16)])
    return piece.replace(SPACE, " ").encode("utf-8", errors="replace")


class StreamDetokenizer:
    """Tokens in, text out, never half a code point; bytes that cannot become one are dropped."""

    def __init__(self, tokenizer: TextTokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="ignore")

    def push(self, token: int) -> str:
        """Return the text that `token` completes, possibly ""."""
        return self._decoder.decode(self._tokenizer.token_bytes(token))
