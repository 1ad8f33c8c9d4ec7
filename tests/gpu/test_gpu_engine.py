"""The transformers engine on the GPU says in fp32, token for token, what it says on the CPU."""

from __future__ import annotations

from itertools import chain
from random import Random

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from distill.embedded.tokenizer import train_tokenizer
from distill.engines.protocol import Request
from distill.engines.requests import Asking
from distill.engines.transformers_engine import TransformersEngine
from distill.records import Completion, Message

pytestmark = pytest.mark.gpu

TEXTS = ["Find a film by title and year.", "movies.search(title='Alien', year=1979)", "Which concerts are on tonight?"]


@pytest.mark.parametrize(("num_samples", "temperature"), [(1, 0.0), (3, 0.8)], ids=["greedy", "sampled"])
def test_the_gpu_answers_as_the_cpu(num_samples: int, temperature: float) -> None:
    tokenizer = train_tokenizer(TEXTS)
    requests = [_request(number, tokenizer, num_samples, temperature) for number in range(12)]
    on_cpu = _answers(requests, tokenizer, torch.device("cpu"))
    on_gpu = _answers(requests, tokenizer, torch.device("cuda"))
    assert on_gpu == on_cpu
    assert {completion.finish_reason for completions in on_cpu.values() for completion in completions} == {
        "stop",
        "length",
    }


def _request(number: int, tokenizer: PreTrainedTokenizerFast, num_samples: int, temperature: float) -> Request:
    content = " ".join(Random(number).choices(" ".join(TEXTS).split(), k=4 + number))
    asking = Asking(
        model="random",
        tokenizer=tokenizer,
        run_seed=0,
        max_new_tokens=48,
        num_samples=num_samples,
        sampling_temperature=temperature,
    )
    return asking.request(f"prompt-{number}", [Message(role="user", content=content)])


def _answers(
    requests: list[Request], tokenizer: PreTrainedTokenizerFast, device: torch.device
) -> dict[str, tuple[Completion, ...]]:
    engine = TransformersEngine(
        model="random", network=_network(tokenizer).to(device), tokenizer=tokenizer, batch_tokens=512
    )
    answers = {
        answer.request.prompt_id: answer.completions for answer in chain.from_iterable(engine.complete(requests))
    }
    engine.close()
    assert answers.keys() == {request.prompt_id for request in requests}
    return answers


def _network(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A random Llama of large weights: its likeliest token is far from a tie, and ends the turn now and then."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=1024,
        initializer_range=0.2,
        tie_word_embeddings=False,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(0)
    model: LlamaForCausalLM = LlamaForCausalLM(config)
    return model.float().eval()
