"""What a start must not import: each library costs every restart its time, whether it is needed or not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.daemon.conftest import environment

# Needed by a document, a recording, an export, a download, or a person at a terminal; not by /health.
UNASKED = {
    *(
        "faiss",
        "lxml",
        "onnxruntime",
        "pypdfium2",
        "razdel",
        "sounddevice",
        "soundfile",
        "wordfreq",
    ),
    *("gguf", "httpx", "mlx_lm", "peft", "requests", "rich", "scipy", "sklearn", "transformers"),
}
TENSORS = {"torch", "mlx"}
WEB = {"fastapi", "numpy", "prometheus_client", "pydantic", "safetensors", "starlette", "tokenizers", "uvicorn"}  # fmt: skip
GUARD_S = 60.0


def imported_by(home: Path, *arguments: str, until: str | None = None, **env: str) -> set[str]:
    """The modules that `pushkin …` imports, up to its JSON event `until` or to its end."""
    command = [sys.executable, "-X", "importtime", "-m", "daemon", *arguments]
    with (
        (home.parent / "imports").open("w+") as imports,
        subprocess.Popen(
            command, env=environment(home, **env), stdout=subprocess.PIPE, stderr=imports, text=True
        ) as process,
    ):
        assert process.stdout is not None
        for line in process.stdout:
            if until is not None and json.loads(line)["event"] == until:
                break
        process.kill()
        process.wait(GUARD_S)
        imports.seek(0)
        lines = imports.read().splitlines()
    return {line.rpartition("|")[2].strip() for line in lines if line.startswith("import time:")}


def test_a_start_imports_no_tensors_for_an_engine_without_and_nothing_unasked(home: Path) -> None:
    found = imported_by(home, "serve", "--json", until="ready")

    assert {"fastapi", "api.app", "uvicorn"} <= found
    assert not found & (UNASKED | TENSORS)
    assert "indexer.formats.readers" not in found  # the extractor child's
    assert "api.openapi" not in found  # the document is a file


@pytest.mark.slow
def test_a_start_with_torch_imports_neither_its_compiler_nor_another_engine(home: Path) -> None:
    found = imported_by(home, "serve", "--json", until="ready", PUSHKIN_ENGINE="torch")

    assert "torch" in found
    assert not found & (UNASKED | {"mlx", "sympy", "torch._dynamo", "torch._inductor"})


@pytest.mark.slow
def test_a_start_with_onnx_imports_no_tensors_of_others(home: Path) -> None:
    found = imported_by(home, "serve", "--json", until="ready", PUSHKIN_ENGINE="onnx")

    assert "onnxruntime" in found
    assert not found & (UNASKED - {"onnxruntime"} | TENSORS)


@pytest.mark.parametrize(
    "arguments", [("token",), ("--help",), ("serve", "--help"), ("config", "show")]
)
def test_a_command_that_only_tells_something_imports_nothing_heavy(
    home: Path, arguments: tuple[str, ...]
) -> None:
    found = imported_by(home, *arguments)

    assert "daemon.cli" in found
    assert not found & (UNASKED | TENSORS | WEB)


def test_products_get_one_thread_however_the_program_is_started(home: Path) -> None:
    """Two spin while they wait for each other, beside the engine's own."""
    program = (
        "import json, runpy, sys\n"
        "sys.argv = ['pushkin', 'version']\n"
        "try:\n"
        "    runpy.run_module('daemon', run_name='__main__')\n"
        "except SystemExit:\n"
        "    import numpy, threadpoolctl\n"
        "    print(json.dumps([pool['num_threads'] for pool in threadpoolctl.threadpool_info()]))\n"
    )
    started_by_hand = {k: v for k, v in environment(home).items() if k != "OMP_NUM_THREADS"}
    answer = subprocess.run(
        [sys.executable, "-c", program],
        env=started_by_hand,
        capture_output=True,
        text=True,
        check=True,
        timeout=GUARD_S,
    )
    pools = json.loads(answer.stdout.splitlines()[-1])
    assert pools
    assert set(pools) == {1}
