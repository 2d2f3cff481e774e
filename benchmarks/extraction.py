"""Documents → paragraphs: each reader against its library's own defaults, encodings, and a folder of real files.

    python -m benchmarks.extraction [--texts FOLDER] [--documents FOLDER] [--json]

The same paragraphs (English and Russian prose of FOLDER, or word salad without one) are written as .txt, .rtf,
.docx and .pdf; ours and the library in the plainest way read the same bytes, in turns, in this process. Only what
stands in the source with every character counts as a paragraph read; `whole` says what part that is.
"""

from __future__ import annotations

import argparse
import io
import logging
import platform
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil

from benchmarks.extraction_documents import docx, pdf, pdf_pages, rtf, word_paragraph
from benchmarks.harness import Figure, Report, common_parser, figure, publish, say
from indexer.errors import DocumentError
from indexer.extract import Extractor
from indexer.formats.encoding import decode
from indexer.formats.readers import read_document
from indexer.limits import ExtractionLimits
from indexer.paragraphs import normalise, segment

N_PARAGRAPHS = 600
N_ROUNDS = 3
N_SNIPPETS = 80
SNIPPET_CHARS = (10, 20, 50, 200)
ENCODINGS = ("cp1251", "koi8_r", "cp866")

Reader = Callable[[bytes], Sequence[str]]


def main() -> None:
    arguments = _arguments()
    logging.disable(logging.CRITICAL)
    rng = random.Random(1)
    paragraphs = _paragraphs(arguments.texts, rng)
    figures: dict[str, Figure] = {}
    counts: dict[str, Any] = {}
    for name, (content, readers) in _contests(paragraphs).items():
        figures |= _contest(name, content, readers, paragraphs, counts)
    figures |= _child(paragraphs)
    figures["segmentation"] = _segmentation(paragraphs)
    counts |= _encodings(paragraphs, rng)
    if arguments.documents is not None:
        counts |= _real_files(arguments.documents, quiet=arguments.json)
    environment = {
        "python": platform.python_version(),
        "os": platform.platform(),
        "load_average": [round(x, 2) for x in psutil.getloadavg()],
        "n_paragraphs": len(paragraphs),
        "n_chars": sum(map(len, paragraphs)),
        "texts": "word salad" if arguments.texts is None else "prose",
    }
    publish(
        Report(benchmark="extraction", environment=environment, figures=figures, counts=counts),
        quiet=arguments.json,
    )


def _arguments() -> argparse.Namespace:
    parser = common_parser(__doc__)
    parser.add_argument(
        "--texts", type=Path, help="a folder of .txt prose, English and Russian, searched deeply"
    )
    parser.add_argument(
        "--documents", type=Path, help="a folder of real documents, searched deeply"
    )
    return parser.parse_args()


