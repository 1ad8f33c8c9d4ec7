"""A model and a micro-batch in, the weighted loss of its trained tokens out; no logits over any other position, ever.

Legend: B rows, T tokens, N trained positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from distill.training.batches import MicroBatch


def trained_logits(model: nn.Module, output_layer: nn.Module, batch: MicroBatch) -> Tensor:
    """N x V logits at the positions that predict a trained token, row by row, through whatever `model` is wrapped in.

    `output_layer` is the model's `lm_head`. transformers' `logits_to_keep` would do for a single row; for several it takes the same
    columns of each, so the choice is made where the hidden states enter the output layer.
    """
    with _only_at(output_layer, batch.keep_BT):
        logits_NV: Tensor = model(input_ids=batch.input_ids_BT, use_cache=False).logits
    assert logits_NV.shape[0] == len(batch.target_N)
    return logits_NV


def cross_entropy(logits_NV: Tensor, target_N: Tensor, weight_N: Tensor) -> Tensor:
    """Weighted sum over the trained tokens of -log p(token), in nats; the caller divides by the weights of the whole step."""
    losses_N = torch.nn.functional.cross_entropy(logits_NV.float(), target_N, reduction="none")
    return (losses_N * weight_N).sum()


@contextmanager
def _only_at(output_layer: nn.Module, keep_BT: Tensor) -> Iterator[None]:
    def choose(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        hidden_BTH = inputs[0]
        return (hidden_BTH[keep_BT],)

    handle = output_layer.register_forward_pre_hook(choose)
    try:
        yield
    finally:
        handle.remove()
