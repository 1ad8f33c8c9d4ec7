"""A seed in, a small random Llama and examples that it can learn out: no tokenizer, no download, seconds on a GPU.

Legend: T tokens.
"""

from __future__ import annotations

from random import Random
from typing import cast

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel

from distill.training.examples import TrainingExample
from distill.training.loop import Recipe

VOCABULARY_SIZE = 1024
NUM_LAYERS = 4
ANSWER_IDS = 8  # answers are made of few tokens: what a few steps can learn

RECIPE = Recipe(
    seed=3,
    num_steps=30,
    batch_size=8,
    micro_batch_tokens=800,
    learning_rate=5e-3,
    weight_decay=0.0,
    warmup_share=0.1,
    max_grad_norm=1.0,
    validate_every=30,
    checkpoint_every=30,
    dtype="bfloat16",
)


def small_llama(*, dtype: torch.dtype, attention: str = "sdpa") -> PreTrainedModel:
    """Four layers of 256 channels with two query heads per key head, on the CPU; equal weights up to `dtype`, whatever `attention`."""
    config = LlamaConfig(
        vocab_size=VOCABULARY_SIZE,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=NUM_LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        initializer_range=0.05,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation=attention)
    return cast(PreTrainedModel, model.to(dtype))


def small_examples(count: int) -> list[TrainingExample]:
    """Examples of 60 to 200 random tokens; the last few, out of `ANSWER_IDS`, are trained."""
    return [_example(index, Random(index)) for index in range(count)]


def relative_difference(got: Tensor, expected: Tensor) -> float:
    """Root mean square of the difference over that of what was expected."""
    difference = (got.float() - expected.float()).square().mean().sqrt()
    return float(difference / expected.float().square().mean().sqrt())


def _example(index: int, random: Random) -> TrainingExample:
    num_prompt, num_answer = random.randint(50, 180), random.randint(8, 20)
    prompt = [random.randrange(ANSWER_IDS, VOCABULARY_SIZE) for _ in range(num_prompt)]
    answer = [random.randrange(ANSWER_IDS) for _ in range(num_answer)]
    return TrainingExample(
        id=str(index),
        input_ids_T=torch.tensor(prompt + answer, dtype=torch.int32),
        loss_mask_T=torch.arange(num_prompt + num_answer) >= num_prompt,
        weight=random.choice((0.5, 1.0)),
    )
