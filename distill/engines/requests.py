"""Prompts in, requests out: token ids by our own chat rendering, and a key that finds an answer paid for earlier."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerFast

from distill.chat import prompt_ids
from distill.engines.protocol import Request
from distill.records import Message, content_id


def make_request(
    prompt_id: str,
    messages: Sequence[Message],
    tokenizer: PreTrainedTokenizerFast,
    *,
    model: str,
    num_samples: int,
    sampling_temperature: float,
    max_new_tokens: int,
    run_seed: int,
) -> Request:
    """One request. `model` is the engine's `model`; the request's own seed follows from `run_seed` and the prompt's id."""
    ids = tuple(prompt_ids(messages, tokenizer))
    seed = int(content_id(run_seed, prompt_id), 16) % 2**31
    return Request(
        key=content_id(model, list(ids), num_samples, sampling_temperature, max_new_tokens, seed),
        prompt_id=prompt_id,
        prompt_ids=ids,
        num_samples=num_samples,
        sampling_temperature=sampling_temperature,
        max_new_tokens=max_new_tokens,
        seed=seed,
    )
