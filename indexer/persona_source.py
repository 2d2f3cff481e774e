"""The runtime's source of personas: the index, the plug, and a memory of what each document was given.

A persona is sticky: while no paragraph is finished and the index stays as it is, a document keeps its persona,
because another one would throw its KV cache away. What changes it is the paragraph before the caret's.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from indexer.errors import DocumentNotFound
from indexer.persona_vector import PersonaPlug
from indexer.records import LANGUAGES
from indexer.types import Embedder, Language
from indexer.vector_index import VectorIndex
from pushkin_runtime.persona import NO_PERSONA, Persona
from pushkin_runtime.prompt import detect_language
from pushkin_runtime.types import AdapterRef, GenerationRequest, PersonaSource, PersonaUsed

N_PARAGRAPHS = 64  # that share a persona, as in training
MIN_OF_LANGUAGE = 8  # fewer in the text's own language: all languages are used
MAX_QUERY_CHARS = 2000
MIN_QUERY_CHARS = 40  # what the index's own paragraphs have at least
MAX_REMEMBERED = 64

_Sample = tuple[NDArray[np.float32], tuple[str, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class PersonaParts:
    """What a persona is made with. embedder: for queries, used by the inference thread alone.

    knows: whether a document is indexed. generation: changes with every vector. min_p: what the user's
    predictability asks for. adapter: the LoRA that was trained together with the plug.
    """

    index: VectorIndex
    embedder: Embedder
    plug: PersonaPlug
    knows: Callable[[str], bool]
    generation: Callable[[], int]
    min_p: Callable[[], float | None] = lambda: None
    adapter: str = "persona"


@dataclass(frozen=True, slots=True)
class _Basis:
    """What a persona depends on; while it is the same, so is the persona."""

    query: str
    language: Language
    strength: float
    documents: tuple[str, ...]
    exclude: tuple[str, ...]
    generation: int


class IndexPersonas:
    """See `pushkin_runtime.persona.PersonaSource`."""

    def __init__(self, parts: PersonaParts) -> None:
        self._parts = parts
        self._remembered: OrderedDict[str | _Basis, tuple[_Basis, Persona]] = OrderedDict()
        self._sampled: tuple[_Basis, _Sample] | None = None
        self._generation = -1

    def check(self, request: GenerationRequest) -> tuple[AdapterRef, ...]:
        wanted = request.persona
        if wanted.mode == "off":
            return ()
        for field, names in (("documents", wanted.documents), ("exclude", wanted.exclude)):
            for index, name in enumerate(names):
                if not self._parts.knows(name):
                    raise DocumentNotFound(
                        "This document is not indexed; GET /v1/documents has all.",
                        param=f"persona.{field}[{index}]",
                    )
        return () if not self._is_wanted(request) else (AdapterRef(self._parts.adapter),)

    def make(self, request: GenerationRequest) -> Persona:
        if not self._is_wanted(request):
            return NO_PERSONA
        basis = self._basis(request)
        if basis.generation != self._generation:  # what is deleted must not live on in here
            self._remembered.clear()
            self._sampled = None
            self._generation = basis.generation
        name = request.document_id or basis
        known = self._remembered.get(name)
        if known is None or known[0] != basis:
            known = (basis, self._made(basis))
            self._remembered[name] = known
            while len(self._remembered) > MAX_REMEMBERED:
                self._remembered.popitem(last=False)
        self._remembered.move_to_end(name)
        return known[1]

    def _is_wanted(self, request: GenerationRequest) -> bool:
        """Whether there is something to make it of, and the adapter that reads it is in play."""
        index = self._parts.index
        if request.persona.mode == "off" or not len(index):
            return False
        space = index.space
        if space is None or space.id != self._parts.embedder.space.id:
            return False  # the index is being made anew with another embedder
        chosen = request.adapters
        return chosen is None or self._parts.adapter in {ref.name for ref in chosen}

    def _basis(self, request: GenerationRequest) -> _Basis:
        before = request.before + request.text if request.task == "rephrase" else request.text
        wanted = request.persona
        return _Basis(
            query=last_finished_paragraph(before),
            language="ru" if detect_language(before) == "ru" else "en",
            strength=wanted.strength,
            documents=tuple(sorted(wanted.documents)),
            exclude=tuple(sorted(wanted.exclude)),
            generation=self._parts.generation(),
        )

    def _made(self, basis: _Basis) -> Persona:
        parts = self._parts
        query = parts.embedder.embed([basis.query])[0] if basis.query else None
        vectors, documents = self._sample(basis)
        # Without a document, the null persona: its adapter has been chosen, and it was trained with rows before it.
        found = parts.plug.persona(query, vectors, documents, strength=basis.strength)
        sources = sorted(found.sources.items(), key=lambda item: -item[1])
        return Persona(
            used=PersonaUsed(
                version=_version(found.rows),
                strength=basis.strength,
                sources=tuple(PersonaSource(name, round(weight, 4)) for name, weight in sources),
            ),
            min_p=parts.min_p() if documents else None,
            rows=found.rows,
        )

    def _sample(self, basis: _Basis) -> _Sample:
        """Paragraphs from all over the user's writing, in the text's language while there are enough.

        Evenly spaced ones, not the nearest: those are alike, and on held-out authors the persona told less of
        its author (models/pushkin-mini/adapters/persona/README.md).
        """
        key = replace(basis, query="", strength=0.0)
        if self._sampled is None or self._sampled[0] != key:
            self._sampled = (key, self._taken(basis))
        return self._sampled[1]

    def _taken(self, basis: _Basis) -> _Sample:
        rows = self._parts.index.all_vectors()
        keys = {name: number for number, name in rows.names.items()}
        allowed = np.ones(len(rows.ids), np.bool_)
        if basis.documents:
            allowed &= np.isin(rows.documents, [keys[n] for n in basis.documents if n in keys])
        if basis.exclude:
            allowed &= ~np.isin(rows.documents, [keys[n] for n in basis.exclude if n in keys])
        own = allowed & (rows.languages == LANGUAGES.index(basis.language))
        places = np.flatnonzero(own if own.sum() >= MIN_OF_LANGUAGE else allowed)
        if len(places) > N_PARAGRAPHS:
            steps = np.linspace(0, len(places) - 1, N_PARAGRAPHS).round().astype(np.int64)
            places = places[steps]
        names = tuple(rows.names[number] for number in rows.documents[places].tolist())
        return rows.vectors[places].astype(np.float32), names


def last_finished_paragraph(text: str) -> str:
    """Return the last paragraph before the one the caret is in, "" when there is none long enough."""
    head, newline, _ = text.rpartition("\n")
    if not newline:
        return ""
    for paragraph in reversed(head[-4 * MAX_QUERY_CHARS :].split("\n")):
        if len(paragraph.strip()) >= MIN_QUERY_CHARS:
            return paragraph.strip()[-MAX_QUERY_CHARS:]
    return ""


def _version(rows: NDArray[np.float32]) -> int:
    """A number that is the same for the same rows, exact in JSON, never 0."""
    return 1 + int.from_bytes(hashlib.sha256(rows.tobytes()).digest()[:6], "big")
