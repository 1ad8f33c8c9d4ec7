"""torch.compile of the decoder's layers on the GPU changes neither loss nor gradients."""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor

from distill.training.loop import accumulate_gradients, prepare, trainable
from distill.training.student import attach_adapter
from tests.gpu.small_llama import RECIPE, relative_difference, small_examples, small_llama

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(600)]


@pytest.mark.parametrize("full", [False, True], ids=["lora", "full"])
def test_compiled_layers_give_the_same_loss_and_gradients(full: bool) -> None:
    torch.compiler.reset()
    loss, gradients = _step(full=full, compiled=False)
    compiled_loss, compiled_gradients = _step(full=full, compiled=True)
    assert compiled_loss == pytest.approx(loss, rel=2e-3)
    assert compiled_gradients.keys() == gradients.keys()
    for name, gradient in gradients.items():
        assert relative_difference(compiled_gradients[name], gradient) < 0.1, name


def _step(*, full: bool, compiled: bool) -> tuple[float, dict[str, Tensor]]:
    """One batch in several micro-batches of unequal length, as in training."""
    model = small_llama(dtype=torch.float32 if full else torch.bfloat16)
    if compiled:
        for layer in cast(Any, model).model.layers:
            layer.compile()
    student = model if full else attach_adapter(model, rank=8, alpha=16, dropout=0.0, seed=1)
    trainee, _ = prepare(student, RECIPE, Accelerator(mixed_precision="no"))
    loss = accumulate_gradients(trainee, small_examples(8))
    gradients = {name: weight.grad for name, weight in trainable(trainee).items() if weight.grad is not None}
    return loss, {
        name: gradient for name, gradient in gradients.items() if gradient.any()
    }  # a fresh adapter's A has none
