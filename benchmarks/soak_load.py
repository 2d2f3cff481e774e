"""The load of the soak: what each request is, how it ends, and whether it ended as it should have."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

from benchmarks.harness import Target
from benchmarks.http_client import Body, Broken, Client, Refused
from benchmarks.typing_trace import LANGUAGES, read_script

Task = Literal["continue", "rephrase", "story"]
Ending = Literal[
    "none",
    "disconnect_at_once",
    "disconnect_in_prefill",
    "disconnect_in_decode",
    "delete",
    "superseded",
    "deadline",
]

CANCEL_SHARE = 0.3
CANCELS: tuple[Ending, ...] = (
    "disconnect_at_once",
    "disconnect_in_prefill",
    "disconnect_in_decode",
    "delete",
    "superseded",
    "deadline",
)
NATURAL = {"stop", "length"}
# An ended request may also have ended by itself a moment before.
EXPECTED: dict[Ending, set[str]] = {
    "none": NATURAL,
    "disconnect_at_once": {"left"},
    "disconnect_in_prefill": {"left"},
    "disconnect_in_decode": {"left"},
    "delete": {"cancelled", *NATURAL},
    "superseded": {"superseded", *NATURAL},
    "deadline": {"deadline", *NATURAL},
}
N_DOCUMENTS = 3  # of each worker
MAX_SHORT = 4  # tokens of a request that is left to end by itself
MAX_LONG = 64  # of one that is ended


@dataclass(frozen=True, slots=True)
class Job:
    """One request; a job's number decides everything about it."""

    number: int
    task: Task
    body: Body
    stream: bool
    ending: Ending


@dataclass(slots=True)
class Tally:
    """Outcomes by ending; wrong: those that should not have been, by what happened. ttft_ms: of streams."""

    outcomes: Counter[str] = field(default_factory=Counter)
    wrong: Counter[str] = field(default_factory=Counter)
    n_tokens: int = 0
    n_done: int = 0
    ttft_ms: list[float] = field(default_factory=list)


def make_job(number: int, worker: int, texts: dict[str, str]) -> Job:
    """Return job `number`; `worker` keeps documents apart, so that nobody is superseded by chance."""
    chance = random.Random(number)
    task: Task = chance.choices(("continue", "rephrase", "story"), (7, 2, 1))[0]
    is_cancel = chance.random() < CANCEL_SHARE
    ending = chance.choice(CANCELS) if is_cancel else "none"
    document = chance.randrange(N_DOCUMENTS)
    text = texts[LANGUAGES[(worker + document) % len(LANGUAGES)]]
    body: Body = {
        "document_id": f"soak-{worker}-{document}",
        "revision": 2 * number,
        "max_tokens": MAX_LONG if is_cancel else chance.randint(1, MAX_SHORT),
        "n": chance.choices((1, 2, 3), (8, 1, 1))[0],
        "sampling": {"seed": number},
    }
    if ending == "deadline":
        body["deadline_ms"] = chance.randint(1, 60)
    is_prefill = ending in ("disconnect_in_prefill", "disconnect_at_once")
    # A long text with a beginning of its own is prefilled for a while; else a caret moves in a known one.
    words = f"{number} {text}" if is_prefill else text[: chance.randrange(80, 700)]
    match task:
        case "continue":
            body |= {"text": words}
        case "rephrase":
            body |= {"text": words[-80:] if not is_prefill else words, "before": words[:-80]}
        case "story":
            body |= {"prompt": words}
    return Job(number, task, body, chance.random() < 0.6, ending)


class Worker:
    """Sends jobs one after another over its own connection; a second one is for DELETE and newer requests."""

    def __init__(self, target: Target, number: int) -> None:
        self.number = number
        self.tally = Tally()
        program = f"soak-{number}"
        self._client = Client(target, program=program)
        self._other = Client(target, program=program)
        self._texts = {language: read_script(language)["before"] for language in LANGUAGES}

    def close(self) -> None:
        """Close both connections."""
        self._client.close()
        self._other.close()

    def do(self, number: int) -> None:
        """Send job `number` and note how it ended."""
        job = make_job(number, self.number, self._texts)
        try:
            outcome = self._send(job)
        except Refused as error:
            outcome = f"{error.status} {error.code}"
        except (OSError, Broken) as error:
            outcome = f"broken: {error!r}"
        self.tally.outcomes[f"{job.ending}: {outcome}"] += 1
        if outcome not in EXPECTED[job.ending]:
            self.tally.wrong[f"{job.ending}: {outcome}"] += 1
        self.tally.n_done += 1

    def _send(self, job: Job) -> str:
        path = f"/v1/{job.task}"
        if job.ending == "disconnect_at_once":
            self._client.abandon(path, {**job.body, "stream": job.stream})
            return "left"
        if job.stream or job.ending not in ("none", "deadline"):
            return self._stream(path, job)
        answer = self._client.call("POST", path, job.body)
        if answer.status != 200:
            return f"{answer.status} {answer.data['error']['code']}"
        self.tally.n_tokens += answer.data["usage"]["completion_tokens"]
        return str(answer.data["choices"][0]["finish_reason"])

    def _stream(self, path: str, job: Job) -> str:
        request_id = f"soak-{job.number}"
        is_reached = False
        for event in self._client.stream(path, job.body, request_id=request_id):
            if event.name == "error":
                return f"error event {event.data['error']['code']}"
            if event.name == "done":
                self.tally.n_tokens += event.data["usage"]["completion_tokens"]
                return str(event.data["choices"][0]["finish_reason"])
            if job.ending == "disconnect_in_prefill":
                return "left"
            if event.name == "delta" and not is_reached:
                is_reached = True
                self.tally.ttft_ms.append(event.at_ms)
                if job.ending == "disconnect_in_decode":
                    return "left"
                self._end(path, job, request_id)
        return "stream without an end"

    def _end(self, path: str, job: Job, request_id: str) -> None:
        self._other.close()  # it may have been idle for longer than the daemon keeps a connection
        if job.ending == "delete":
            self._other.call("DELETE", f"/v1/requests/{request_id}")
        elif job.ending == "superseded":
            revision = job.body["revision"] + 1
            self._other.call("POST", path, {**job.body, "revision": revision, "max_tokens": 1})
