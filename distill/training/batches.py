"""A seed and a step in, that step's examples out, dealt to processes and micro-batches and padded into tensors.

Legend: B rows, T tokens, N trained positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from random import Random

import torch
from torch import Tensor

from distill.training.examples import TrainingExample

PADDING_ID = (
    0  # any token will do: padding stands behind the tokens of its row, and no token attends to what comes after it
)


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """What one forward pass takes.

    `keep_BT` is true at the positions that predict a trained token; `target_N` and `weight_N` are these tokens and their weights,
    row by row. `num_tokens` counts tokens without padding.
    """

    input_ids_BT: Tensor
    keep_BT: Tensor
    target_N: Tensor
    weight_N: Tensor
    num_tokens: int


@dataclass(frozen=True, slots=True)
class Share:
    """The indices of one micro-batch. A filler keeps processes in step and weighs nothing (`counts` is false)."""

    indices: tuple[int, ...]
    counts: bool


def examples_of_step(step: int, *, seed: int, num_examples: int, batch_size: int) -> list[int]:
    """Indices of the step's examples, a function of seed and step alone.

    Steps read on through one endless stream of shuffled epochs, so every batch is full and each epoch holds every example once.
    """
    positions = range(step * batch_size, (step + 1) * batch_size)
    return [_shuffled(seed, position // num_examples, num_examples)[position % num_examples] for position in positions]


def deal(lengths: Sequence[int], *, micro_batch_tokens: int, num_processes: int) -> list[list[Share]]:
    """Split indices into micro-batches, per process equally many, each at most `micro_batch_tokens` padded tokens.

    Neighbours in length go together, so padding is small; a single longer example stands alone. Whoever has fewer micro-batches
    gets fillers, since gradients are exchanged in a fixed number of passes.
    """
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    dealt = [
        _micro_batches(order[process::num_processes], lengths, micro_batch_tokens) for process in range(num_processes)
    ]
    most = max(len(shares) for shares in dealt)
    filler = Share(indices=(order[-1],), counts=False)
    return [shares + [filler] * (most - len(shares)) for shares in dealt]


def collate(examples: Sequence[TrainingExample], *, counts: bool, device: torch.device) -> MicroBatch:
    """Pad examples to the longest. No attention mask is needed: padding is on the right."""
    length = max(example.num_tokens for example in examples)
    input_ids_BT = torch.full((len(examples), length), PADDING_ID, dtype=torch.long)
    keep_BT = torch.zeros(len(examples), length, dtype=torch.bool)
    for row, example in enumerate(examples):
        input_ids_BT[row, : example.num_tokens] = example.input_ids_T
        keep_BT[row, : example.num_tokens - 1] = example.loss_mask_T[1:]
    weight_B = torch.tensor([example.weight if counts else 0.0 for example in examples])
    return MicroBatch(
        input_ids_BT=input_ids_BT.to(device),
        keep_BT=keep_BT.to(device),
        target_N=input_ids_BT.roll(-1, dims=1)[keep_BT].to(device),
        weight_N=weight_B.repeat_interleave(keep_BT.sum(dim=1)).to(device),
        num_tokens=sum(example.num_tokens for example in examples) if counts else 0,
    )


@lru_cache(maxsize=2)
def _shuffled(seed: int, epoch: int, num_examples: int) -> tuple[int, ...]:
    order = list(range(num_examples))
    Random(f"{seed}-{epoch}").shuffle(order)
    return tuple(order)


def _micro_batches(order: Sequence[int], lengths: Sequence[int], micro_batch_tokens: int) -> list[Share]:
    """`order` runs from long to short, so the first of a micro-batch says how far all are padded."""
    groups: list[list[int]] = []
    for index in order:
        if groups and (len(groups[-1]) + 1) * lengths[groups[-1][0]] <= micro_batch_tokens:
            groups[-1].append(index)
        else:
            groups.append([index])
    return [Share(indices=tuple(group), counts=True) for group in groups]
