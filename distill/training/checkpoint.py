"""Trainable weights and optimizer state in, one safetensors file out, and back again bit for bit.

There is at most one checkpoint: a new one replaces the old in a single rename. No random state is kept in it, because every step
seeds its own from (seed, step, process).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.optim import Optimizer

from distill.records import DataError
from distill.training.files import partial_path, publish

WEIGHTS, OPTIMIZER = "weights/", "optimizer/"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """`step` optimizer steps are done, `metrics.jsonl` was `metrics_size_bytes` long then; `tensors` by their names in the file."""

    step: int
    metrics_size_bytes: int
    tensors: Mapping[str, Tensor]


def save_checkpoint(
    path: Path, weights: Mapping[str, Tensor], optimizer: Optimizer, *, step: int, metrics_size_bytes: int
) -> None:
    """Write a checkpoint in place of the last one. Interrupted at any moment, or with the disk full, it leaves the last one whole."""
    tensors = {WEIGHTS + name: tensor.detach().contiguous() for name, tensor in weights.items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"{OPTIMIZER}{index}/{name}": torch.as_tensor(value).contiguous() for name, value in state.items()}
    partial = partial_path(path)
    save_file(tensors, partial, metadata={"step": str(step), "metrics_size_bytes": str(metrics_size_bytes)})
    publish(partial, path)


def read_checkpoint(path: Path) -> Checkpoint | None:
    """The checkpoint at `path`, None if there is none yet; `DataError` if it cannot be read."""
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        return Checkpoint(
            step=int(metadata["step"]), metrics_size_bytes=int(metadata["metrics_size_bytes"]), tensors=tensors
        )
    except (SafetensorError, KeyError, ValueError, OSError) as error:
        raise _unusable(path, str(error)) from None


def steps_done(path: Path) -> int:
    """How many steps the checkpoint at `path` stands for; 0 if there is none. Reads no weights."""
    if not path.exists():
        return 0
    try:
        with safe_open(path, framework="pt") as file:
            return int(file.metadata()["step"])
    except (SafetensorError, KeyError, TypeError, ValueError, OSError) as error:
        raise _unusable(path, str(error)) from None


def restore(checkpoint: Checkpoint, weights: Mapping[str, Tensor], optimizer: Optimizer, *, path: Path) -> None:
    """Put a checkpoint's values into the weights and the optimizer. `DataError` if it belongs to another model."""
    saved = {
        name.removeprefix(WEIGHTS): tensor for name, tensor in checkpoint.tensors.items() if name.startswith(WEIGHTS)
    }
    shapes = {name: tensor.shape for name, tensor in weights.items()}
    if {name: tensor.shape for name, tensor in saved.items()} != shapes:
        raise _unusable(path, "it holds the weights of another model")
    with torch.no_grad():
        for name, tensor in weights.items():
            tensor.copy_(saved[name])
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in checkpoint.tensors.items():
        if name.startswith(OPTIMIZER):
            index, _, key = name.removeprefix(OPTIMIZER).partition("/")
            state.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _unusable(path: Path, what: str) -> DataError:
    return DataError(
        f"{path}: this checkpoint cannot be resumed from ({what}); delete it to train this student from the beginning"
    )
