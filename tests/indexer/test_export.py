"""The export: everything that is known, readable, complete, and without vectors unless asked for."""

from __future__ import annotations

import base64
import json

import numpy as np

from indexer.service import ConsentChange
from tests.indexer.conftest import vector_of

TEXT = "The first paragraph.\nВторой абзац."


def lines(watching, **options):
    return [json.loads(line) for line in watching.index.export(**options).result()]


def test_everything_known_is_in_it(open_index):
    watching = open_index(keep_text=True)
    watching.push("doc", TEXT, revision=2)
    watching.push("gone", "Deleted again.")
    watching.index.delete("gone").result()
    watching.index.set_consent(ConsentChange(documents={"doc": "include"})).result()

    header, consent, document, *paragraphs = lines(watching)

    assert (header["type"], header["format"], header["version"]) == (
        "header",
        "pushkin-index-export",
        1,
    )
    assert (consent["global_consent"], consent["documents"]) == ("on", {"doc": "include"})
    assert consent["n_forgotten"] == 1
    assert (document["id"], document["revision"]) == ("doc", 2)
    assert [p["text"] for p in paragraphs] == TEXT.splitlines()
    assert [p["language"] for p in paragraphs] == ["en", "ru"]
    assert not any("vector" in paragraph for paragraph in paragraphs)


def test_text_that_is_not_stored_is_not_in_it(open_index):
    watching = open_index()
    watching.push("doc", TEXT)

    assert [p["text"] for p in lines(watching) if p["type"] == "paragraph"] == [None, None]


def test_vectors_come_when_asked_for(open_index):
    watching = open_index()
    watching.push("doc", TEXT)

    first = next(p for p in lines(watching, with_vectors=True) if p["type"] == "paragraph")

    vector = np.frombuffer(base64.b64decode(first["vector"]), "<f2")
    np.testing.assert_allclose(vector, vector_of("The first paragraph."), atol=1e-3)


def test_a_long_export_is_read_in_pages(open_index):
    watching = open_index()
    texts = [f"Paragraph {i}." for i in range(520)]
    watching.push("doc", "\n".join(texts))

    assert len([p for p in lines(watching) if p["type"] == "paragraph"]) == 520
