"""The index of documents of a configuration: its reader, its encoder, its folders, tied together."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from daemon.config import folder_roots
from daemon.paths import find_model

if TYPE_CHECKING:
    from daemon.config import Loaded
    from indexer.indexing import EventSink
    from indexer.service import DocumentIndex
    from indexer.types import Embedder

STYLE_ENCODER = "style-encoder"


def build_index(loaded: Loaded, *, is_busy: Callable[[], bool], sink: EventSink) -> DocumentIndex:
    """Return the index, not yet started. is_busy: whether somebody waits for the model."""
    from indexer.extract import Extractor, read_text
    from indexer.folders import FolderOptions
    from indexer.paragraphs import segment
    from indexer.pipeline import PipelineOptions, Stages
    from indexer.service import DocumentIndex, IndexOptions

    config, extractor = loaded.config.index, Extractor()
    stages = Stages(
        read_text=lambda pushed: read_text(
            pushed.text, markdown=pushed.markdown, ai_ranges=pushed.ai_ranges
        ),
        read_file=lambda file: extractor.extract(file.content, file_name=f"_{file.suffix}"),
        segment=segment,
        make_embedder=lambda: build_embedder(loaded),
        rest=extractor.rest,
        close=extractor.close,
    )
    options = IndexOptions(
        path=loaded.paths.index,
        folders=FolderOptions(allowed=folder_roots(config.folders)),
        pipeline=PipelineOptions(keep_text=config.store_text),
    )
    return DocumentIndex(options, stages, is_busy=is_busy, sink=sink)


def build_embedder(loaded: Loaded) -> Embedder:
    """Load the encoder of paragraphs that comes with the source tree."""
    from indexer.style_encoder import load_style_encoder

    return load_style_encoder(find_model(STYLE_ENCODER, loaded.paths))
