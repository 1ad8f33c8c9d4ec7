"""Requests in, bodies of `/completions` out; a server's answers in, completions out. Pure: nothing is sent here.

Log-probabilities travel by token id, since tokens
that decode alike would fall together by text (vLLM issue 44319).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from distill.engines.protocol import Request
from distill.records import Completion, FinishReason, JsonObject, TokenLogprobs

FINISH_REASONS: dict[str, FinishReason] = {"stop": "stop", "length": "length"}
ID_MARK = "token_id:"
NEUTRAL_SAMPLING: JsonObject = {
    "top_p": 1.0,
    "top_k": -1,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
}
"""What vLLM would otherwise take from the model's `generation_config.json`: sampled from is the model's own distribution."""

Parsed = tuple[tuple[Completion, ...], int | None]
"""The samples' completions, and how many of the prompt's tokens were cached."""


class TornBody(ValueError):
    """A body that is cut off or says that the server gave up half-way: asking again may help."""


def completion_body(request: Request, *, model: str, stop_ids: Sequence[int]) -> JsonObject:
    """What is asked: completions of the prompt, or, with `scored_ids`, the log-probabilities of what follows it."""
    if request.scored_ids is not None:
        return {
            "model": model,
            "prompt": [*request.prompt_ids, *request.scored_ids],
            "max_tokens": 1,
            "temperature": 0.0,
            "prompt_logprobs": request.num_logprobs,
        }
    body: JsonObject = {
        "model": model,
        "prompt": list(request.prompt_ids),
        "n": request.num_samples,
        "max_tokens": request.max_new_tokens,
        "temperature": request.sampling_temperature,
        "seed": request.seed,
        "stop_token_ids": list(stop_ids),
        "skip_special_tokens": True,
        **NEUTRAL_SAMPLING,
    }
    # The usage block counts the tokens of all samples together; only the ids tell them apart.
    if request.num_samples > 1 or request.num_logprobs:
        body["return_token_ids"] = True
    if request.num_logprobs:
        body |= {"logprobs": request.num_logprobs, "return_tokens_as_token_ids": True}
    return body | dict(request.sampling_parameters)


def parse_completions(body: bytes, request: Request) -> Parsed:
    """One `Completion` per sample in the samples' order, and how many prompt tokens were cached. `ValueError` says what is wrong."""
    if request.scored_ids is not None:
        return parse_choices(body, 1, lambda choice, _: _scored(choice["prompt_logprobs"], request))
    return parse_choices(body, request.num_samples, lambda choice, usage: _completion(choice, usage, request))


def parse_choices(body: bytes, num_samples: int, read: Callable[[Any, Mapping[str, Any]], Completion]) -> Parsed:
    """What `read` makes of each choice and the block `usage`; `ValueError` where something is missing or one too many."""
    reply = load_body(body)
    try:
        usage = reply.get("usage") or {}
        choices = sorted(reply["choices"], key=lambda choice: int(choice["index"]))
        completions = tuple(read(choice, usage) for choice in choices)
        num_cached = cached_tokens(usage)
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise ValueError(
            f"missing or of the wrong type: {error}; use vLLM 0.11 or newer, or what answers alike"
        ) from None
    if len(completions) != num_samples:
        raise ValueError(f"{len(completions)} completions where {num_samples} were asked for")
    return completions, num_cached


def load_body(body: bytes) -> Any:
    """The body as JSON; `TornBody` if it is none."""
    try:
        return json.loads(body)
    except RecursionError:
        raise ValueError("JSON that is nested too deeply") from None
    except ValueError as error:
        raise TornBody(f"not JSON, or cut off ({error})") from None


def cached_tokens(usage: Mapping[str, Any]) -> int | None:
    """What `--enable-prompt-tokens-details` makes the server tell; None without it."""
    details = usage.get("prompt_tokens_details")
    return None if not details else details.get("cached_tokens")


def finish_reason_of(said: object) -> FinishReason:
    """`TornBody` for any end but a stop or the length limit: the server gave the sample up."""
    if said not in FINISH_REASONS:
        raise TornBody(f"a sample ended with {said!r}")
    return FINISH_REASONS[str(said)]


def count_tokens(choice: Mapping[str, Any], usage: Mapping[str, Any], request: Request) -> int:
    """The usage block counts the tokens of all samples together; where there are several, only their ids tell them apart."""
    return int(usage["completion_tokens"]) if request.num_samples == 1 else len(choice["token_ids"])


def _completion(choice: Mapping[str, Any], usage: Mapping[str, Any], request: Request) -> Completion:
    return Completion(
        text=str(choice["text"]),
        finish_reason=finish_reason_of(choice["finish_reason"]),
        num_prompt_tokens=len(request.prompt_ids),
        num_completion_tokens=count_tokens(choice, usage, request),
        logprobs=_logprobs(choice) if request.num_logprobs else None,
    )


def _logprobs(choice: Mapping[str, Any]) -> TokenLogprobs:
    token_ids = tuple(choice["token_ids"])
    places = [
        ([int(name.removeprefix(ID_MARK)) for name in place], list(place.values()))
        for place in choice["logprobs"]["top_logprobs"]
    ]
    if len(places) != len(token_ids):
        raise ValueError(f"log-probabilities of {len(places)} tokens, where the text has {len(token_ids)}")
    return token_logprobs(token_ids, places)


def _scored(prompt_logprobs: Sequence[Mapping[str, Any] | None], request: Request) -> Completion:
    assert request.scored_ids is not None
    told = prompt_logprobs[len(request.prompt_ids) :]
    if len(told) != len(request.scored_ids):
        raise ValueError(f"log-probabilities of {len(told)} tokens, where {len(request.scored_ids)} were asked for")
    places = [
        ([int(name) for name in place or {}], [entry["logprob"] for entry in (place or {}).values()]) for place in told
    ]
    return Completion(
        text="",
        finish_reason="stop",
        num_prompt_tokens=len(request.prompt_ids),
        num_completion_tokens=len(request.scored_ids),
        logprobs=token_logprobs(request.scored_ids, places),
    )


def token_logprobs(token_ids: tuple[int, ...], places: Sequence[tuple[list[int], list[float]]]) -> TokenLogprobs:
    """Each place likeliest first, as most of them are told."""
    top_ids: list[tuple[int, ...]] = []
    top_logprobs: list[tuple[float, ...]] = []
    for token, (ids, values) in zip(token_ids, places, strict=True):
        if token not in ids:
            raise ValueError(f"token {token} has no log-probability of its own; ask with return_tokens_as_token_ids")
        falling = sorted(values, reverse=True)
        if values != falling:
            order = sorted(range(len(ids)), key=lambda index: -values[index])  # used at once
            ids = [ids[index] for index in order]
        top_ids.append(tuple(ids))
        top_logprobs.append(tuple(falling))
    return TokenLogprobs(token_ids, tuple(top_ids), tuple(top_logprobs))
