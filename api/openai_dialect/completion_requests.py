"""From a completion body to one `GenerationRequest` per prompt, with OpenAI's defaults."""

from __future__ import annotations

from dataclasses import dataclass

from api.errors import ApiError
from api.openai_dialect.bodies import DEFAULT_MODEL, CompletionBody
from api.schemas import adapter_refs, persona_request
from pushkin_runtime.sampling_types import SamplingOverrides
from pushkin_runtime.types import AdapterRef, GenerationRequest

MAX_TOKENS = 16
N_SUFFIX_DRAFTS = 3  # at least, to choose from
SEED_RANGE = 2**63


@dataclass(frozen=True, slots=True)
class ChosenModel:
    """What the client's `model` stands for. name: as the answer gives it, None until the base is known.

    adapters: None leaves the choice to the daemon, () is the bare base model.
    """

    name: str | None
    adapters: tuple[AdapterRef, ...] | None


def chosen_model(wanted: str | None, base: str | None) -> ChosenModel:
    """Resolve a model's name against the loaded base. Raises ApiError model_not_found.

    Names of other models are refused, also those that clients have built in: an answer by another model than
    the one that was asked for would be a lie that nobody notices. base: None while nothing is loaded.
    """
    if wanted in (None, "", DEFAULT_MODEL):
        return ChosenModel(base, None)
    assert wanted is not None
    if base is None or wanted == base:
        return ChosenModel(wanted, ())
    start, _, adapter = wanted.rpartition(":")
    if start != base:
        raise ApiError(
            "model_not_found",
            f"the model must be `{base}`, `{base}:adapter` or `{DEFAULT_MODEL}`; see GET /v1/models",
            param="model",
        )
    return ChosenModel(wanted, (AdapterRef(adapter),))


def generation_requests(
    body: CompletionBody, model: ChosenModel, request_id: str
) -> list[GenerationRequest]:
    """One request per prompt, all with the same id. Text is laid out as it is: nothing is healed or cut."""
    n_drafts = max(body.n or 1, body.best_of or 1, N_SUFFIX_DRAFTS if body.suffix else 1)
    given = adapter_refs(body.adapters)
    return [
        GenerationRequest(
            request_id=request_id,
            task="continue",
            text=prompt if isinstance(prompt, str) else "",
            prompt_tokens=prompt if isinstance(prompt, tuple) else None,
            raw=True,
            cut_prompt=False,
            distinct=False,
            suffix=body.suffix or "",
            document_id=body.document_id,
            max_tokens=MAX_TOKENS if body.max_tokens is None else body.max_tokens,
            n=n_drafts,
            stop=tuple(body.stop or ()),
            sampling=_sampling(body),
            adapters=model.adapters if given is None else given,
            persona=persona_request(body.persona),
            logit_bias=tuple((body.logit_bias or {}).items()),
            return_tokens=body.logprobs is not None,
            n_probs=body.logprobs or 0,
            prompt_logprobs=bool(body.echo) and body.logprobs is not None,
        )
        for prompt in body.prompt
    ]


def _sampling(body: CompletionBody) -> SamplingOverrides:
    """OpenAI's defaults: no cut but the caller's, and the temperature before every cut."""
    return SamplingOverrides(
        temperature=1.0 if body.temperature is None else body.temperature,
        min_p=body.min_p or 0.0,
        top_p=1.0 if body.top_p is None else body.top_p,
        top_k=max(0, body.top_k or 0),
        repetition_penalty=body.repetition_penalty or 1.0,
        presence_penalty=body.presence_penalty or 0.0,
        frequency_penalty=body.frequency_penalty or 0.0,
        seed=None if body.seed is None else body.seed % SEED_RANGE,
        order="temperature_first",
    )
