"""Speech → encoder states on disk: `python -m training.speech_features --data DIR --encoder DIR --out DIR --side train`.

Makes `OUT/SIDE-NNNN.safetensors` (states, float16, clips one after another) with `.jsonl` beside it (what was said). The encoder
is frozen, so its states are computed once, also of altered copies; shards that are there are kept, so a killed run goes on.
Recorded clips: `recorded_clips` says which speakers are for scoring only.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from pushkin_runtime.log_mel import N_FFT, SAMPLE_RATE, FloatArray, log_mel
from pushkin_runtime.speech import open_encoder
from training.checkpoint import write_atomic
from training.speech_synthesis import Room, speak
from training.speech_texts import Kind, Side, Utterance, is_test, utterances, words

SHARD = 250  # clips
N_MELS = 80
N_STACK = 4  # clips are padded to whole rows, as in serving
COUNTS: dict[Side, dict[str, int]] = {
    "train": {"clause": 1600, "everyday": 500, "command": 550, "near_miss": 450, "spelled": 500},
    "test": {"clause": 60, "everyday": 40, "command": 110, "near_miss": 110, "spelled": 30},
}
NOISE_SHARE = 0.05  # clips without any words, beside the others
HELD_OUT_FSDD = ("theo", "jackson")
COPIES = {"an4": 4, "fsdd": 1}  # altered copies of each recorded clip
DIGIT_STRINGS = 300  # of the digits of one speaker, one after another


@dataclass(frozen=True, slots=True)
class Clip:
    """What is known of a clip. group: what its figures are reported under; n_states: of the encoder."""

    text: str
    language: str
    kind: Kind
    group: str
    voice: str
    n_states: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Recorded:
    """A recorded clip and its samples' file."""

    path: Path
    clip: Clip


def recorded_clips(speech: Path, side: Side) -> list[Recorded]:
    """AN4 and spoken digits by speaker; every read sentence and every Russian clip is for scoring."""
    rows = [
        json.loads(line) for line in (speech / "manifest.jsonl").read_text("utf-8").splitlines()
    ]
    an4_test = {row["speaker"] for row in rows if "/an4/test/" in row["path"]}
    found: list[Recorded] = []
    for row in rows:
        has_digits = any(c.isdigit() for c in row["text"])  # written in figures, said in words
        if not row["exact"] or not row["lang"] or has_digits:
            continue
        folder, speaker = row["path"].split("/")[1], row["speaker"]
        if folder == "an4":
            is_held_out = speaker in an4_test or is_test(f"an4 {speaker}")
        else:
            is_held_out = folder != "fsdd" or speaker in HELD_OUT_FSDD
        if is_held_out != (side == "test"):
            continue
        group = folder if folder in ("an4", "fsdd") else f"read {row['lang']}"
        clip = Clip(words(row["text"]), row["lang"], "dict", group, f"{folder}:{speaker}")
        found.append(Recorded(speech / row["path"], clip))
    return found


def load_samples(path: Path) -> FloatArray:
    """Return a 16 kHz clip as float32."""
    samples, rate = soundfile.read(path, dtype="float32")
    if rate != SAMPLE_RATE or samples.ndim != 1:
        raise ValueError(f"{path}: expected mono at 16 kHz, got {samples.shape} at {rate} Hz")
    heard: FloatArray = samples
    return heard


def room_of(speech: Path) -> Room:
    """Noises and room responses of the data; clips with speech in them are left out."""
    files = sorted((speech / "noise").glob("*.flac"))
    noises = [
        load_samples(p)
        for p in files
        if p.stem.startswith(("noise", "handy-noise")) or "-A-" in p.stem
    ]
    return Room(noises, [load_samples(p) for p in files if p.stem.startswith("rir")])


