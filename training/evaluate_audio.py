"""How well speech is understood: `python -m training.evaluate_audio --base DIR --adapter DIR --features DIR … --out FILE`.

Scores what is shipped (adapter and projector files) on clips whose speakers, voices, texts and authors were never trained on, beside
two baselines in the same run: a linear CTC probe on the same encoder, trained on the same clips, and pocketsphinx with its
own English model. Errors are counted over the whole group (jiwer), not averaged over sentences. A command's threshold is chosen on
one half of the utterances and judged on the other.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jiwer
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from pushkin_runtime.prompt import dictation_frame
from pushkin_runtime.speech_folder import read_projector
from pushkin_runtime.speech_model import (
    FloatArray,
    Projector,
    at_rms,
    compressed,
    labels_of,
    scores_of,
    transcript,
)
from pushkin_runtime.tokenizer import TextTokenizer
from training.checkpoint import write_atomic
from training.lora_model import attach_adapter, load_base
from training.speech_examples import KINDS, Example, Pieces, load_examples
from training.speech_features import Clip, Maker
from training.speech_persona import PersonaSwitch
from training.speech_reader import LETTERS
from training.speech_texts import words

PRECISION_BAR, RECALL_BAR = 0.98, 0.85
PROBE_STEPS = 600
MAX_ANSWER = 64
SPHINX_CLIPS = {"an4": 400, "read en": 60, "fsdd": 60, "synthetic en": 100}


@dataclass(frozen=True, slots=True)
class Heard:
    """What was made of a clip. shares: of dict, cmd, none."""

    clip: Clip
    text: str
    shares: tuple[float, float, float]

    @property
    def kind(self) -> str:
        """The likeliest of the three."""
        return KINDS[int(np.argmax(self.shares))][1:-1]


class Listener:
    """The shipped speech model over the encoder's states, greedy, as the runtime does it."""

    def __init__(self, base: Path, adapter: Path, pieces: Pieces) -> None:
        self._tokenizer = TextTokenizer(base / "tokenizer.json", 1 << 20)
        self.model = attach_adapter(load_base(base), adapter).eval()
        self.projector = read_projector(adapter)
        self._pieces = pieces.ids.tolist()
        self._kinds = [self._tokenizer.require_special(name) for name in KINDS]
        special = self._tokenizer.special_ids() - self._tokenizer.end_ids()
        self._banned = torch.tensor(sorted(special))

    def rows(self, example: Example) -> FloatArray:
        """The rows of a clip, before they are compressed."""
        p: Projector = self.projector
        hidden = np.maximum(example.stacked.astype(np.float32) @ p.first.T + p.first_bias, 0)
        return at_rms(hidden @ p.second.T + p.second_bias, p.row_rms)

    @torch.inference_mode()
    def hear(self, example: Example, persona: Tensor | None = None) -> Heard:
        """Decide, and write what the projector reads, or else what the model writes."""
        base: Any = self.model.get_base_model()
        embed, head = base.get_input_embeddings(), base.get_output_embeddings()
        before, after = dictation_frame(self._tokenizer, example.clip.language)
        rows = torch.from_numpy(compressed(self.rows(example), self.projector))
        parts = [embed(torch.tensor(before)), rows, embed(torch.tensor(after))]
        x = torch.cat(parts if persona is None else [persona, *parts])[None]
        state = base.model(inputs_embeds=x, use_cache=True)
        logits = head(state.last_hidden_state[0, -1])
        shares = logits[self._kinds].softmax(0).tolist()
        best = int(np.argmax(shares))
        text = ""
        if KINDS[best] != "<none>":
            reads = self.projector.pieces is not None
            text = self.read(example) if reads else self._written(state, self._kinds[best])
        return Heard(example.clip, text, (shares[0], shares[1], shares[2]))

    def read(self, example: Example) -> str:
        """What the projector alone hears, by CTC."""
        labels = labels_of(scores_of(self.rows(example), self.projector))
        heard = transcript(labels, self._pieces)
        return words(self._tokenizer.decode([found.token for found in heard]))

    def _written(self, state: Any, token: int) -> str:
        """What the model writes after its first token, greedily."""
        base: Any = self.model.get_base_model()
        embed, head = base.get_input_embeddings(), base.get_output_embeddings()
        written: list[int] = []
        while len(written) < MAX_ANSWER:
            x = embed(torch.tensor([[token]]))
            state = base.model(
                inputs_embeds=x, past_key_values=state.past_key_values, use_cache=True
            )
            logits = head(state.last_hidden_state[0, -1])
            logits[self._banned] = -torch.inf
            token = int(logits.argmax())
            if token in self._tokenizer.end_ids():
                break
            written.append(token)
        return words(self._tokenizer.decode(written))


