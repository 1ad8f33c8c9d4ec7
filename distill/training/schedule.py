"""A step in, its learning rate out: linear warm-up, then half a cosine down to zero."""

from __future__ import annotations

import math

from torch.optim import Optimizer


def learning_rate_at(step: int, *, peak: float, num_steps: int, warmup_share: float) -> float:
    """Learning rate of step `step` (from 0). Unlike the usual schedule the first step is not spent at rate zero."""
    warmup_steps = math.ceil(warmup_share * num_steps)
    if step < warmup_steps:
        return peak * (step + 1) / (warmup_steps + 1)
    return peak * 0.5 * (1.0 + math.cos(math.pi * (step - warmup_steps) / (num_steps - warmup_steps)))


def set_learning_rate(optimizer: Optimizer, learning_rate: float) -> None:
    """Use this rate for all parameters from now on."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