def _paragraphs(folder: Path | None, rng: random.Random) -> list[str]:
    """Paragraphs of 200 to 900 characters, as many English as Russian."""
    if folder is None:
        vocabularies = ("the old house by river stood empty", "вечером она долго смотрела на воду")
        return [
            " ".join(
                " ".join(rng.choices(words.split(), k=11)).capitalize() + "." for _ in range(7)
            )
            for words in vocabularies
            for _ in range(N_PARAGRAPHS // 2)
        ]
    found: dict[str, list[str]] = {"en": [], "ru": []}
    files = sorted(folder.rglob("*.txt"))
    rng.shuffle(files)
    for path in files:
        for line in path.read_text("utf-8").splitlines():
            text = normalise(line)
            if 200 <= len(text) <= 900 and text[0].isupper() and text[-1] in ".!?":
                is_russian = sum("а" <= c <= "я" for c in text) > len(text) / 2
                found["ru" if is_russian else "en"].append(text)
        if all(len(texts) >= N_PARAGRAPHS for texts in found.values()):
            break
    return [
        text
        for texts in found.values()
        for text in rng.sample(texts, min(len(texts), N_PARAGRAPHS // 2))
    ]


def _contests(paragraphs: Sequence[str]) -> dict[str, tuple[bytes, dict[str, Reader]]]:
    """By format: the document and who reads it."""
    limits = ExtractionLimits()

    def ours(content: bytes) -> Sequence[str]:
        return [block.text for block in read_document(content, "", limits).blocks]

    holdable = [text.encode("cp1251", "ignore").decode("cp1251") for text in paragraphs]
    pages = pdf(pdf_pages(paragraphs, head="A running head"))
    word = docx("".join(map(word_paragraph, paragraphs)))
    return {
        "txt_utf8": ("\n\n".join(paragraphs).encode(), {"ours": ours}),
        "txt_cp1251": ("\n\n".join(holdable).encode("cp1251"), {"ours": ours}),
        "rtf_unicode": (rtf(paragraphs, unicode=True), {"ours": ours, "striprtf": _striprtf}),
        "rtf_cp1251": (rtf(holdable, unicode=False), {"ours": ours, "striprtf": _striprtf}),
        "docx": (word, {"ours": ours, "python_docx": _python_docx}),
        "pdf": (pages, {"ours": ours, "pypdfium2": _pypdfium2, "pypdf": _pypdf}),
    }


def _striprtf(content: bytes) -> Sequence[str]:
    from striprtf.striprtf import rtf_to_text

    text: str = rtf_to_text(content.decode("ascii"))  # type: ignore[no-untyped-call]
    return text.split("\n")


def _python_docx(content: bytes) -> Sequence[str]:
    import docx as python_docx

    return [paragraph.text for paragraph in python_docx.Document(io.BytesIO(content)).paragraphs]


def _pypdf(content: bytes) -> Sequence[str]:
    import pypdf

    return [
        line
        for page in pypdf.PdfReader(io.BytesIO(content)).pages
        for line in page.extract_text().split("\n")
    ]


def _pypdfium2(content: bytes) -> Sequence[str]:
    import pypdfium2

    return [
        line
        for page in pypdfium2.PdfDocument(content)
        for line in page.get_textpage().get_text_range().split("\r\n")
    ]


def _contest(
    name: str,
    content: bytes,
    readers: dict[str, Reader],
    paragraphs: Sequence[str],
    counts: dict[str, Any],
) -> dict[str, Figure]:
    """Paragraphs a second by reader, and what part of the paragraphs came out whole."""
    wanted = {normalise(text) for text in paragraphs}
    rates: dict[str, list[float]] = {reader: [] for reader in readers}
    for _ in range(N_ROUNDS):
        for reader, read in readers.items():
            # Processor time: the machine may have other work.
            started = time.process_time()
            found = read(content)
            rates[reader].append(len(paragraphs) / (time.process_time() - started))
            whole = len(wanted & {normalise(text) for text in found}) / len(wanted)
            counts[f"{name}_{reader}_whole"] = round(whole, 4)
    say(f"{name}: done")
    return {
        f"{name}_{reader}": figure(found, "paragraphs/cpu_s") for reader, found in rates.items()
    }


def _child(paragraphs: Sequence[str]) -> dict[str, Figure]:
    """Wall time of documents through the child: the first, with its start, and the small and large ones after."""
    small, large = b"A sentence in a document.", docx("".join(map(word_paragraph, paragraphs)))
    first, short, long = [], [], []
    for _ in range(N_ROUNDS):
        extractor = Extractor()
        first.append(_timed_ms(extractor, small))
        short += [_timed_ms(extractor, small) for _ in range(10)]
        long.append(_timed_ms(extractor, large))
        extractor.close()
    return {
        "child_start_and_first_document": figure(first, "ms"),
        "child_small_document": figure(short, "ms"),
        f"child_docx_of_{len(paragraphs)}_paragraphs": figure(long, "ms"),
    }


def _timed_ms(extractor: Extractor, content: bytes) -> float:
    started = time.perf_counter()
    extractor.extract(content)
    return (time.perf_counter() - started) * 1000


def _segmentation(paragraphs: Sequence[str]) -> Figure:
    """Blocks to paragraphs, with language."""
    blocks = read_document("\n\n".join(paragraphs).encode(), "", ExtractionLimits()).blocks
    rates = []
    for _ in range(N_ROUNDS):
        started = time.process_time()
        segment(blocks)
        rates.append(len(blocks) / (time.process_time() - started))
    return figure(rates, "paragraphs/cpu_s")


def _encodings(paragraphs: Sequence[str], rng: random.Random) -> dict[str, Any]:
    """How many snippets of Russian are decoded right, by ours and by charset-normalizer."""
    import charset_normalizer

    russian = [text for text in paragraphs if "о" in text]
    counts = {}
    for encoding in ENCODINGS:
        for n_chars in SNIPPET_CHARS:
            snippets = [
                _snippet(rng.choice(russian), n_chars, rng, encoding) for _ in range(N_SNIPPETS)
            ]
            ours = sum(decode(raw)[0] == raw.decode(encoding) for raw in snippets)
            theirs = sum(
                str(charset_normalizer.from_bytes(raw).best()) == raw.decode(encoding)
                for raw in snippets
            )
            counts[f"decoded_{encoding}_{n_chars}_chars"] = {
                "ours": round(ours / N_SNIPPETS, 3),
                "charset_normalizer": round(theirs / N_SNIPPETS, 3),
            }
    say("encodings: done")
    return counts


def _snippet(text: str, n_chars: int, rng: random.Random, encoding: str) -> bytes:
    at = rng.randrange(max(1, len(text) - n_chars))
    return text[at : at + n_chars].encode(encoding, "ignore")


def _real_files(folder: Path, *, quiet: bool) -> dict[str, Any]:
    """How the files of a folder end, by suffix, read in the child."""
    outcomes: dict[str, Counter[str]] = {}
    extractor = Extractor()
    slowest_ms = 0.0
    for path in _files(folder):
        started = time.perf_counter()
        try:
            found = extractor.extract(path.read_bytes(), file_name=path.name)
            outcome, n_paragraphs = "text", len(segment(found.blocks))
        except DocumentError as error:
            outcome, n_paragraphs = type(error).__name__, 0
        slowest_ms = max(slowest_ms, (time.perf_counter() - started) * 1000)
        outcomes.setdefault(path.suffix.lower(), Counter()).update(
            {outcome: 1, "paragraphs": n_paragraphs}
        )
    extractor.close()
    if not quiet:
        for suffix, counts in sorted(outcomes.items()):
            say(f"{suffix:>8}: " + ", ".join(f"{name} {n}" for name, n in counts.most_common()))
    return {"real_files": {suffix: dict(counts) for suffix, counts in outcomes.items()}} | {
        "real_files_slowest_ms": round(slowest_ms, 1)
    }


def _files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name not in ("INDEX.tsv", "SHA256SUMS", "SOURCE.txt"):
            yield path


if __name__ == "__main__":
    main()
