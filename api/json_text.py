"""JSON in and out: strict when reading, safe to frame by lines when writing."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_DEPTH = 32
MAX_VALUES = 10_000
MAX_EXACT = 2**53  # whole numbers up to here are the same as floats

# Legal inside JSON strings, but Python clients that split lines with str.splitlines() cut there.
_LINE_BREAKS = {"\x85": "\\u0085", "\u2028": "\\u2028", "\u2029": "\\u2029"}


class JsonRefused(ValueError):
    """A body that is not the JSON we accept; `code` is `invalid_json` or `invalid_unicode`."""

    def __init__(
        self, message: str, *, code: str = "invalid_json", param: str | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.param = param


def json_bytes(value: object) -> bytes:
    """Encode compactly as UTF-8 with no line break of any kind. Raises ValueError on NaN."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    if not text.isascii():
        for raw, escaped in _LINE_BREAKS.items():
            text = text.replace(raw, escaped)
    return text.encode()


def parse_json(raw: bytes) -> object:
    """Decode one JSON value from UTF-8.

    Stricter than `json.loads`: no NaN or Infinity, no repeated field, no lone surrogate, at most
    MAX_DEPTH levels and MAX_VALUES values. 2.0 is the integer 2, as JSON Schema has it. Raises JsonRefused with a message that quotes nothing.
    """
    try:
        value = json.loads(
            raw.decode(),
            object_pairs_hook=_unique_fields,
            parse_constant=_refuse_constant,
            parse_float=_number,
        )
    except UnicodeDecodeError as error:
        raise JsonRefused(f"the body is not UTF-8: bad byte at offset {error.start}") from None
    except json.JSONDecodeError as error:
        reason = error.msg.partition(":")[0]
        raise JsonRefused(
            f"the body is not JSON: {reason} (line {error.lineno}, column {error.colno})"
        ) from None
    except RecursionError:
        raise JsonRefused(f"the body is nested deeper than {MAX_DEPTH} levels") from None
    except JsonRefused:
        raise
    except ValueError:  # Python's own limit on the digits of an integer
        raise JsonRefused("the body holds an integer with thousands of digits") from None
    _inspect(value)
    return value


def printable(name: str) -> str:
    """A field name from a request, fit to be shown: it may be anything, even the user's text."""
    return "".join(c if c.isprintable() else "?" for c in name[:64])


def _unique_fields(pairs: list[tuple[str, object]]) -> dict[str, object]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        ((twice, _),) = Counter(name for name, _ in pairs).most_common(1)
        raise JsonRefused(f"the field `{printable(twice)}` is given twice")
    return fields


def _number(digits: str) -> int | float:
    value = float(digits)
    return int(value) if value.is_integer() and abs(value) <= MAX_EXACT else value


def _refuse_constant(name: str) -> object:
    raise JsonRefused(f"{name} is not JSON: send a finite number")


def _inspect(value: object) -> None:
    for n_before, (path, depth, item) in enumerate(_walk(value)):
        n_inside = len(item) if isinstance(item, dict | list) else 0
        if n_before + n_inside >= MAX_VALUES:
            raise JsonRefused(f"the body holds more than {MAX_VALUES} values")
        if depth > MAX_DEPTH:
            raise JsonRefused(f"the body is nested deeper than {MAX_DEPTH} levels")
        if isinstance(item, str) and not item.isascii():
            _refuse_lone_surrogate(item, path)


def _walk(root: object) -> Iterator[tuple[str, int, object]]:
    pending: list[tuple[str, int, object]] = [("", 0, root)]
    while pending:
        path, depth, item = pending.pop()
        yield path, depth, item
        if isinstance(item, dict):
            for name, child in item.items():
                inside = f"{path}.{printable(name)}" if path else printable(name)
                pending.append((inside, depth + 1, child))
                pending.append(("", depth + 1, name))
        elif isinstance(item, list):
            pending.extend((f"{path}[{i}]", depth + 1, child) for i, child in enumerate(item))


def _refuse_lone_surrogate(text: str, path: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        where = f"`{path}`" if path else "a string"
        offset_utf16 = error.start + sum(ord(c) > 0xFFFF for c in text[: error.start])
        raise JsonRefused(
            f"{where} holds half of a surrogate pair at UTF-16 offset {offset_utf16}: "
            "text was cut inside a character, cut it between characters",
            code="invalid_unicode",
            param=path or None,
        ) from None
