"""What reading one document may cost."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtractionLimits:
    """Bounds on one document and on the process that reads it.

    inflation_ratio: inflated to packed bytes of a zip; only above `free_inflated_bytes`, since tiny parts pack well.
    documents_per_child: after so many the process is replaced, so that nothing accumulates in it.
    """

    n_bytes: int = 50_000_000
    inflated_bytes: int = 200_000_000
    inflation_ratio: int = 100
    free_inflated_bytes: int = 1_000_000
    zip_entries: int = 10_000
    pdf_pages: int = 2_000
    text_bytes: int = 64_000_000
    cpu_s: int = 30
    wall_s: float = 60.0
    start_s: float = 30.0
    memory_bytes: int = 1_000_000_000
    documents_per_child: int = 32
