"""The in-process engine gives what `generate` gives, whatever else is in the batch, and draws samples that can be drawn again."""

from __future__ import annotations

import shutil
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch

from distill.chat import stop_ids
from distill.config import ConfigError
from distill.engines.fingerprint import fingerprint
from distill.engines.protocol import Answer, Request
from distill.engines.requests import Asking
from distill.engines.transformers_engine import TransformersEngine, open_transformers
from distill.records import Completion, FinishReason, Message
from tests.customer_world import customer_prompts

LENGTHS = (1, 2, 3, 7, 20, 21, 60, 150)


@pytest.fixture(scope="module")
def engine(llama_folder: Path) -> TransformersEngine:
    return open_transformers(str(llama_folder), dtype="float32", batch_tokens=1_000_000)


@pytest.fixture(scope="module")
def ragged(engine: TransformersEngine) -> list[Request]:
    """Prompts of very different lengths, each with a bound of its own."""
    texts = [prompt.request.text for prompt in customer_prompts(12, seed=6)]
    return [
        replace(
            ask(engine, " ".join((text * 9).split()[: LENGTHS[index % len(LENGTHS)]])),
            key=str(index),
            max_new_tokens=(40, 1, 25)[index % 3],
        )
        for index, text in enumerate(texts)
    ]


def ask(
    engine: TransformersEngine, text: str, *, temperature: float = 0.0, num_samples: int = 1, run_seed: int = 0
) -> Request:
    asking = Asking(
        model=engine.model,
        tokenizer=engine.tokenizer,
        run_seed=run_seed,
        max_new_tokens=20,
        num_samples=num_samples,
        sampling_temperature=temperature,
    )
    return asking.request(text, [Message("user", text)])


def with_batches(engine: TransformersEngine, batch_tokens: int) -> TransformersEngine:
    return replace(engine, batch_tokens=batch_tokens)


def by_key(answers: list[Answer]) -> dict[str, tuple[Completion, ...]]:
    assert all(answer.error is None for answer in answers)
    assert len({answer.request.key for answer in answers}) == len(answers)
    return {answer.request.key: answer.completions for answer in answers}


@torch.inference_mode()
def generated(engine: TransformersEngine, request: Request) -> Completion:
    stops = stop_ids(engine.tokenizer)
    network: Any = engine.network  # transformers wraps `generate` so that its signature is lost
    whole = network.generate(
        torch.tensor([request.prompt_ids]), attention_mask=torch.ones(1, len(request.prompt_ids), dtype=torch.long), do_sample=False,
        max_new_tokens=request.max_new_tokens, eos_token_id=list(stops), pad_token_id=engine.tokenizer.pad_token_id,
    )  # fmt: skip
    ids = whole[0, len(request.prompt_ids) :].tolist()
    reason: FinishReason = "stop" if ids[-1] in stops else "length"
    return Completion(
        str(engine.tokenizer.decode(ids, skip_special_tokens=True)), reason, len(request.prompt_ids), len(ids)
    )


def test_a_ragged_batch_is_answered_as_by_generate(engine: TransformersEngine, ragged: list[Request]) -> None:
    answers = by_key(list(chain.from_iterable(engine.complete(ragged))))
    assert answers == {request.key: (generated(engine, request),) for request in ragged}
    reasons = {completion.finish_reason for completions in answers.values() for completion in completions}
    assert reasons == {"stop", "length"}, "both ways to end are seen"
    assert len({completions[0].num_completion_tokens for completions in answers.values()}) > 4, (
        "rows leave the batch at different times"
    )


@pytest.mark.parametrize("batch_tokens", [1, 150, 600])
def test_neighbours_do_not_change_an_answer(
    batch_tokens: int, engine: TransformersEngine, ragged: list[Request]
) -> None:
    together = by_key(list(chain.from_iterable(engine.complete(ragged))))
    assert by_key(list(chain.from_iterable(with_batches(engine, batch_tokens).complete(ragged[::-1])))) == together


def said_in(answers: dict[str, tuple[Completion, ...]]) -> list[str]:
    """All texts but empty ones: an untrained model may end its turn at once."""
    return [completion.text for completions in answers.values() for completion in completions if completion.text]


