"""The race at a tiny shape: what is typed, what is measured, how it is kept, and what it comes to."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Generator
from pathlib import Path

import pytest

from benchmarks.machine_limits import MachineLimits, measure_limits
from benchmarks.peers_servers import AdapterSet, Piece, Prompt, Written
from benchmarks.race import Race, RacePlan, RaceSamples
from benchmarks.race_report import plot_lengths, plot_race, race_report, ratios, step_size
from benchmarks.race_trace import TraceOptions, long_document
from benchmarks.true_shape import FILLER, Rig, build, open_rig, vocabulary_of
from benchmarks.true_shape_race import main

TRACE = TraceOptions(n_tokens=80, n_keys=6, n_deletions=2, tail_tokens=20)


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Rig:
    """The tiny rig."""
    return build(tmp_path_factory.mktemp("rigs") / "tiny", "tiny")


def shared(one: str, other: str) -> int:
    """Characters that both begin with."""
    return next(
        (n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b),
        min(len(one), len(other)),
    )


class Planted:
    """A server with one cache: a new token costs a millisecond, another adapter forgets everything."""

    name, pid, ready_s = "planted", os.getpid(), 2.0

    def __init__(self) -> None:
        self.asked: list[tuple[str, AdapterSet, bool]] = []
        self._state: tuple[str, AdapterSet] = ("", ())

    def write(self, prompt: Prompt, adapters: AdapterSet, max_tokens: int = 1) -> Written:
        new = self._read(prompt.text, adapters)
        n_prompt = len(prompt.text)
        return Written(
            ttft_ms=float(new),
            decode_ms=10.0 * max(1, max_tokens - 1),
            n_steps=max_tokens - 1,
            prompt_tokens=n_prompt,
            cached_tokens=n_prompt - new,
        )

    def stream(
        self, prompt: Prompt, adapters: AdapterSet, max_tokens: int
    ) -> Generator[Piece, None, None]:
        new = self._read(prompt.text, adapters)
        yield Piece("", 0.5)  # a token that is no text yet
        yield Piece("word", float(new))

    def leave(self, prompt: Prompt, adapters: AdapterSet, after_s: float) -> None:
        self._read(prompt.text, adapters)
        self.asked[-1] = (*self.asked[-1][:2], True)

    def _read(self, text: str, adapters: AdapterSet) -> int:
        known, own = self._state
        common = shared(known, text) if own == adapters else 0
        self._state = text, adapters
        self.asked.append((text, adapters, False))
        return max(1, len(text) - common)


def plan(**changes: object) -> RacePlan:
    """A small plan."""
    values: dict[str, object] = {
        "trace": TRACE,
        "is_patient": False,
        "prefill_tokens": 32,
        "decode_tokens": 4,
        "repeats": 2,
    }
    return RacePlan(**(values | changes))  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.race.INTERVAL_S", 0.0)


def test_a_document_is_typed_at_and_edited_as_an_editor_would_send_it(rig: Rig) -> None:
    document = long_document(rig, TRACE)

    assert [len(text) - len(document.opened) for text in document.typed] == [1, 2, 3, 4, 5, 6]
    assert all(text.startswith(document.opened) for text in document.typed)
    for text in document.deleted:
        assert document.opened.startswith(text)
        assert text.endswith(" ")
    assert len(document.deleted[1]) < len(document.deleted[0]) < len(document.opened) / 2
    common = shared(document.edited, document.typed[-1])
    assert 0 < document.typed[-1].count(" ") - document.edited.count(" ") < 2
    assert 0.6 < common / len(document.opened) < 0.9, "a quarter before the end"
    assert long_document(rig, TRACE) == document


def test_every_phase_is_timed_from_the_state_the_one_before_left(rig: Rig) -> None:
    peer = Planted()

    samples = Race(peer, rig, plan(is_patient=True)).run()

    document = long_document(rig, TRACE)
    n = len(document.typed[-1])
    assert samples.ttft_ms["open"] == [pytest.approx(len(document.opened), abs=20)]
    assert samples.ttft_ms["type"] == [1.0] * 6
    assert samples.ttft_ms["delete_word"] == [1.0, 1.0]
    assert samples.ttft_ms["return"] == [n - len(document.deleted[-1])]
    assert samples.ttft_ms["switch"] == samples.ttft_ms["back"] == [n]
    assert 0 < samples.ttft_ms["edited_end"][0] < n / 2
    assert samples.speeds["decode_bare"] == samples.speeds["decode_adapter"] == [100.0, 100.0]
    assert samples.rss_bytes["peak"] >= samples.rss_bytes["idle_loaded"] > 0
    assert samples.left_out == []


def test_in_a_hurry_the_switch_is_left_early(rig: Rig) -> None:
    peer = Planted()
    samples = Race(peer, rig, plan()).run()

    left = [asked for asked in peer.asked if asked[2]]
    assert [adapters for _, adapters, _ in left] == [(("r4-a", 1.0),)]
    assert "switch" not in samples.ttft_ms
    assert len(samples.ttft_ms["back"]) == 1


def test_what_there_is_no_time_for_is_said(rig: Rig) -> None:
    samples = Race(Planted(), rig, plan(budget_s=0.0, lengths=(16, 32))).run()

    assert samples.left_out[:3] == ["switch, back", "return", "edited_end"]
    assert {"length 16", "length 32"} <= set(samples.left_out)
    assert set(samples.ttft_ms) == {"open", "type", "delete_word"}
    assert len(samples.speeds["decode_bare"]) == 1


def test_cost_by_length_is_that_of_one_more_token(rig: Rig) -> None:
    samples = Race(Planted(), rig, plan(decode_tokens=0, lengths=(16, 64))).run()

    assert [point.n_tokens for point in samples.by_length] == [16, 64]
    assert all(point.ttft_ms <= 12 for point in samples.by_length), "characters of one token"
    assert all(point.decode_ms == 10 for point in samples.by_length)


def samples(name: str, factor: float) -> RaceSamples:
    """Ready-made samples."""
    return RaceSamples(
        name=name,
        ready_s=factor,
        ttft_ms={"type": [10.0 * factor] * 3, "back": [5.0]},
        speeds={"decode_bare": [8.0 / factor]},
        rss_bytes={"peak": int(1e9 * factor)},
        prompt_tokens=80,
    )


def test_ratios_are_ours_by_theirs_and_shares_are_of_the_limit(rig: Rig, tmp_path: Path) -> None:
    ours, theirs = samples("pushkin-torch", 2.0), samples("llama-server", 1.0)
    n_bytes, n_prefill = step_size(rig)
    limits = MachineLimits(
        n_threads=1, read_gb_s=n_bytes * 16 / 1e9, f32_gflop_s=1.0, int8_gop_s=None
    )

    ours.limits = limits

    report = race_report(rig, [theirs, ours], ())

    found = ratios([theirs, ours])["pushkin-torch / llama-server"]
    assert found["type TTFT p50"] == found["load time"] == found["peak memory"] == 2.0
    assert found["back TTFT p50"] == 1.0
    assert found["decode_bare tok/s"] == 0.5
    assert report.figures["pushkin-torch.decode_bare_share"].median == pytest.approx(4 / 16)
    assert limits.prefill_tok_s(n_prefill) == pytest.approx(1e9 / (2 * n_prefill))
    plot_race([theirs, ours], {"decode": 16.0}, tmp_path / "race.png")
    plot_lengths([theirs, ours], tmp_path / "lengths.png")
    assert (tmp_path / "race.png").stat().st_size > 10_000
    assert RaceSamples.from_json(json.loads(json.dumps(ours.as_json()))) == ours


def test_limits_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.machine_limits.READ_BYTES", 1 << 20)
    monkeypatch.setattr("benchmarks.machine_limits.GEMM_SIZE", 64)

    limits = measure_limits(1)

    assert limits.read_gb_s > 0.1
    assert limits.f32_gflop_s > 0.1
    assert limits.decode_tok_s(10**9) == pytest.approx(limits.read_gb_s)


def test_every_row_of_the_embeddings_has_text() -> None:
    vocabulary = vocabulary_of(None, 20_000)

    assert vocabulary.get_vocab_size() == 20_000
    assert vocabulary.decode([19_999], skip_special_tokens=False) == f"{FILLER}19999"
    text = "The old house stood by the river. Старый дом стоял у реки."
    plain = vocabulary.encode(text, add_special_tokens=False)
    assert vocabulary.decode(plain.ids) == text
    assert vocabulary.token_to_id("<bos>") == 2
    specials = {token.content for token in vocabulary.get_added_tokens_decoder().values()}
    assert specials == {"<pad>", "<eos>", "<bos>", "<unk>"}


def test_a_rig_of_an_older_kind_is_refused(rig: Rig, tmp_path: Path) -> None:
    shutil.copy(rig.model.parent / "rig.json", tmp_path)
    content = json.loads((tmp_path / "rig.json").read_text()) | {"format": 1}
    (tmp_path / "rig.json").write_text(json.dumps(content))
    with pytest.raises(FileNotFoundError, match="older kind"):
        open_rig(tmp_path)


@pytest.mark.slow
def test_the_command_runs_our_daemon_and_says_what_it_found(
    rig: Rig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--rig", str(rig.model.parent), "--quick", "--tokens", "80", "--keys", "4"]
    out = ["--out", str(tmp_path), "--threads", "1", "--longest", "128", "--run", "torch"]

    assert main([*arguments, *out]) == 0

    report = json.loads(capsys.readouterr().out)
    assert report["figures"]["pushkin-torch.type_ttft_ms"]["n"] == 4
    assert report["figures"]["pushkin-torch.back_ttft_ms"]["median"] > 0
    assert [point["n_tokens"] for point in report["counts"]["by_length"]["pushkin-torch"]] == [128]
    assert (tmp_path / "race.png").is_file()
    assert report["figures"]["pushkin-torch.decode_bare_share"]["median"] > 0
    assert (tmp_path / "lengths.png").is_file()
