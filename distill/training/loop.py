"""A model with trainable weights and tokenised examples in, the weights trained in place and `metrics.jsonl` out.

Each step's loss is the weighted sum over its trained tokens divided by their total weight, over all micro-batches and processes:
how a batch is split changes rounding and nothing else. Interrupted at any moment, the same call goes on from the last checkpoint.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from distill.records import DataError, content_id
from distill.training.batches import MicroBatch, Share, collate, deal, examples_of_step
from distill.training.checkpoint import read_checkpoint, restore, save_checkpoint
from distill.training.examples import TrainingExample
from distill.training.losses import cross_entropy, trained_logits
from distill.training.metrics import MetricsFile, StepMetrics
from distill.training.processes import on_main
from distill.training.schedule import learning_rate_at, set_learning_rate

CHECKPOINT = "checkpoint.safetensors"
METRICS = "metrics.jsonl"


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to train: the numbers of the `train` section, its length counted in steps."""

    seed: int
    num_steps: int
    batch_size: int
    micro_batch_tokens: int
    learning_rate: float
    weight_decay: float
    warmup_share: float
    max_grad_norm: float
    validate_every: int
    checkpoint_every: int
    dtype: Literal["bfloat16", "float32"]


@dataclass(frozen=True, slots=True)
class Trainee:
    """A model as accelerate has wrapped it, its `lm_head`, and how forward passes are made. `bf16` turns autocast on."""

    model: nn.Module
    output_layer: nn.Module
    accelerator: Accelerator
    micro_batch_tokens: int
    bf16: bool


def train(
    model: nn.Module,
    examples: Sequence[TrainingExample],
    *,
    validation: Sequence[TrainingExample],
    recipe: Recipe,
    folder: Path,
    accelerator: Accelerator,
    on_step: Callable[[StepMetrics], None],
) -> None:
    """Train `model`'s trainable weights for `recipe.num_steps` steps; a checkpoint of the last step is left in `folder`.

    Every process calls it with the same arguments; the main one writes and calls `on_step`. Raises `DataError` if loss or gradients
    stop being finite, or if the checkpoint cannot be used; the checkpoint stays as it was.
    """
    trainee, optimizer = prepare(model, recipe, accelerator)
    start, metrics_size_bytes = _resume(trainee, optimizer, folder)
    with _recorder(trainee, optimizer, recipe, folder, metrics_size_bytes, on_step) as record:
        for step in range(start, recipe.num_steps):
            torch.manual_seed(int(content_id(recipe.seed, step, accelerator.process_index), 16))
            learning_rate = _learning_rate(step, recipe)
            set_learning_rate(optimizer, learning_rate)
            batch = _batch(examples, step, recipe)

            loss = accumulate_gradients(trainee, batch)
            grad_norm = float(accelerator.clip_grad_norm_(trainable(trainee).values(), recipe.max_grad_norm))
            _stop_unless_finite(loss, grad_norm, step, batch, folder)
            optimizer.step()
            optimizer.zero_grad()

            due = (step + 1) % recipe.validate_every == 0 or step + 1 == recipe.num_steps
            record(
                StepMetrics(
                    step=step + 1,
                    epoch=(step + 1) * recipe.batch_size / len(examples),
                    loss=loss,
                    learning_rate=learning_rate,
                    grad_norm=grad_norm,
                    num_examples=len(batch),
                    num_tokens=sum(example.num_tokens for example in batch),
                    num_trained_tokens=sum(example.num_trained_tokens for example in batch),
                    validation_loss=mean_loss(trainee, validation) if validation and due else None,
                )
            )


def prepare(model: nn.Module, recipe: Recipe, accelerator: Accelerator) -> tuple[Trainee, Optimizer]:
    """Put the model on its device and into its wrapping, with an AdamW over its trainable weights."""
    output_layer: nn.Module = model.get_output_embeddings()  # type: ignore[operator]  # as transformers and PEFT models have it
    weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
    fused = accelerator.device.type == "cuda"
    adamw = AdamW(weights, lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=fused)
    wrapped, optimizer = accelerator.prepare(model, adamw)
    trainee = Trainee(
        model=wrapped.train(),
        output_layer=output_layer,
        accelerator=accelerator,
        micro_batch_tokens=recipe.micro_batch_tokens,
        bf16=recipe.dtype == "bfloat16",
    )
    return trainee, optimizer


