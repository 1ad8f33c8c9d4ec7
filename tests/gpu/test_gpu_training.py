"""LoRA training in bf16 on the GPU: it learns, and its numbers are those of the CPU in fp32."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from peft import PeftModel
from torch import Tensor

from distill.training.examples import TrainingExample
from distill.training.loop import accumulate_gradients, mean_loss, prepare, train, trainable
from distill.training.metrics import StepMetrics
from distill.training.student import attach_adapter
from tests.gpu.small_llama import RECIPE, relative_difference, small_examples, small_llama

pytestmark = pytest.mark.gpu


def test_training_lowers_the_loss_and_leaves_the_base_as_it_was(tmp_path: Path) -> None:
    model = _student(torch.bfloat16)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters() if not weight.requires_grad}
    metrics: list[StepMetrics] = []
    examples = small_examples(16)
    train(
        model,
        examples,
        validation=examples[:4],
        recipe=RECIPE,
        folder=tmp_path,
        accelerator=Accelerator(mixed_precision="no"),
        on_step=metrics.append,
    )
    assert model.device.type == "cuda"
    assert metrics[-1].loss < metrics[0].loss - 1.0
    assert metrics[-1].validation_loss == pytest.approx(metrics[-1].loss, abs=1.0)
    after = dict(model.named_parameters())
    assert all(torch.equal(after[name].cpu(), weight) for name, weight in before.items())


def test_loss_and_gradients_are_near_those_of_the_cpu_in_fp32() -> None:
    examples = small_examples(8)
    expected_loss, expected = _on_the_cpu(_disturbed(_student(torch.float32)), examples)
    trainee, _ = prepare(_disturbed(_student(torch.bfloat16)), RECIPE, Accelerator(mixed_precision="no"))
    assert mean_loss(trainee, examples) == pytest.approx(expected_loss, rel=1e-2)
    assert accumulate_gradients(trainee, examples) == pytest.approx(expected_loss, rel=1e-2)
    _assert_near(_gradients(trainable(trainee)), expected, tolerance=0.1)


def test_any_split_into_micro_batches_gives_the_same_gradients() -> None:
    examples = small_examples(8)
    found = []
    for micro_batch_tokens in (1, 500, 10_000):
        recipe = replace(RECIPE, micro_batch_tokens=micro_batch_tokens)
        trainee, _ = prepare(_disturbed(_student(torch.bfloat16)), recipe, Accelerator(mixed_precision="no"))
        found.append((accumulate_gradients(trainee, examples), _gradients(trainable(trainee))))
    loss, gradients = found[-1]
    for other_loss, other in found[:-1]:
        assert other_loss == pytest.approx(loss, rel=2e-3)
        _assert_near(other, gradients, tolerance=0.05)


def _student(dtype: torch.dtype) -> PeftModel:
    return attach_adapter(small_llama(dtype=dtype), rank=8, alpha=16, dropout=0.0, seed=1)


def _disturbed(model: PeftModel) -> PeftModel:
    """A fresh adapter's B matrices are zero, and so are the gradients of its A matrices; give them values."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(0.05 * torch.randn(parameter.shape, generator=generator))
    return model


def _on_the_cpu(model: PeftModel, examples: Sequence[TrainingExample]) -> tuple[float, dict[str, Tensor]]:
    """Every example alone, logits of all positions: no code of ours."""
    losses = []
    for example in examples:
        ids_T = example.input_ids_T.long()
        logits_TV = model(input_ids=ids_T[None]).logits[0, :-1]
        losses_T = torch.nn.functional.cross_entropy(logits_TV, ids_T[1:], reduction="none")
        losses.append(example.weight * losses_T[example.loss_mask_T[1:]].sum())
    loss = torch.stack(losses).sum() / sum(example.total_weight for example in examples)
    loss.backward()
    weights = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    return loss.item(), _gradients(weights)


def _gradients(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: weight.grad.cpu() for name, weight in weights.items() if weight.grad is not None}


def _assert_near(got: dict[str, Tensor], expected: dict[str, Tensor], *, tolerance: float) -> None:
    assert got.keys() == expected.keys()
    assert got
    for name, gradient in expected.items():
        assert relative_difference(got[name], gradient) < tolerance, name
