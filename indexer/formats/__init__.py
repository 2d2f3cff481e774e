"""One reader per document format: bytes → blocks. They run in the extractor child, on hostile input."""
