"""QLoRA on the GPU: a base in NF4 says nearly what it said before, and an adapter on it learns."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from distill.training.loop import train
from distill.training.metrics import StepMetrics
from distill.training.student import attach_adapter
from scripts.bench_gpu import load_nf4
from tests.gpu.small_llama import NUM_LAYERS, RECIPE, relative_difference, small_examples, small_llama

pytestmark = pytest.mark.gpu


def test_a_base_in_nf4_says_nearly_the_same_and_its_adapter_learns(tmp_path: Path) -> None:
    bitsandbytes = pytest.importorskip(
        "bitsandbytes", reason="bitsandbytes is not installed (pip install 'distill[gpu]')"
    )
    device = torch.device("cuda")
    exact = small_llama(dtype=torch.bfloat16).to(device)
    quantised = load_nf4(exact, device=device)
    packed = [module for module in quantised.modules() if isinstance(module, bitsandbytes.nn.Linear4bit)]
    assert len(packed) == 7 * NUM_LAYERS
    assert {module.weight.dtype for module in packed} == {torch.uint8}

    examples = small_examples(16)
    input_ids_BT = examples[0].input_ids_T[None].long().to(device)
    with torch.no_grad():
        difference = relative_difference(quantised(input_ids=input_ids_BT).logits, exact(input_ids=input_ids_BT).logits)
    assert 0.0 < difference < 0.4

    before = [module.weight.detach().clone() for module in packed]
    model = attach_adapter(quantised, rank=8, alpha=16, dropout=0.0, seed=1)
    metrics: list[StepMetrics] = []
    train(
        model,
        examples,
        validation=[],
        recipe=RECIPE,
        folder=tmp_path,
        accelerator=Accelerator(mixed_precision="no"),
        on_step=metrics.append,
    )
    assert metrics[-1].loss < metrics[0].loss - 1.0
    assert all(torch.equal(module.weight, weight) for module, weight in zip(packed, before, strict=True))