def trainable(trainee: Trainee) -> dict[str, Tensor]:
    """The trainable weights by name, whatever the model is wrapped in."""
    model = trainee.accelerator.unwrap_model(trainee.model)
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def accumulate_gradients(trainee: Trainee, batch: Sequence[TrainingExample]) -> float:
    """Add the gradients of the batch's mean loss per trained token to the weights', on every process; returns that loss."""
    accelerator = trainee.accelerator
    shares = _shares(trainee, batch)
    total_weight = sum(example.total_weight for example in batch)
    loss = torch.zeros((), device=accelerator.device)
    for number, share in enumerate(shares, start=1):
        gradients_stay_local = accelerator.no_sync(trainee.model) if number < len(shares) else nullcontext()
        with gradients_stay_local:
            part = _loss_sum(trainee, _collate(trainee, batch, share)) / total_weight
            # Gradients are averaged over processes; ours are parts of a sum.
            accelerator.backward(part * accelerator.num_processes)
        loss += part.detach()
    return float(accelerator.reduce(loss, reduction="sum"))


def mean_loss(trainee: Trainee, examples: Sequence[TrainingExample]) -> float:
    """Mean loss per trained token, without gradients and dropout."""
    trainee.model.eval()
    loss = torch.zeros((), device=trainee.accelerator.device)
    with torch.no_grad():
        for share in _shares(trainee, examples):
            loss += _loss_sum(trainee, _collate(trainee, examples, share))
    trainee.model.train()
    total = float(trainee.accelerator.reduce(loss, reduction="sum"))
    return total / sum(example.total_weight for example in examples)


def _learning_rate(step: int, recipe: Recipe) -> float:
    return learning_rate_at(
        step, peak=recipe.learning_rate, num_steps=recipe.num_steps, warmup_share=recipe.warmup_share
    )


def _batch(examples: Sequence[TrainingExample], step: int, recipe: Recipe) -> list[TrainingExample]:
    indices = examples_of_step(step, seed=recipe.seed, num_examples=len(examples), batch_size=recipe.batch_size)
    return [examples[index] for index in indices]


def _shares(trainee: Trainee, examples: Sequence[TrainingExample]) -> list[Share]:
    """This process's micro-batches."""
    lengths = [example.num_tokens for example in examples]
    accelerator = trainee.accelerator
    dealt = deal(lengths, micro_batch_tokens=trainee.micro_batch_tokens, num_processes=accelerator.num_processes)
    return dealt[accelerator.process_index]


def _collate(trainee: Trainee, examples: Sequence[TrainingExample], share: Share) -> MicroBatch:
    return collate([examples[index] for index in share.indices], counts=share.counts, device=trainee.accelerator.device)


def _loss_sum(trainee: Trainee, batch: MicroBatch) -> Tensor:
    with torch.autocast(trainee.accelerator.device.type, dtype=torch.bfloat16, enabled=trainee.bf16):
        logits_NV = trained_logits(trainee.model, trainee.output_layer, batch)
    return cross_entropy(logits_NV, batch.target_N, batch.weight_N)


def _resume(trainee: Trainee, optimizer: Optimizer, folder: Path) -> tuple[int, int]:
    """Restore the last checkpoint, if there is one; returns the steps done and the size of `metrics.jsonl` then."""
    path = folder / CHECKPOINT
    checkpoint = on_main(lambda: read_checkpoint(path))
    if checkpoint is None:
        return 0, 0
    restore(checkpoint, trainable(trainee), optimizer, path=path)
    return checkpoint.step, checkpoint.metrics_size_bytes


@contextmanager
def _recorder(
    trainee: Trainee,
    optimizer: Optimizer,
    recipe: Recipe,
    folder: Path,
    metrics_size_bytes: int,
    on_step: Callable[[StepMetrics], None],
) -> Iterator[Callable[[StepMetrics], None]]:
    """What the main process does after each step: a line of metrics, a checkpoint when due, a word to the caller."""
    if not trainee.accelerator.is_main_process:
        yield lambda metrics: None
        return
    with MetricsFile(folder / METRICS, size_bytes=metrics_size_bytes) as file:

        def record(metrics: StepMetrics) -> None:
            file.write(metrics)
            if metrics.step % recipe.checkpoint_every == 0 or metrics.step == recipe.num_steps:
                size = file.flush()
                save_checkpoint(
                    folder / CHECKPOINT, trainable(trainee), optimizer, step=metrics.step, metrics_size_bytes=size
                )
            on_step(metrics)

        yield record


def _stop_unless_finite(
    loss: float, grad_norm: float, step: int, batch: Sequence[TrainingExample], folder: Path
) -> None:
    if math.isfinite(loss) and math.isfinite(grad_norm):
        return
    raise DataError(
        f"{folder}: step {step + 1} has loss {loss} and gradient norm {grad_norm}, so training cannot go on; lower train.learning_rate "
        f"or look at its examples {', '.join(example.id for example in batch)}. The last checkpoint is kept"
    )
