"""Which persona a request gets, how long it keeps it, and what changes it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from indexer.errors import DocumentNotFound
from indexer.persona_source import IndexPersonas, PersonaParts, last_finished_paragraph
from indexer.persona_vector import PersonaPlug, PlugWeights
from indexer.store import Store
from indexer.types import EmbeddingSpace
from indexer.vector_index import VectorIndex
from pushkin_runtime.persona import NO_PERSONA
from pushkin_runtime.types import AdapterRef, GenerationRequest, PersonaRequest

LONG = "He had lived there for thirty years and had never once opened the door to a stranger."
ENGLISH = [f"{number}. {LONG}" for number in range(12)]
RUSSIAN = [
    f"{number}. Он жил там тридцать лет и ни разу не открыл дверь чужому человеку."
    for number in range(12)
]


class Embedder:
    """Unit vectors that depend on the text alone, in the space of `put`."""

    space = EmbeddingSpace(id="tests", n_dimensions=16)

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        rows = [np.random.default_rng(list(t.encode())).standard_normal(16) for t in texts]
        return np.stack([row / np.linalg.norm(row) for row in rows]).astype(np.float32)

    def close(self) -> None:
        pass


@pytest.fixture
def embedder() -> Embedder:
    return Embedder()


@pytest.fixture
def plug(embedder: Any) -> PersonaPlug:
    rng = np.random.default_rng(0)
    n, hidden, soft = embedder.space.n_dimensions, 8, 2
    shapes = {
        "query_w": (n, n), "in_w": (12, n), "in_b": (12,), "out_w": (soft * hidden, 12),
        "out_b": (soft * hidden,), "instruction": (hidden,), "null": (soft, hidden),
    }  # fmt: skip
    made = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    rest = {
        "log_gain": np.zeros(2, np.float32),
        "log_temperature": np.log(np.array([0.1], np.float32)),
        "target_norm": np.array([16.0], np.float32),
    }
    return PersonaPlug(PlugWeights(**made, **rest), embedder.space.id, "0" * 64)


@pytest.fixture
def personas(store: Store, embedder: Any, plug: PersonaPlug) -> IndexPersonas:
    return IndexPersonas(
        PersonaParts(
            index=VectorIndex(store),
            embedder=embedder,
            plug=plug,
            knows=store.has,
            generation=lambda: store.generation,
            min_p=lambda: 0.08,
        )
    )


def ask(text: str = "Once", **fields: Any) -> GenerationRequest:
    return GenerationRequest(**{"request_id": "r", "task": "continue", "text": text, **fields})


def test_an_empty_index_gives_no_persona_and_no_adapter(personas: IndexPersonas) -> None:
    assert personas.check(ask()) == ()
    assert personas.make(ask()) is NO_PERSONA


def test_indexed_documents_shape_the_answer_and_are_named(
    personas: IndexPersonas, put: Callable[..., Any], store: Store, plug: PersonaPlug
) -> None:
    put(store, "a", ENGLISH[:6])
    put(store, "b", ENGLISH[6:])

    assert personas.check(ask()) == (AdapterRef("persona"),)
    made = personas.make(ask())
    assert made.rows is not None
    assert made.rows.shape == (plug.n_rows, plug.hidden_size)
    assert {source.document_id for source in made.used.sources} == {"a", "b"}
    assert sum(source.weight for source in made.used.sources) == pytest.approx(1, abs=1e-3)
    assert made.used.version > 0
    assert made.min_p == 0.08


def test_it_stays_while_a_paragraph_is_typed_and_changes_with_the_next(
    personas: IndexPersonas, put: Callable[..., Any], store: Store
) -> None:
    put(store, "a", ENGLISH)
    first = personas.make(ask(f"{LONG}\nShe", document_id="d"))

    assert personas.make(ask(f"{LONG}\nShe went out", document_id="d")) is first
    assert personas.make(ask(f"{LONG}\nShe\nno", document_id="d")) is first  # too short to tell
    later = personas.make(ask(f"{LONG}\n{LONG[::-1]}\nThen", document_id="d"))
    assert later.used.version != first.used.version


def test_a_change_of_the_index_changes_it(
    personas: IndexPersonas, put: Callable[..., Any], store: Store
) -> None:
    put(store, "a", ENGLISH[:9])
    before = personas.make(ask(document_id="d")).used.version
    put(store, "b", ENGLISH[9:])

    assert personas.make(ask(document_id="d")).used.version != before


def test_paragraphs_of_the_texts_language_are_taken_while_there_are_enough(
    personas: IndexPersonas, put: Callable[..., Any], store: Store
) -> None:
    put(store, "en", ENGLISH)
    put(store, "ru", RUSSIAN)

    assert {s.document_id for s in personas.make(ask("Жил он")).used.sources} == {"ru"}
    assert {s.document_id for s in personas.make(ask("He lived")).used.sources} == {"en"}
    store.delete("ru")
    put(store, "ru", RUSSIAN[:3])
    assert {s.document_id for s in personas.make(ask("Жил он")).used.sources} == {"en", "ru"}


def test_documents_can_be_chosen_and_left_out(
    personas: IndexPersonas, put: Callable[..., Any], store: Store
) -> None:
    put(store, "a", ENGLISH[:9])
    put(store, "b", [f"{paragraph} Again." for paragraph in ENGLISH])

    only = ask(persona=PersonaRequest(documents=("a",)))
    without = ask(persona=PersonaRequest(exclude=("a",)))
    assert {s.document_id for s in personas.make(only).used.sources} == {"a"}
    assert {s.document_id for s in personas.make(without).used.sources} == {"b"}
    with pytest.raises(DocumentNotFound) as caught:
        personas.check(ask(persona=PersonaRequest(documents=("a", "nobody"))))
    assert caught.value.param == "persona.documents[1]"


def test_off_and_adapters_without_its_own_mean_none(
    personas: IndexPersonas, put: Callable[..., Any], store: Store
) -> None:
    put(store, "a", ENGLISH)
    off = ask(persona=PersonaRequest(mode="off"))
    bare, other = ask(adapters=()), ask(adapters=(AdapterRef("formal"),))
    for request in (off, bare, other):
        assert personas.check(request) == ()
        assert personas.make(request) is NO_PERSONA
    own = ask(adapters=(AdapterRef("persona", 0.5),))
    assert personas.make(own).rows is not None


def test_strength_turns_it_from_nobody_to_more_than_all(
    personas: IndexPersonas, put: Callable[..., Any], store: Store, plug: PersonaPlug
) -> None:
    put(store, "a", ENGLISH)
    rows = {
        strength: personas.make(ask(persona=PersonaRequest(strength=strength))).rows
        for strength in (0.0, 1.0, 2.0)
    }
    np.testing.assert_allclose(rows[0.0], plug.null().rows, rtol=1e-5)
    assert not np.allclose(rows[1.0], rows[2.0])


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", ""),
        ("no newline at all, however long the only paragraph of this text may be", ""),
        (f"{LONG}\n", LONG),
        (f"{LONG}\n\n  \nshort\n\nthe caret's", LONG),
        (f"  {LONG}  \nx", LONG),
        ("x" * 5000 + "\n", "x" * 2000),
    ],
)
def test_the_last_finished_paragraph(text: str, found: str) -> None:
    assert last_finished_paragraph(text) == found