class Probe(nn.Module):
    """One linear layer from the encoder's states to letters, by CTC: what the frozen encoder gives away for nothing."""

    def __init__(self, n_state: int) -> None:
        super().__init__()
        self.letters = nn.Linear(n_state, len(LETTERS) + 1)

    def text(self, example: Example) -> str:
        """Greedy."""
        states = torch.from_numpy(example.stacked.astype(np.float32)).reshape(
            -1, self.letters.in_features
        )
        best = self.letters(states).argmax(-1).tolist()
        return words(
            "".join(LETTERS[b - 1] for a, b in zip([0, *best], best, strict=False) if b and b != a)
        )


def train_probe(examples: Sequence[Example], n_state: int, seed: int = 0) -> Probe:
    """Train on the same clips as the model, 16 a step."""
    torch.manual_seed(seed)
    probe = Probe(n_state)
    optimizer = torch.optim.AdamW(probe.parameters(), lr=5e-3)
    rng = random.Random(seed)
    spoken = [example for example in examples if example.clip.text]
    for step in range(PROBE_STEPS):
        chosen = rng.sample(spoken, 16)
        states = [
            torch.from_numpy(e.stacked.astype(np.float32)).reshape(-1, n_state) for e in chosen
        ]
        padded = nn.utils.rnn.pad_sequence(states)
        texts = [[LETTERS.index(c) + 1 for c in e.clip.text if c in LETTERS] for e in chosen]
        scores = functional.log_softmax(probe.letters(padded), -1)
        n_states, n_letters = (
            torch.tensor([len(s) for s in states]),
            torch.tensor([len(t) for t in texts]),
        )
        flat = torch.tensor([letter for text in texts for letter in text])
        loss = functional.ctc_loss(scores, flat, n_states, n_letters, zero_infinity=True)
        for group in optimizer.param_groups:
            group["lr"] = 5e-3 * (1 - step / PROBE_STEPS)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return probe


def group_of(clip: Clip) -> str:
    """What a clip's figures are shown under."""
    return " ".join(clip.group.split()[:2]) if clip.group.startswith("synthetic") else clip.group


def rates(pairs: Iterable[tuple[Clip, str]]) -> dict[str, dict[str, float]]:
    """WER and CER by group, errors over the whole group; clips without words are left out."""
    found: dict[str, tuple[list[str], list[str]]] = {}
    for clip, text in pairs:
        if not clip.text:
            continue
        for name in {group_of(clip), clip.group}:
            wanted, got = found.setdefault(name, ([], []))
            wanted.append(clip.text)
            got.append(text)
    return {
        name: {
            "clips": len(a),
            "words": sum(len(t.split()) for t in a),
            "wer": jiwer.wer(a, b),
            "cer": jiwer.cer(a, b),
        }
        for name, (a, b) in sorted(found.items())
    }


