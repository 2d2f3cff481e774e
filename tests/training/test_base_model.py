"""A run can be stopped and resumed without changing its curve; checkpoints are whole or absent."""

from __future__ import annotations

import json
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch

from training import base_model, checkpoint
from training.base_model import RunSettings, Trainer, prepare, run
from training.checkpoint import TrainState
from training.optimizers import OptimizerSettings, Schedule
from training.progress import Metrics, read_metrics

RATES = OptimizerSettings()


def _go(settings: RunSettings) -> list[float]:
    trainer, state = prepare(settings, RATES)
    run(trainer, state)
    return [metrics.loss for metrics in read_metrics(settings.out)]


def test_the_loss_falls_and_stop_and_resume_gives_the_same_curve(settings: RunSettings) -> None:
    whole = _go(settings)
    parted = replace(settings, out=settings.out.with_name("parted"))
    _go(replace(parted, steps=3))
    assert _go(parted) == whole
    assert len(whole) == 8
    assert whole[-1] < whole[0]


def test_decay_starts_from_the_last_checkpoint_and_resumes_exactly(settings: RunSettings) -> None:
    _go(replace(settings, steps=4))
    decay = replace(settings, decay_steps=4, seq_len=64, quantized=True)
    other = replace(decay, out=settings.out.with_name("other"))
    other.out.mkdir()
    for path in settings.out.glob("*/*"):
        target = other.out / path.relative_to(settings.out)
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(path.read_bytes())
    for name in ("latest", "metrics.jsonl"):
        (other.out / name).write_bytes((settings.out / name).read_bytes())
    whole = _go(decay)
    trainer, state = prepare(other, RATES)
    state, _ = base_model.train_step(trainer, state, 1.0)
    checkpoint.save(other.out, trainer.model, trainer.optimizers, state)
    resumed = _go(other)
    assert resumed[-3:] == whole[-3:]
    factors = [metrics.lr_factor for metrics in read_metrics(decay.out)][-4:]
    assert factors == [1.0, 0.75, 0.5, 0.25]


def test_the_stable_phase_is_over_once_the_decay_has_begun(settings: RunSettings) -> None:
    _go(replace(settings, steps=2))
    _go(replace(settings, decay_steps=3, save_every=1, keep=1))
    assert len(_go(settings)) == 5
    folders = sorted(path.name for path in settings.out.glob("step-*"))
    assert folders == ["step-000002", "step-000005"]  # the last stable one is kept


def test_a_decay_by_the_clock_fills_the_end_of_the_time(
    settings: RunSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0

    def one_second_later(
        trainer: Trainer, state: TrainState, factor: float
    ) -> tuple[TrainState, Metrics]:
        nonlocal now
        took = 30.0 if now == 0 else 1.0  # the first step compiles
        now += took
        moved = replace(state, step=state.step + 1)
        return moved, Metrics(moved.step, 0, 1.0, factor, 1.0, 1.0, took)

    monkeypatch.setattr(base_model, "_timed_step", one_second_later)
    monkeypatch.setattr(base_model.time, "monotonic", lambda: now)
    timed = replace(settings, steps=0, max_minutes=200 / 60, decay_minutes=100 / 60)
    run(*prepare(timed, RATES))
    factors = [step.lr_factor for step in read_metrics(settings.out)]
    falling = factors[71:]
    assert set(factors[settings.warmup_steps : 71]) == {1.0}
    assert falling == sorted(falling, reverse=True)
    assert len(falling) == pytest.approx(100, abs=1)
    assert falling[-1] == pytest.approx(0.0, abs=0.02)


def test_the_decay_alone_can_go_through_int4(settings: RunSettings) -> None:
    plain = replace(settings, out=settings.out.with_name("plain"))
    rounded = replace(settings, quantized_decay=True)
    assert _go(replace(plain, steps=2)) == _go(replace(rounded, steps=2))
    first, other = _go(replace(plain, decay_steps=2)), _go(replace(rounded, decay_steps=2))
    assert first[:2] == other[:2]
    assert first[2] != other[2]


def test_a_decay_by_the_clock_needs_to_know_when_it_ends(settings: RunSettings) -> None:
    with pytest.raises(ValueError, match="give both"):
        prepare(replace(settings, decay_minutes=1.0), RATES)


def test_a_decay_can_be_ended_sooner_from_the_rate_it_has_reached() -> None:
    halfway = TrainState(step=54, decay_start=4, decay_steps=100)
    sooner = base_model.replan_decay(halfway, 10)
    schedule = Schedule(2, sooner.decay_start, sooner.decay_steps)
    factors = [schedule.factor(54 + n) for n in range(11)]
    assert factors == pytest.approx([0.5 - 0.05 * n for n in range(11)])
    with pytest.raises(ValueError, match="--decay-steps"):
        base_model.replan_decay(TrainState(step=54), 10)


def test_a_signal_saves_and_ends_the_run(
    settings: RunSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = base_model.train_step

    def signalled(*args: object) -> object:
        signal.raise_signal(signal.SIGTERM)
        return original(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(base_model, "train_step", signalled)
    trainer, state = prepare(settings, RATES)
    assert run(trainer, state).step == 1
    found = checkpoint.latest(settings.out)
    assert found is not None
    assert json.loads((found / "state.json").read_text())["step"] == 1


def test_a_crash_while_saving_leaves_the_previous_checkpoint(
    settings: RunSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    _go(replace(settings, steps=2))
    before = checkpoint.latest(settings.out)
    trainer, state = prepare(settings, RATES)

    def full_disk(*args: object, **kwargs: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OSError, match="no space"):
        checkpoint.save(settings.out, trainer.model, trainer.optimizers, replace(state, step=3))
    assert checkpoint.latest(settings.out) == before
    assert not (settings.out / "step-000003").exists()


def test_a_checkpoint_of_another_shape_is_refused(settings: RunSettings) -> None:
    _go(replace(settings, steps=1))
    found = checkpoint.latest(settings.out)
    assert found is not None
    trainer, _ = prepare(settings, RATES)
    trainer.model.register_parameter("extra", torch.nn.Parameter(torch.zeros(1)))
    with pytest.raises(ValueError, match="extra"):
        checkpoint.load(found, trainer.model, trainer.optimizers)


def test_rows_of_every_step_are_new(settings: RunSettings) -> None:
    trainer, _ = prepare(settings, RATES)
    first, second = (trainer.order.batch(position, 4) for position in (0, 4))
    assert not any(np.array_equal(a, b) for a in first for b in second)
