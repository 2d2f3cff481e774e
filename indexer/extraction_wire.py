"""What goes through the pipes between the daemon and an extractor child: lengths, then JSON or the document itself.

request:  4 bytes length · JSON {"suffix"} · 8 bytes length · content
answer:   8 bytes length · JSON, either {"blocks": [[kind, text]…], "media_type", "encoding", "n_pages"}
          or {"error": name, "message"}
The daemon trusts neither side of an answer: it is bounded, parsed as JSON and checked field by field.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass, replace
from typing import IO, Any, get_args

from indexer import errors
from indexer.types import Block, BlockKind, ExtractedText

HEADER = struct.Struct(">I")
LENGTH = struct.Struct(">Q")
MAX_HEADER_BYTES = 1_000
MAX_MESSAGE_CHARS = 400
KINDS = frozenset(get_args(BlockKind))
ERRORS: dict[str, type[errors.DocumentError]] = {
    error.__name__: error
    for error in (
        errors.DocumentEncrypted,
        errors.DocumentScanned,
        errors.DocumentParseFailed,
        errors.DocumentTooLarge,
        errors.DocumentUnsupported,
        errors.DocumentEmpty,
    )
}


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a document. is_last: the child reads no other after it."""

    document: ExtractedText | errors.DocumentError
    is_last: bool = False


class WireError(Exception):
    """The other side sent something that it cannot mean, or went away."""


def write_request(pipe: IO[bytes], content: bytes, suffix: str) -> None:
    """Raises OSError when the child is gone."""
    header = json.dumps({"suffix": suffix}).encode()
    pipe.write(HEADER.pack(len(header)) + header + LENGTH.pack(len(content)))
    pipe.write(content)
    pipe.flush()


def read_request(pipe: IO[bytes], max_bytes: int) -> tuple[bytes, str] | None:
    """(content, suffix); None when the daemon has closed the pipe. Raises WireError."""
    start = pipe.read(HEADER.size)
    if not start:
        return None
    (n_header,) = HEADER.unpack(start)
    if n_header > MAX_HEADER_BYTES:
        raise WireError(f"a header of {n_header} bytes")
    suffix = str(json.loads(_exactly(pipe, n_header))["suffix"])
    (n_bytes,) = LENGTH.unpack(_exactly(pipe, LENGTH.size))
    if n_bytes > max_bytes:
        raise WireError(f"a document of {n_bytes} bytes")
    return _exactly(pipe, n_bytes), suffix


def write_answer(pipe: IO[bytes], answer: Answer, max_bytes: int) -> None:
    """An answer over `max_bytes` is replaced by DocumentTooLarge."""
    encoded = _encoded(answer)
    if len(encoded) > max_bytes:
        error = errors.DocumentTooLarge(
            f"The document's text is over {max_bytes:,} bytes, which is what one document may hold."
        )
        encoded = _encoded(replace(answer, document=error))
    pipe.write(LENGTH.pack(len(encoded)) + encoded)
    pipe.flush()


def read_answer(pipe: IO[bytes], max_bytes: int) -> Answer:
    """Raises WireError for anything but an answer."""
    (n_bytes,) = LENGTH.unpack(_exactly(pipe, LENGTH.size))
    if n_bytes > max_bytes:
        raise WireError(f"an answer of {n_bytes} bytes")
    try:
        found = json.loads(_exactly(pipe, n_bytes))
        return Answer(_document(found), is_last=bool(found["is_last"]))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise WireError(f"no answer ({type(error).__name__})") from None


def _document(found: dict[str, Any]) -> ExtractedText | errors.DocumentError:
    if "error" in found:
        return ERRORS[found["error"]](_text(found["message"])[:MAX_MESSAGE_CHARS])
    return ExtractedText(
        blocks=tuple(_block(kind, text) for kind, text in found["blocks"]),
        media_type=_text(found["media_type"]),
        encoding=None if found["encoding"] is None else _text(found["encoding"]),
        n_pages=None if found["n_pages"] is None else int(found["n_pages"]),
    )


def _exactly(pipe: IO[bytes], n_bytes: int) -> bytes:
    found = pipe.read(n_bytes)
    if len(found) != n_bytes:
        raise WireError(f"{len(found)} of {n_bytes} bytes")
    return found


def _block(kind: object, text: object) -> Block:
    if kind not in KINDS:
        raise ValueError("an unknown kind of block")
    return Block(_text(text), kind)  # type: ignore[arg-type]  # checked in the line above


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("not text")
    return value


def _encoded(answer: Answer) -> bytes:
    document = answer.document
    content: dict[str, object] = {"is_last": answer.is_last}
    if isinstance(document, ExtractedText):
        content |= {
            "blocks": [(block.kind, block.text) for block in document.blocks],
            "media_type": document.media_type,
            "encoding": document.encoding,
            "n_pages": document.n_pages,
        }
    else:
        content |= {"error": type(document).__name__, "message": str(document)}
    # Half a surrogate pair, which no UTF-8 holds, becomes a replacement character.
    return json.dumps(content, ensure_ascii=False).encode("utf-8", "replace")
