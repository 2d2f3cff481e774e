"""The shipped Killah editor's own way of speaking to llama-server, for its port alone (`--editor-compat`).

It names adapters by path and reads streams in a way of its own; what it sends, and what its readers trip
over, is listed in `docs/editor.md`.
"""
