"""The process that a sentence-transformers model lives in: `python -I -m indexer.sentence_child -`, started by `sentence_embedder.py`.

It reads the model, gives up files, network and processes (`sandbox/lockdown.py`), and then answers texts with vectors on its
pipes until they close. Weights are safetensors and nothing else; code that comes with a model is never run.

frame: 8 bytes length · content
it gets:  settings as JSON {"folder", "digest", "prefix", "memory_bytes"}; digest: "" for any, then for each batch a JSON list of texts
it gives: READY, JSON {"n_dimensions", "digest"} or {"error"}, then for each batch float32 (n_texts, n_dimensions)
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import sys
from pathlib import Path
from typing import IO, Any

from sandbox.lockdown import READY, limit_resources, lock_down

LENGTH = struct.Struct(">Q")
MAX_FRAME_BYTES = 64_000_000
_MODULES = frozenset(("Transformer", "Pooling", "Normalize"))
_READ = (".json", ".safetensors", ".txt", ".model")
_MAX_MESSAGE_CHARS = 300


class UnusableModel(Exception):
    """A folder that is no such model, or one that would run code or unpickle; the message says why."""


def main() -> int:
    """Serve; the status is for the daemon only."""
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # nothing that a library prints may be taken for vectors
    settings = json.loads(read_frame(requests) or b"{}")
    folder = Path(settings["folder"])
    try:
        check_folder(folder)
        digest = digest_of(folder)
        if settings["digest"] not in ("", digest):
            raise UnusableModel(
                "its files have changed; start the daemon again, and the index is made anew with them"
            )
        model = _loaded(folder)
        n_dimensions = len(model.encode([settings["prefix"] + "text"])[0])
    except UnusableModel as error:
        return _refuse(answers, str(error))
    except Exception as error:  # noqa: BLE001 - whatever a library says about a broken folder
        return _refuse(answers, f"it could not be loaded ({type(error).__name__})")
    limit_resources(settings["memory_bytes"])
    lock_down()
    _tell(answers, {"n_dimensions": n_dimensions, "digest": digest})
    while (request := read_frame(requests)) is not None:
        texts = [settings["prefix"] + text for text in json.loads(request)]
        vectors = model.encode(texts, normalize_embeddings=True, show_progress_bar=False)
        write_frame(answers, vectors.astype("float32").tobytes())
    return 0


def check_folder(folder: Path) -> None:
    """Raise UnusableModel for what is no sentence-transformers model, or one that is not read here."""
    config = _json(folder / "config.json")
    if not isinstance(config, dict) or "auto_map" in config:
        raise UnusableModel("its config.json asks for code of its own, which is never run")
    modules = _json(folder / "modules.json") if (folder / "modules.json").exists() else []
    kinds = [str(module.get("type", "")) for module in modules]
    strange = [
        kind
        for kind in kinds
        if not kind.startswith("sentence_transformers.") or kind.rpartition(".")[2] not in _MODULES
    ]
    if strange:
        raise UnusableModel(f"it has parts other than {', '.join(sorted(_MODULES))}")
    if not any(folder.glob("*.safetensors")):
        raise UnusableModel("it has no safetensors file, and nothing else is opened")


def digest_of(folder: Path) -> str:
    """SHA-256 over names and contents of all that is read of a model."""
    whole = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.suffix in _READ and p.is_file()):
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        whole.update(f"{path.relative_to(folder).as_posix()}\n{content}\n".encode())
    return whole.hexdigest()


def read_frame(pipe: IO[bytes]) -> bytes | None:
    """None when the other side has closed the pipe or sent something that it cannot mean."""
    start = pipe.read(LENGTH.size)
    if len(start) < LENGTH.size:
        return None
    (n_bytes,) = LENGTH.unpack(start)
    if n_bytes > MAX_FRAME_BYTES:
        return None
    content = pipe.read(n_bytes)
    return content if len(content) == n_bytes else None


def write_frame(pipe: IO[bytes], content: bytes) -> None:
    """Raises OSError when the other side is gone."""
    pipe.write(LENGTH.pack(len(content)))
    pipe.write(content)
    pipe.flush()


def _loaded(folder: Path) -> Any:
    from sentence_transformers import SentenceTransformer

    # torch has one thread by OMP_NUM_THREADS: once it is locked down, no other could be started.
    return SentenceTransformer(
        str(folder),
        device="cpu",
        trust_remote_code=False,
        local_files_only=True,
        model_kwargs={"use_safetensors": True},
    )


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        raise UnusableModel(f"its {path.name} is missing or not JSON") from None


def _refuse(answers: IO[bytes], problem: str) -> int:
    _tell(answers, {"error": problem[:_MAX_MESSAGE_CHARS]})
    return 1


def _tell(answers: IO[bytes], answer: dict[str, Any]) -> None:
    answers.write(READY)
    write_frame(answers, json.dumps(answer).encode())


if __name__ == "__main__":
    sys.exit(main())
