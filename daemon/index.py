"""The index of documents of a configuration: its reader, its encoder, its folders, tied together."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from daemon.config import folder_roots
from daemon.paths import adapter_roots, find_model

if TYPE_CHECKING:
    from daemon.config import Loaded
    from indexer.embedding_desk import EmbeddingDesk
    from indexer.errors import PersonaUnavailable
    from indexer.indexing import EventSink
    from indexer.persona_source import IndexPersonas
    from indexer.service import DocumentIndex
    from indexer.types import Embedder

STYLE_ENCODER = "style-encoder"
PERSONA = "persona"  # the adapter, and the folder that has the plug beside it


def build_index(loaded: Loaded, *, is_busy: Callable[[], bool], sink: EventSink) -> DocumentIndex:
    """Return the index, not yet started. is_busy: whether somebody waits for the model."""
    from indexer.extract import Extractor, read_text
    from indexer.folders import FolderOptions
    from indexer.paragraphs import segment
    from indexer.pipeline import PipelineOptions, Stages
    from indexer.portrait_counts import profile
    from indexer.service import DocumentIndex, IndexOptions

    config, extractor = loaded.config.index, Extractor()
    stages = Stages(
        read_text=lambda pushed: read_text(
            pushed.text, markdown=pushed.markdown, ai_ranges=pushed.ai_ranges
        ),
        read_file=lambda file: extractor.extract(file.content, file_name=f"_{file.suffix}"),
        segment=segment,
        profile=profile,
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


def build_personas(loaded: Loaded, index: DocumentIndex) -> IndexPersonas | None:
    """Return what makes personas from the index; None when the model has no plug for them.

    Raises PersonaUnavailable for a plug that does not fit the model or the encoder.
    """
    from indexer.persona_source import IndexPersonas, PersonaParts
    from indexer.persona_vector import KIND, load_persona_plug
    from indexer.predictability import MeasuredMinP
    from pushkin_runtime.model_store import read_config

    model_dir = find_model(loaded.config.runtime.model, loaded.paths)
    folders = (root / PERSONA for root in adapter_roots(model_dir, loaded.paths))
    folder = next((found for found in folders if (found / f"{KIND}.json").is_file()), None)
    if folder is None:
        return None
    embedder = build_embedder(loaded)  # its own: the index's is used by another thread
    try:
        plug = load_persona_plug(folder, embedder.space, read_config(model_dir).hidden_size)
    except PersonaUnavailable:
        embedder.close()
        raise
    return IndexPersonas(
        PersonaParts(
            index=index.vectors,
            embedder=embedder,
            plug=plug,
            knows=index.vectors.knows,
            generation=lambda: index.generation,
            min_p=MeasuredMinP(index),
            adapter=PERSONA,
        )
    )


def build_embedding_desk(loaded: Loaded) -> EmbeddingDesk:
    """Return what embeds texts for clients, with an encoder of its own that is loaded when one asks."""
    from indexer.embedding_desk import EmbeddingDesk

    name = loaded.config.index.encoder
    folder = find_model(name, loaded.paths) if name else None
    return EmbeddingDesk(folder.name if folder else STYLE_ENCODER, lambda: build_embedder(loaded))


def build_embedder(loaded: Loaded) -> Embedder:
    """Load the configured encoder of paragraphs. Raises EmbeddingFailed or PersonaUnavailable."""
    config = loaded.config.index
    if config.encoder:
        from indexer.sentence_embedder import SentenceEmbedder, SentenceOptions

        folder = find_model(config.encoder, loaded.paths)
        return SentenceEmbedder(folder, SentenceOptions(prefix=config.encoder_prefix))
    from indexer.style_encoder import load_style_encoder

    return load_style_encoder(find_model(STYLE_ENCODER, loaded.paths))
