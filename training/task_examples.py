"""Examples for task adapters: the prompt as serving lays it out, then the tokens to learn.

`pushkin_runtime.prompt.build_prompt` makes every prompt, so that training cannot drift from serving.
Only the completion carries loss. A file of examples is JSON lines, one example a line.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from pushkin_runtime.errors import InvalidRequest
from pushkin_runtime.prompt import build_prompt, default_max_tokens
from pushkin_runtime.tokenizer import TextTokenizer
from pushkin_runtime.types import Control, GenerationRequest, Task

N_CONTEXT = 2048
IGNORED = -100  # the label of a token without loss
TASKS: tuple[Task, ...] = ("continue", "rephrase", "story")


@dataclass(frozen=True, slots=True)
class Pair:
    """A rewriting: `source` as selected, `target` as it should read, and what stood around it.

    kind names where it comes from; group names the original: pairs of one group share a split.
    """

    language: str
    kind: str
    group: str
    source: str
    target: str
    before: str = ""
    after: str = ""
    instruction: str = ""


@dataclass(frozen=True, slots=True)
class TaskExample:
    """One example. prompt and completion are token ids; the completion carries the loss.

    source and target are kept for measures on text: of a rephrase the selection and its rewriting, of a
    continuation the text before the caret and what follows.
    """

    task: Task
    language: str
    kind: str
    group: str
    prompt: tuple[int, ...]
    completion: tuple[int, ...]
    source: str
    target: str

    @property
    def n_tokens(self) -> int:
        """Length of the training sequence."""
        return len(self.prompt) + len(self.completion)

    def training_row(self) -> dict[str, list[int]]:
        """`input_ids` and `labels` of equal length; labels of the prompt are IGNORED."""
        return {
            "input_ids": [*self.prompt, *self.completion],
            "labels": [IGNORED] * len(self.prompt) + list(self.completion),
        }


def rephrase_example(tokenizer: TextTokenizer, pair: Pair) -> TaskExample | None:
    """The pair as serving would ask it, answered by the target and <eos>; None if it cannot fit."""
    request = GenerationRequest(
        request_id="training",
        task="rephrase",
        text=pair.source,
        before=pair.before,
        after=pair.after,
        instruction=pair.instruction,
        control=Control(language=pair.language),
    )
    try:
        prompt = build_prompt(
            request,
            tokenizer,
            n_context=N_CONTEXT,
            max_tokens=default_max_tokens(request, tokenizer),
        )
    except InvalidRequest:
        return None
    completion = (*tokenizer.encode(pair.target), tokenizer.eos_id)
    return TaskExample(
        "rephrase",
        pair.language,
        pair.kind,
        pair.group,
        prompt.tokens,
        completion,
        pair.source,
        pair.target,
    )


@dataclass(frozen=True, slots=True)
class Caret:
    """A place in an author's text: `text` up to the caret and `following` after it."""

    language: str
    kind: str
    group: str
    text: str
    following: str


def continuation_example(
    tokenizer: TextTokenizer, caret: Caret, n_tokens: int, task: Task = "continue"
) -> TaskExample | None:
    """What serving asks at a caret, answered by the first `n_tokens` of the author's own words.

    Serving heals the last token (it generates it again, at least as long): the completion begins there
    too. None where nothing follows, or where healing would cut a character in two.
    """
    request = GenerationRequest(
        request_id="training",
        task=task,
        text=caret.text,
        control=Control(language=caret.language),
    )
    prompt = build_prompt(request, tokenizer, n_context=N_CONTEXT, max_tokens=n_tokens)
    try:
        healed = prompt.healed.decode()
    except UnicodeDecodeError:
        return None
    following = caret.following.lstrip() if _starts_anew(caret, task) else caret.following
    completion = tuple(tokenizer.encode(healed + following)[:n_tokens])
    if not following or len(completion) < 2:
        return None
    return TaskExample(
        task,
        caret.language,
        caret.kind,
        caret.group,
        prompt.tokens,
        completion,
        caret.text,
        following,
    )


def _starts_anew(caret: Caret, task: Task) -> bool:
    """A story prompt ends a finished premise with its own paragraph break."""
    return task == "story" and caret.following[:1].isspace()


def write_examples(path: Path, examples: Iterable[TaskExample]) -> int:
    """Write JSON lines; the number of examples."""
    n_examples = 0
    with path.open("w", encoding="utf-8") as file:
        for example in examples:
            file.write(json.dumps(asdict(example), ensure_ascii=False) + "\n")
            n_examples += 1
    return n_examples


def read_examples(folder: Path, split: str) -> Iterator[TaskExample]:
    """The examples of `folder/SPLIT.jsonl`. Raises FileNotFoundError with what to run."""
    path = folder / f"{split}.jsonl"
    if not path.is_file():
        raise FileNotFoundError(
            f"no {path.name} in {folder}: run python -m training.task_data --out {folder}"
        )
    with path.open(encoding="utf-8") as file:
        for line in file:
            fields = json.loads(line)
            fields["prompt"] = tuple(fields["prompt"])
            fields["completion"] = tuple(fields["completion"])
            yield TaskExample(**fields)
