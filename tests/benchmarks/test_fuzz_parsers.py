"""The parsers of strangers' bytes under a fuzzer for a moment; `python -m benchmarks.fuzz_parsers` takes longer."""

from __future__ import annotations

import subprocess

import pytest

from benchmarks import fuzz_parsers

pytest.importorskip("atheris", reason="NO FUZZING: atheris has no wheel for this Python")


@pytest.mark.slow
@pytest.mark.parametrize("target", fuzz_parsers.TARGETS)
def test_a_fuzzer_finds_nothing_in_three_seconds(target: str) -> None:
    report = fuzz_parsers._fuzz(target, 3)

    assert report["finding"] is None
    assert isinstance(report["runs"], int)
    assert report["runs"] > 100


@pytest.mark.slow
def test_a_large_parent_is_no_finding() -> None:
    held = b"x" * (fuzz_parsers._MEMORY_MB << 20)

    assert fuzz_parsers._fuzz("sse", 1)["finding"] is None
    assert held[-1:] == b"x"


@pytest.mark.slow
def test_a_finding_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 77, "", "== ERROR: libFuzzer: deadly signal")

    monkeypatch.setattr(subprocess, "run", broken)

    assert "deadly signal" in str(fuzz_parsers._fuzz("sse", 1)["finding"])
