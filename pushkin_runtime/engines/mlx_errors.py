"""MLX's exceptions, translated in one place."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pushkin_runtime.errors import EngineFailed


@contextmanager
def translated() -> Iterator[None]:
    """Turn MLX's exceptions into ours."""
    try:
        yield
    except (RuntimeError, ValueError, MemoryError) as error:
        raise EngineFailed(f"MLX failed: {type(error).__name__}: {error}") from error
