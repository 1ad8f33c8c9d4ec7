"""One line per optimizer step into `metrics.jsonl`; after an interruption the file is cut back to the last checkpoint.

Nothing in it depends on the time of day or the speed of the machine, so a resumed run leaves the same file as an uninterrupted one.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType

from distill.records import DataError


@dataclass(frozen=True, slots=True)
class StepMetrics:
    """What happened in one optimizer step, over all processes.

    `step` counts from 1. `loss` and `validation_loss` are weighted means in nats per trained token; `validation_loss` is None where
    nothing was validated. `grad_norm` is taken before clipping. `num_tokens` counts tokens without padding.
    """

    step: int
    epoch: float
    loss: float
    learning_rate: float
    grad_norm: float
    num_examples: int
    num_tokens: int
    num_trained_tokens: int
    validation_loss: float | None


class MetricsFile:
    """`metrics.jsonl`, held open. `size_bytes` is where the file stood at the checkpoint that training goes on from.

    `DataError` if it does not reach that far any more.
    """

    def __init__(self, path: Path, *, size_bytes: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        if size_bytes and (not path.exists() or path.stat().st_size < size_bytes):
            raise DataError(
                f"{path}: shorter than at the last checkpoint; put it back, or delete the checkpoint beside it to start anew"
            )
        self.handle = path.open("ab")
        self.handle.truncate(size_bytes)
        self.handle.seek(size_bytes)

    def __enter__(self) -> MetricsFile:
        return self

    def write(self, metrics: StepMetrics) -> None:
        """Append a line."""
        self.handle.write(json.dumps(asdict(metrics)).encode() + b"\n")
        self.handle.flush()

    def flush(self) -> int:
        """Bring everything to disk; returns the size in bytes, for the checkpoint."""
        os.fsync(self.handle.fileno())
        return self.handle.tell()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.handle.close()


def last_metrics(path: Path) -> StepMetrics:
    """The last line of a finished `metrics.jsonl`."""
    return StepMetrics(**json.loads(path.read_bytes().splitlines()[-1]))
