"""What several folders of tests need: a tiny Llama, a vLLM server on any model folder, and a skip where there is no GPU."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from distill.embedded.customer import bedrock_record
from distill.embedded.tokenizer import train_tokenizer
from tests.customer_world import customer_prompts
from tests.vllm_server import VLLM_ENVIRONMENT, StartVllm, vllm_servers


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture(scope="session")
def start_vllm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartVllm]:
    """Starts vLLM on a model folder with flags such as `--dtype float32`; the servers end with the session."""
    if not (VLLM_ENVIRONMENT / ".ready").exists():
        pytest.skip("no vLLM in .venv-vllm; `make vllm` installs it, or says why there is none for this machine")
    with vllm_servers(tmp_path_factory.mktemp("vllm")) as start:
        yield start


@pytest.fixture(scope="session")
def llama_tokenizer() -> PreTrainedTokenizerFast:
    """A Llama-3-style tokenizer that knows the words of the demo's customer."""
    records = [bedrock_record(prompt) for prompt in customer_prompts(60, seed=0)]
    return train_tokenizer([str(record) for record in records])


@pytest.fixture(scope="session")
def llama_folder(llama_tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random Llama: its logits lie far apart, so that arithmetic in another order chooses alike, and it ends its turn at times."""
    folder = tmp_path_factory.mktemp("llama")
    config = LlamaConfig(
        vocab_size=len(llama_tokenizer),
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=2048,
        initializer_range=0.2,
        tie_word_embeddings=False,
        bos_token_id=llama_tokenizer.bos_token_id,
        eos_token_id=llama_tokenizer.eos_token_id,
        pad_token_id=llama_tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        network = LlamaForCausalLM(config)
        network.lm_head.weight[llama_tokenizer.eos_token_id] *= 2.5
    network.save_pretrained(folder)
    llama_tokenizer.save_pretrained(folder)
    return folder