def decisions(heard: Sequence[Heard]) -> dict[str, dict[str, float]]:
    """Precision and recall of "this is a command" by language, the threshold from the other half of the utterances."""
    spoken = [h for h in heard if h.clip.group.startswith("synthetic")]
    result: dict[str, dict[str, float]] = {}
    for language in ("en", "ru", "both"):
        own = [h for h in spoken if language in (h.clip.language, "both")]
        if not own:
            continue
        halves = [own[::2], own[1::2]]
        true = false = missed = 0
        thresholds = []
        for chosen, judged in (halves, halves[::-1]):
            threshold = _threshold(chosen)
            thresholds.append(threshold)
            true += sum(h.shares[1] >= threshold and h.clip.kind == "cmd" for h in judged)
            false += sum(h.shares[1] >= threshold and h.clip.kind != "cmd" for h in judged)
            missed += sum(h.shares[1] < threshold and h.clip.kind == "cmd" for h in judged)
        result[language] = {
            "utterances": len(own),
            "commands": sum(h.clip.kind == "cmd" for h in own),
            "precision": true / max(1, true + false),
            "recall": true / max(1, true + missed),
            "threshold": float(np.mean(thresholds)),
            "argmax right": float(np.mean([h.kind == h.clip.kind for h in own])),
        }
    return result


def _threshold(heard: Sequence[Heard]) -> float:
    """The lowest share of cmd from which precision reaches the bar."""
    ordered = sorted(heard, key=lambda h: -h.shares[1])
    best, true = 1.0, 0
    for n, h in enumerate(ordered, 1):
        true += h.clip.kind == "cmd"
        if true / n >= PRECISION_BAR + (1 - PRECISION_BAR) / 2:
            best = h.shares[1]
    return best


def false_words(heard: Sequence[Heard]) -> dict[str, float]:
    """What is written of clips in which nobody speaks."""
    silent = [h for h in heard if h.clip.kind == "none"]
    seconds = sum(h.clip.n_states for h in silent) / 50
    n_words = sum(len(h.text.split()) for h in silent)
    return {
        "clips": len(silent),
        "seconds": seconds,
        "heard as none": float(np.mean([not h.text for h in silent])),
        "words": n_words,
    }


def sphinx_texts(maker: Maker, chosen: Iterable[int]) -> dict[str, str]:
    """What pocketsphinx, with the English model of its wheel, makes of clips by number."""
    from pocketsphinx import Decoder

    decoder = Decoder(samprate=16000, loglevel="FATAL")
    found: dict[str, str] = {}
    for i in chosen:
        _, samples = maker.make(i)
        decoder.start_utt()
        decoder.process_raw(
            (np.clip(samples, -1, 1) * 32767).astype(np.int16).tobytes(), full_utt=True
        )
        decoder.end_utt()
        hypothesis = decoder.hyp()
        found[str(i)] = words(hypothesis.hypstr) if hypothesis else ""
    return found


def first_of_each(examples: Iterable[Example], limit: int) -> list[Example]:
    """The first `limit` clips of each group, in order; all of them for 0."""
    seen: Counter[str] = Counter()
    chosen = []
    for example in examples:
        seen[group_of(example.clip)] += 1
        if not limit or seen[group_of(example.clip)] <= limit:
            chosen.append(example)
    return chosen


def sphinx_choice(maker: Maker, limit: int = 0) -> list[int]:
    """English clips of each group, in order, at most SPHINX_CLIPS and `limit` of it; no other limit for 0."""
    left = {group: min(n, limit or n) for group, n in SPHINX_CLIPS.items()}
    chosen = []
    for i in range(len(maker.jobs)):
        group = group_of(maker.clip(i))
        if left.get(group, 0) > 0:
            left[group] -= 1
            chosen.append(i)
    return chosen