def test_samples_can_be_drawn_again_alone(engine: TransformersEngine) -> None:
    texts = [prompt.request.text for prompt in customer_prompts(5, seed=7)]
    requests = [ask(engine, text, temperature=1.0, num_samples=3) for text in texts]
    together = by_key(list(chain.from_iterable(engine.complete(requests))))
    for request in requests:
        (again,) = chain.from_iterable(with_batches(engine, 1).complete([request]))
        assert again.completions == together[request.key]
        for sample, completion in enumerate(again.completions):
            (alone,) = chain.from_iterable(
                engine.complete([replace(request, num_samples=1, seed=request.seed + sample)])
            )
            assert alone.completions == (completion,), "sample k uses seed + k"
    said = said_in(together)
    assert len(said) >= 10 and len(set(said)) == len(said)
    others = [ask(engine, text, temperature=1.0, num_samples=3, run_seed=1) for text in texts]
    assert not set(said_in(by_key(list(chain.from_iterable(engine.complete(others)))))) & set(said)


def test_greedy_and_sampled_requests_may_share_a_batch(engine: TransformersEngine) -> None:
    greedy, sampled = ask(engine, "Find Heat."), ask(engine, "Find Ran.", temperature=1.0)
    together = by_key(list(chain.from_iterable(engine.complete([greedy, sampled]))))
    assert together[greedy.key] == (generated(engine, greedy),)
    assert together[sampled.key] == next(iter(chain.from_iterable(engine.complete([sampled])))).completions


def test_what_does_not_fit_is_answered_with_an_error_and_the_rest_as_ever(engine: TransformersEngine) -> None:
    limit = engine.network.config.max_position_embeddings
    short, long = ask(engine, "Find Heat."), ask(engine, "so long " * 1200)
    exact = replace(short, key="exact", max_new_tokens=limit - len(short.prompt_ids) + 1)
    answers = {answer.request.key: answer for answer in chain.from_iterable(engine.complete([long, short, exact]))}
    assert answers[short.key].completions == (generated(engine, short),)
    assert (answers[long.key].completions, answers[exact.key].completions) == ((), ())
    assert answers[long.key].error == f"needs {len(long.prompt_ids) + 20} tokens, the model's context is {limit}"
    assert answers[exact.key].error == f"needs {limit + 1} tokens, the model's context is {limit}"
    assert list(chain.from_iterable(engine.complete([]))) == []


def test_a_key_tells_apart_everything_that_determines_an_answer(engine: TransformersEngine) -> None:
    base: dict[str, Any] = {
        "model": "m",
        "num_samples": 1,
        "sampling_temperature": 0.5,
        "max_new_tokens": 5,
        "run_seed": 0,
    }
    changes: list[dict[str, Any]] = [
        {},
        {"model": "n"},
        {"num_samples": 2},
        {"sampling_temperature": 0.6},
        {"max_new_tokens": 6},
        {"run_seed": 1},
    ]
    requests = [
        Asking(tokenizer=engine.tokenizer, **{**base, **change}).request("p", [Message("user", "Hi")])
        for change in changes
    ]
    other_text = Asking(tokenizer=engine.tokenizer, **base).request("p", [Message("user", "Ho")])
    other_prompt = Asking(tokenizer=engine.tokenizer, **base).request("q", [Message("user", "Hi")])
    again = Asking(tokenizer=engine.tokenizer, **base).request("p", [Message("user", "Hi")])
    assert len({request.key for request in (*requests, other_text, other_prompt)}) == len(changes) + 2
    assert again == requests[0]


def test_a_fingerprint_is_of_the_weights(llama_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(llama_folder, tmp_path / "copy")
    assert fingerprint(str(tmp_path / "copy")) == fingerprint(str(llama_folder))
    weights = tmp_path / "copy" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(bytes(content))
    assert fingerprint(str(tmp_path / "copy")) != fingerprint(str(llama_folder))
    assert (
        fingerprint("meta-llama/Llama-3.2-1B")
        == fingerprint("meta-llama/Llama-3.2-1B")
        != fingerprint("meta-llama/Llama-3.2-3B")
    )


def test_a_folder_without_weights_is_named(llama_folder: Path, tmp_path: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json", "config.json"):
        shutil.copy(llama_folder / name, tmp_path / name)
    with pytest.raises(ConfigError, match=f"model '{tmp_path}': cannot load its weights"):
        open_transformers(str(tmp_path), dtype="float32", batch_tokens=1)
