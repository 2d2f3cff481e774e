"""Zip containers (.docx, .odt): opened in memory, measured before anything is inflated, never unpacked to disk."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

from indexer.errors import DocumentEncrypted, DocumentParseFailed, DocumentTooLarge
from indexer.limits import ExtractionLimits

END_RECORD = b"PK\x05\x06"
ENCRYPTED_FLAG = 0x1


@contextmanager
def opened_archive(content: bytes, limits: ExtractionLimits) -> Iterator[zipfile.ZipFile]:
    """A zip whose declared sizes are within the limits; `zipfile` never inflates more than declared.

    Raises DocumentParseFailed, DocumentTooLarge or DocumentEncrypted, also for what the body meets while reading.
    """
    _check_entry_count(content, limits)
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            _check_entries(archive.infolist(), limits)
            yield archive
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise DocumentParseFailed(
            f"The document's zip container is broken ({type(error).__name__}); save it again."
        ) from None


def _check_entry_count(content: bytes, limits: ExtractionLimits) -> None:
    """The end record tells how many entries there are, before a million of them are read."""
    at = content.rfind(END_RECORD)
    n_entries = int.from_bytes(content[at + 10 : at + 12], "little") if at >= 0 else 0
    if n_entries > limits.zip_entries:
        raise DocumentTooLarge(
            f"The document is a zip of {n_entries} entries, allowed are {limits.zip_entries}."
        )


def _check_entries(entries: list[zipfile.ZipInfo], limits: ExtractionLimits) -> None:
    if any(entry.flag_bits & ENCRYPTED_FLAG for entry in entries):
        raise DocumentEncrypted("The document's zip container needs a password.")
    if len(entries) > limits.zip_entries:
        raise DocumentTooLarge(
            f"The document is a zip of {len(entries)} entries, allowed are {limits.zip_entries}."
        )
    n_inflated = sum(entry.file_size for entry in entries)
    n_packed = max(1, sum(entry.compress_size for entry in entries))
    if n_inflated > limits.inflated_bytes:
        raise DocumentTooLarge(
            f"The document would unpack to {n_inflated:,} bytes, allowed are {limits.inflated_bytes:,}."
        )
    ratio = n_inflated / n_packed
    if n_inflated > limits.free_inflated_bytes and ratio > limits.inflation_ratio:
        raise DocumentTooLarge(
            f"The document would unpack to {ratio:.0f} times its size, allowed are {limits.inflation_ratio} times."
        )


def part_or_none(archive: zipfile.ZipFile, name: str) -> bytes | None:
    """The bytes of an entry, None when there is none of this name."""
    try:
        return archive.read(name)
    except KeyError:
        return None