def evaluate(
    listener: Listener,
    examples: Sequence[Example],
    probe: Probe,
    switch: PersonaSwitch | None,
    every: int = 1,
) -> dict[str, Any]:
    """All figures but pocketsphinx'; the language model on one of `every` clips."""
    few = examples[:: max(1, every)]
    heard = [listener.hear(example) for example in few]
    figures: dict[str, Any] = {
        "transcript": rates((h.clip, h.text) for h in heard),
        "projector": rates((e.clip, listener.read(e)) for e in examples),
        "linear probe": rates((e.clip, probe.text(e)) for e in examples),
        "commands": decisions(heard),
        "nobody speaks": false_words(heard),
        "samples": [[h.clip.group, h.clip.text, h.text] for h in heard[:60]],
    }
    if switch is not None:
        switch.set(True)
        few = few[::4]
        with_persona = [listener.hear(e, switch.rows(i)) for i, e in enumerate(few)]
        switch.set(False)
        figures["a quarter of them, persona on"] = rates((h.clip, h.text) for h in with_persona)
        figures["a quarter of them, persona off"] = rates((h.clip, h.text) for h in heard[::4])
    return figures


def main(argv: Sequence[str] | None = None) -> None:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="training.evaluate_audio", description=__doc__)
    for name in ("base", "adapter", "features", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    for name in ("data", "speech", "cache", "persona", "style-encoder"):
        parser.add_argument(
            f"--{name}",
            type=Path,
            help="for pocketsphinx, and for the persona" if name == "data" else None,
        )
    parser.add_argument(
        "--sphinx", type=Path, help="pocketsphinx' answers; made if it is not there"
    )
    parser.add_argument(
        "--every", type=int, default=1, help="the language model on one clip of so many"
    )
    parser.add_argument(
        "--limit", type=int, default=0, help="at most so many clips of each group, for all systems"
    )
    parser.add_argument("--threads", type=int, default=0)
    arguments = parser.parse_args(argv)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    figures: dict[str, Any] = {}
    if arguments.sphinx:
        figures["pocketsphinx"] = _sphinx(arguments)
    tokenizer = TextTokenizer(arguments.base / "tokenizer.json", 1 << 20)
    pieces = Pieces(tokenizer, arguments.base / "tokenizer.json")
    listener = Listener(arguments.base, arguments.adapter, pieces)
    load: Callable[[str], list[Example]] = lambda side: load_examples(  # noqa: E731
        arguments.features, side, listener.projector.n_stack, pieces
    )
    examples = first_of_each(load("test"), arguments.limit)
    n_state = examples[0].stacked.shape[1] // listener.projector.n_stack
    probe = train_probe(load("train"), n_state)
    switch = (
        PersonaSwitch(listener.model, arguments.persona, arguments.style_encoder)
        if arguments.persona
        else None
    )
    figures |= evaluate(listener, examples, probe, switch, arguments.every)
    write_atomic(arguments.out, json.dumps(figures, ensure_ascii=False, indent=1) + "\n")
    print(table(figures))


def _sphinx(arguments: argparse.Namespace) -> dict[str, dict[str, float]]:
    maker = Maker(arguments.data, arguments.speech, arguments.cache, "test", 0)
    chosen = sphinx_choice(maker, arguments.limit)
    if not arguments.sphinx.is_file():
        write_atomic(arguments.sphinx, json.dumps(sphinx_texts(maker, chosen), indent=0) + "\n")
    texts = json.loads(arguments.sphinx.read_text("utf-8"))
    return rates((maker.clip(i), texts[str(i)]) for i in chosen if str(i) in texts)


def table(figures: Mapping[str, Any]) -> str:
    """The card's table, in Markdown."""
    every = ("projector", "transcript", "linear probe", "pocketsphinx")
    systems = [name for name in every if name in figures]
    lines = [
        "| WER / CER, % | clips | " + " | ".join(systems) + " |",
        "|---" * (len(systems) + 2) + "|",
    ]
    for group, own in figures["projector"].items():
        cells = []
        for system in systems:
            found = figures[system].get(group)
            cells.append(f"{100 * found['wer']:.1f} / {100 * found['cer']:.1f}" if found else "–")
        lines.append(f"| {group} | {own['clips']} | " + " | ".join(cells) + " |")
    return (
        "\n".join(lines)
        + "\n"
        + json.dumps({k: figures[k] for k in ("commands", "nobody speaks")}, indent=1)
    )


if __name__ == "__main__":
    main()
