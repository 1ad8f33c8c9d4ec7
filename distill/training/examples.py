"""`Example` records in, token ids with their loss mask out; what cannot be trained comes out as rejects, never cut.

Legend: T tokens.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from distill.chat import Tokenizer, example_ids
from distill.records import Example, Reject

RejectReason = Literal["too_long", "nothing_to_train"]


@dataclass(frozen=True, slots=True)
class TrainingExample:
    """One example's tokens. `loss_mask_T` is true on the trained tokens, `weight` scales the loss of each of them."""

    id: str
    input_ids_T: Tensor
    loss_mask_T: Tensor
    weight: float

    @property
    def num_tokens(self) -> int:
        return len(self.input_ids_T)

    @property
    def num_trained_tokens(self) -> int:
        return int(self.loss_mask_T[1:].sum())  # nothing stands before the first token to predict it from

    @property
    def total_weight(self) -> float:
        """The weight of all trained tokens together."""
        return self.weight * self.num_trained_tokens


def tokenise(
    examples: Iterable[Example], tokenizer: Tokenizer, *, max_length: int
) -> tuple[list[TrainingExample], list[Reject]]:
    """Tokens of each example in the rendering of `distill.chat`; as many rows and rejects together as examples came in."""
    kept: list[TrainingExample] = []
    rejects: list[Reject] = []
    for example in examples:
        tokens = example_ids(example.messages, example.reply, tokenizer)
        candidate = TrainingExample(
            id=example.id,
            input_ids_T=torch.tensor(tokens.input_ids, dtype=torch.int32),
            loss_mask_T=torch.tensor(tokens.loss_mask, dtype=torch.bool),
            weight=example.weight,
        )
        reject = _why_reject(candidate, max_length)
        if reject is None:
            kept.append(candidate)
        else:
            rejects.append(reject)
    return kept, rejects


def _why_reject(example: TrainingExample, max_length: int) -> Reject | None:
    if example.num_tokens > max_length:
        return _reject(example, "too_long", f"{example.num_tokens} tokens; train.max_length is {max_length}")
    if not example.total_weight > 0:
        return _reject(
            example, "nothing_to_train", f"{example.num_trained_tokens} trained tokens of weight {example.weight}"
        )
    return None


def _reject(example: TrainingExample, reason: RejectReason, detail: str) -> Reject:
    return Reject(id=example.id, reason=reason, detail=detail, source=None)
