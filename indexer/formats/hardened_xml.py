"""XML from strangers: no DTD, no entities, no network, no huge nodes; bounded memory."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from typing import Any

from lxml import etree

from indexer.errors import DocumentParseFailed, DocumentTooLarge

Element = Any
"""An lxml element: lxml has no type information of its own."""


def local_name(tag: object) -> str:
    """`{namespace}name` → `name`; "" for comments and processing instructions, whose tag is a function."""
    return tag.rpartition("}")[2] if isinstance(tag, str) else ""


def local_attributes(element: Element) -> dict[str, str]:
    """The attributes by name without namespace: OOXML comes in two namespaces, strict and transitional."""
    return {local_name(name): str(value) for name, value in element.attrib.items()}


def xml_events(content: bytes, tags: Sequence[str]) -> Iterator[tuple[str, Element]]:
    """("start" | "end", element) for the local names in `tags`, in document order.

    The caller clears what it has finished with. Raises DocumentParseFailed, and DocumentTooLarge for text nodes
    above libxml2's 10 million characters.
    """
    events = etree.iterparse(
        io.BytesIO(content),
        events=("start", "end"),
        tag=[f"{{*}}{tag}" for tag in tags],
        resolve_entities=False,
        no_network=True,
        load_dtd=False,
        huge_tree=False,
        remove_comments=True,
        remove_pis=True,
    )
    checked = False
    try:
        for event, element in events:
            if not checked:
                refuse_dtd(element)
                checked = True
            yield event, element
    except etree.XMLSyntaxError as error:
        raise _translated(error) from None


def parse_xml(content: bytes) -> Element:
    """The root element of a small part. Raises like `xml_events`."""
    parser = etree.XMLParser(
        resolve_entities=False,
        no_network=True,
        load_dtd=False,
        huge_tree=False,
        remove_comments=True,
        remove_pis=True,
    )
    try:
        root = etree.fromstring(content, parser)
    except etree.XMLSyntaxError as error:
        raise _translated(error) from None
    refuse_dtd(root)
    return root


def refuse_dtd(element: Element) -> None:
    """Raise DocumentParseFailed for a document type declaration: no word processor writes one."""
    if element.getroottree().docinfo.internalDTD is not None:
        raise DocumentParseFailed(
            "The document's XML declares a document type (a DTD); such files are refused as unsafe."
        )


def _translated(error: etree.XMLSyntaxError) -> DocumentParseFailed | DocumentTooLarge:
    """libxml2's message may quote the document: only its number is passed on."""
    message = str(error)
    if "huge" in message.lower() or "too long" in message.lower():
        return DocumentTooLarge(
            "A piece of the document's text or markup is over 10,000,000 characters."
        )
    return DocumentParseFailed(
        f"The document's XML is broken (libxml2 error {error.code}); save it again."
    )