class Maker:
    """Makes the clips of one side; clip number i depends on the seed and i alone."""

    def __init__(self, data: Path, speech: Path, cache: Path, side: Side, seed: int) -> None:
        self._side, self._seed = side, seed
        self._room = room_of(speech)
        self._recorded = recorded_clips(speech, side)
        jobs: list[Utterance | Recorded | str] = [
            *utterances(data, cache, side, COUNTS[side], seed)
        ]
        n_noise = round(NOISE_SHARE * len(jobs))
        if side == "test":
            jobs += self._recorded
        else:
            jobs += [r for r in self._recorded for _ in range(COPIES[r.clip.group])]
            jobs += ["digits"] * DIGIT_STRINGS
        self.jobs = jobs + ["noise"] * n_noise
        random.Random(seed).shuffle(self.jobs)

    def make(self, i: int) -> tuple[Clip, FloatArray]:
        """Clip number i and its samples."""
        job, rng = self.jobs[i], random.Random(f"{self._seed}:{self._side}:{i}")
        if isinstance(job, Recorded):
            samples = load_samples(job.path)
            return job.clip, samples if self._side == "test" else self._room.hear(samples, rng)
        if job == "noise":
            sound = self._room.noise(round(rng.uniform(0.4, 5) * SAMPLE_RATE), rng)
            level = 0.0 if rng.random() < 0.1 else 10 ** (-rng.uniform(15, 70) / 20)
            language = rng.choice(("en", "ru"))
            return Clip("", language, "none", "noise", "noise"), level * sound
        if job == "digits":
            return self._digits(rng)
        assert isinstance(job, Utterance)
        samples, voice = speak(job, self._side, rng)
        group = f"synthetic {job.language} {job.source}"
        return Clip(job.text, job.language, job.kind, group, voice), self._room.hear(samples, rng)

    def clip(self, i: int) -> Clip:
        """What is known of clip number i without making it; a synthetic one's voice is left open."""
        job = self.jobs[i]
        if isinstance(job, Recorded):
            return job.clip
        if isinstance(job, Utterance):
            group = f"synthetic {job.language} {job.source}"
            return Clip(job.text, job.language, job.kind, group, "")
        return Clip("", "", "none", str(job), "")

    def _digits(self, rng: random.Random) -> tuple[Clip, FloatArray]:
        digits = [r for r in self._recorded if r.clip.group == "fsdd"]
        voice = rng.choice(digits).clip.voice
        chosen = rng.choices([r for r in digits if r.clip.voice == voice], k=rng.randrange(2, 7))
        gaps = [np.zeros(round(rng.uniform(0.02, 0.25) * SAMPLE_RATE), np.float32) for _ in chosen]
        parts = [
            part
            for r, gap in zip(chosen, gaps, strict=True)
            for part in (load_samples(r.path), gap)
        ]
        text = " ".join(r.clip.text for r in chosen)
        return Clip(text, "en", "dict", "digits", voice), self._room.hear(
            np.concatenate(parts), rng
        )


def masked(mel: FloatArray, rng: random.Random) -> FloatArray:
    """SpecAugment before the encoder (arXiv:1904.08779): one band of bins and one stretch of frames at the clip's mean."""
    mel = mel.copy()
    height, width = rng.randrange(0, 16), rng.randrange(0, max(1, min(30, mel.shape[1] // 8)))
    low, start = rng.randrange(mel.shape[0] - height), rng.randrange(mel.shape[1] - width)
    mean = mel.mean()
    mel[low : low + height] = mean
    mel[:, start : start + width] = mean
    return mel


def whole(samples: FloatArray) -> FloatArray:
    """`samples` with silence up to a whole row."""
    step = N_STACK * 320
    return np.pad(samples, (0, -(-max(len(samples), N_FFT) // step) * step - len(samples)))


def write_shard(
    maker: Maker, encode: Callable[[FloatArray], FloatArray], numbers: range, path: Path, mask: bool
) -> float:
    """Make clips, encode them and write both files, the states last; seconds of speech."""
    made: list[tuple[Clip, NDArray[np.float16]]] = []
    for i in numbers:
        try:
            clip, samples = maker.make(i)
        except ValueError:  # a synthesiser that said nothing
            continue
        rng = random.Random(i)
        mel = log_mel(whole(samples), N_MELS)
        if mask and rng.random() < 0.4:
            mel = masked(mel, rng)
        states = encode(mel).astype(np.float16)
        made.append((Clip(**{**asdict(clip), "n_states": len(states)}), states))
    lines = "".join(json.dumps(asdict(clip), ensure_ascii=False) + "\n" for clip, _ in made)
    write_atomic(path.with_suffix(".jsonl"), lines)
    temporary = path.with_name(f".{path.name}.tmp")
    save_file({"states": np.concatenate([states for _, states in made])}, temporary)
    temporary.replace(path)
    return sum(clip.n_states for clip, _ in made) / 50


def read_shard(path: Path) -> list[tuple[Clip, NDArray[np.float16]]]:
    """The clips of a shard with their states (n_states, d_model)."""
    states = load_file(path)["states"]
    found, start = [], 0
    for line in path.with_suffix(".jsonl").read_text("utf-8").splitlines():
        clip = Clip(**json.loads(line))
        found.append((clip, states[start : start + clip.n_states]))
        start += clip.n_states
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="training.speech_features", description=__doc__)
    for name in ("data", "speech", "encoder", "cache", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--side", choices=("train", "test"), required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--part", default="0/1", help="this process' share, e.g. 0/2 and 1/2")
    arguments = parser.parse_args(argv)
    part, n_parts = map(int, arguments.part.split("/"))
    arguments.out.mkdir(parents=True, exist_ok=True)
    config, encode = open_encoder(arguments.encoder)
    if config.n_mels != N_MELS:
        raise SystemExit(f"the encoder reads {config.n_mels} mel bins, expected {N_MELS}")
    maker = Maker(arguments.data, arguments.speech, arguments.cache, arguments.side, arguments.seed)
    for number, start in enumerate(range(0, len(maker.jobs), SHARD)):
        path = arguments.out / f"{arguments.side}-{number:04d}.safetensors"
        if number % n_parts != part or path.is_file():
            continue
        began = time.monotonic()
        numbers = range(start, min(start + SHARD, len(maker.jobs)))
        seconds = write_shard(maker, encode, numbers, path, arguments.side == "train")
        took = time.monotonic() - began
        print(
            f"{path.name}: {len(numbers)} clips, {seconds:.0f} s of speech, took {took:.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
