"""llama-server's API as its clients speak it: upstream's fields, defaults, error bodies and order of events.

Facts are from the server's README and sources (github.com/ggml-org/llama.cpp, tools/server). What holds and what does
not, behaviour by behaviour, is in `docs/llama-server-compatibility.md`.
"""
