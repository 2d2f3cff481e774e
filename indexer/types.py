"""What passes between the rooms of the indexer. Plain frozen data, no behaviour."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

BlockKind = Literal["paragraph", "heading", "list_item", "table_cell", "quote", "code", "note"]
Language = Literal["en", "ru", "other"]


@dataclass(frozen=True, slots=True)
class Block:
    """A piece of a document as its format delimits it; `text` is verbatim but for the format's own marks.

    is_ai: marked as machine-written; such blocks never enter the persona.
    """

    text: str
    kind: BlockKind = "paragraph"
    is_ai: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtractedText:
    """What was read from a document. encoding: of a text file, as found out."""

    blocks: tuple[Block, ...]
    media_type: str
    encoding: str | None = None
    n_pages: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Paragraph:
    """A unit of the index: one of the author's paragraphs, or several short ones, or a part of a long one."""

    text: str
    language: Language
    n_words: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingSpace:
    """Vectors can be compared only within one. id: names the model, its digest, prefix and pooling."""

    id: str
    n_dimensions: int


class Embedder(Protocol):
    """Texts → vectors of one space. Used from one thread at a time."""

    space: EmbeddingSpace

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return (len(texts), n_dimensions) float32, rows of unit length."""

    def close(self) -> None:
        """Release the model or the process behind it."""
