"""Stage `train`: curated or augmented examples in, one trained student per kind and seed out, as adapter and as merged weights.

```
train/  inputs.json  rejects.jsonl  manifest.json
        {vanilla|augmented}-seed{N}/  adapter/  merged/  metrics.jsonl  manifest.json
```
"""

from __future__ import annotations

import math
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from accelerate import Accelerator, DistributedType
from accelerate.utils import GradientAccumulationPlugin
from transformers import PreTrainedTokenizerFast

from distill.config import Config, ConfigError, TrainConfig, model_path
from distill.engines.fingerprint import fingerprint
from distill.engines.tokenizer import load_tokenizer
from distill.evaluation.accuracy import seeded_model_name
from distill.records import DataError, Example, JsonObject, JsonValue, Reject, content_id
from distill.run_dir import STAGES, Progress, finish_stage, read_rows, stage_hash, start_stage, write_json, write_rows
from distill.training.checkpoint import steps_done
from distill.training.examples import TrainingExample, tokenise
from distill.training.files import remove
from distill.training.loop import CHECKPOINT, METRICS, Recipe, train
from distill.training.metrics import StepMetrics, last_metrics
from distill.training.processes import is_main_process, on_main
from distill.training.student import attach_adapter, check_student, load_student, save_student

Kind = Literal["vanilla", "augmented"]

LEARNS_FROM: dict[Kind, Literal["curate", "augment"]] = {"vanilla": "curate", "augmented": "augment"}
DISTRIBUTIONS = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)
NOT_SUPPORTED = ("ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_MEGATRON_LM")
NUM_PROBES = 4  # examples on which merged and adapter are compared


@dataclass(frozen=True, slots=True)
class Dataset:
    """What one kind of student learns from and is validated on, and the examples that had to be left out."""

    examples: list[TrainingExample]
    validation: list[TrainingExample]
    rejects: list[Reject]


def run_train(run: Path, config: Config, *, redo: bool) -> None:
    """Train `config.train.students` x `config.train.seeds`, skipping those that are done.

    Every process of a distributed run calls it alike; the main one writes. A killed run, started again with as many processes and
    threads, ends on the CPU with the same weights bit for bit.
    """
    tokenizer = load_tokenizer(config.student.model)
    check_student(config.student.model, tokenizer, max_length=config.train.max_length)
    accelerator = _accelerator()
    if not on_main(lambda: start_stage(run, "train", _inputs(run, config), redo=redo)):
        return
    datasets = {kind: _read_dataset(run, kind, tokenizer, config.train) for kind in config.train.students}
    files = ["rejects.jsonl"]
    for kind, dataset in datasets.items():
        for seed in config.train.seeds:
            name = seeded_model_name(kind, seed)
            _train_student(run, name, dataset, config, seed=seed, tokenizer=tokenizer, accelerator=accelerator)
            files += [f"{name}/{part}" for part in ("adapter", "merged", METRICS, "manifest.json")]
    on_main(lambda: _finish(run, datasets, files))


def _accelerator() -> Accelerator:
    # Asked of the environment: on the CPU accelerate takes DDP instead of FSDP without a word.
    for variable in NOT_SUPPORTED:
        if os.environ.get(variable, "false").lower() == "true":
            raise ConfigError(
                f"accelerate: {variable} is set, but students are trained with DDP; use configs/accelerate/ddp.yaml"
            )
    # Precision and accumulation are ours; given explicitly, they are not taken from a launcher's settings.
    accumulation = GradientAccumulationPlugin(num_steps=1)
    accelerator = Accelerator(mixed_precision="no", gradient_accumulation_plugin=accumulation)
    if accelerator.distributed_type not in DISTRIBUTIONS:
        kind = accelerator.distributed_type.value
        raise ConfigError(f"accelerate: students cannot be trained over {kind}; use configs/accelerate/ddp.yaml")
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if launched != accelerator.num_processes:
        raise ConfigError(
            f"accelerate: {launched} processes were launched, but they have no GPUs to meet on; set ACCELERATE_USE_CPU=true in the "
            "environment to train on the CPU, or launch one"
        )
    return accelerator


def _inputs(run: Path, config: Config) -> dict[str, JsonValue]:
    read = {"curate", *(LEARNS_FROM[kind] for kind in config.train.students)}
    settings = config.train.model_dump(exclude={"checkpoint_every"})  # the one setting that changes no result
    return {
        **{stage: stage_hash(run, stage) for stage in STAGES if stage in read},
        "run.seed": config.run.seed,
        "student.model": config.student.model,
        "student.weights": fingerprint(model_path(config.student.model)),
        **{f"train.{key}": value for key, value in settings.items()},
    }


def _read_dataset(run: Path, kind: Kind, tokenizer: PreTrainedTokenizerFast, settings: TrainConfig) -> Dataset:
    """Training examples of the stage this kind learns from; validation examples are the curated ones for every kind."""
    path = run / LEARNS_FROM[kind] / "rows.jsonl"
    training = [example for example in read_rows(path, Example) if example.split == "train"]
    validating = [
        example for example in read_rows(run / "curate" / "rows.jsonl", Example) if example.split == "validation"
    ]
    examples, rejects = tokenise(training, tokenizer, max_length=settings.max_length)
    validation, more_rejects = tokenise(validating, tokenizer, max_length=settings.max_length)
    if not examples:
        reasons = dict(Counter(reject.reason for reject in rejects))
        raise DataError(
            f"{path}: none of {len(training)} examples can be trained on {reasons}; raise train.max_length or add prompts"
        )
    return Dataset(examples, validation, [*rejects, *more_rejects])


def _train_student(
    run: Path,
    name: str,
    dataset: Dataset,
    config: Config,
    *,
    seed: int,
    tokenizer: PreTrainedTokenizerFast,
    accelerator: Accelerator,
) -> None:
    folder = run / "train" / name
    if on_main(lambda: _is_done(folder)):
        return
    settings = config.train
    recipe = _recipe(
        settings, seed=int(content_id("train", config.run.seed, seed), 16) % 2**63, num_examples=len(dataset.examples)
    )
    model = attach_adapter(
        load_student(config.student.model, dtype=settings.dtype),
        rank=settings.lora_rank,
        alpha=settings.lora_alpha,
        dropout=settings.lora_dropout,
        seed=recipe.seed,
    )
    with _watched(run, name, recipe) as on_step:
        train(
            model,
            dataset.examples,
            validation=dataset.validation,
            recipe=recipe,
            folder=folder,
            accelerator=accelerator,
            on_step=on_step,
        )
    accelerator.free_memory()

    def save() -> None:
        probes = sorted(dataset.examples, key=lambda example: example.num_tokens)[:NUM_PROBES]
        difference = save_student(model, tokenizer, folder, dtype=settings.dtype, probes=probes)
        write_json(folder / "manifest.json", _summary(folder, dataset, merge_difference=difference))
        remove(folder / CHECKPOINT)

    on_main(save)


def _is_done(folder: Path) -> bool:
    """Whether this student is finished; what a kill may have left behind it goes."""
    done = (folder / "manifest.json").exists()
    if done:
        remove(folder / CHECKPOINT)
    return done


def _recipe(settings: TrainConfig, *, seed: int, num_examples: int) -> Recipe:
    num_steps = settings.max_steps
    if num_steps is None:
        assert settings.num_epochs is not None  # TrainConfig demands exactly one
        num_steps = math.ceil(settings.num_epochs * num_examples / settings.batch_size)
    return Recipe(
        seed=seed,
        num_steps=num_steps,
        batch_size=settings.batch_size,
        micro_batch_tokens=settings.micro_batch_tokens,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        warmup_share=settings.warmup_share,
        max_grad_norm=settings.max_grad_norm,
        validate_every=settings.validate_every,
        checkpoint_every=settings.checkpoint_every,
        dtype=settings.dtype,
    )


@contextmanager
def _watched(run: Path, name: str, recipe: Recipe) -> Iterator[Callable[[StepMetrics], None]]:
    """A progress bar in the main process, with loss and speed behind it."""
    if not is_main_process():
        yield lambda metrics: None
        return
    done = steps_done(run / "train" / name / CHECKPOINT)
    with Progress(run, "train", total=recipe.num_steps, unit="steps", label=f"train {name}", done=done) as progress:
        started = time.monotonic()
        num_examples = num_tokens = 0

        def on_step(metrics: StepMetrics) -> None:
            nonlocal num_examples, num_tokens
            num_examples += metrics.num_examples
            num_tokens += metrics.num_tokens
            elapsed_s = time.monotonic() - started
            note = f"loss {metrics.loss:.3f}, {num_examples / elapsed_s:.1f} examples/s, {num_tokens / elapsed_s:,.0f} tokens/s"
            progress.advance(note=note)

        yield on_step


def _summary(folder: Path, dataset: Dataset, *, merge_difference: float) -> JsonObject:
    last = last_metrics(folder / METRICS)
    return {
        "counts": {
            "train": len(dataset.examples),
            "validation": len(dataset.validation),
            "rejects": dict(Counter(reject.reason for reject in dataset.rejects)),
            "steps": last.step,
        },
        "epochs": last.epoch,
        "loss": last.loss,
        "validation_loss": last.validation_loss,
        "merge_difference": merge_difference,
    }


def _finish(run: Path, datasets: dict[Kind, Dataset], files: list[str]) -> None:
    """Rejects are listed once for each kind of student."""
    num_rejects = write_rows(
        run / "train" / "rejects.jsonl", [reject for dataset in datasets.values() for reject in dataset.rejects]
    )
    num_rows = sum(len(dataset.examples) + len(dataset.validation) for dataset in datasets.values())
    counts: dict[str, JsonValue] = {"rows": num_rows, "rejects": num_rejects}
    for kind, dataset in datasets.items():
        counts |= {f"{kind}/train": len(dataset.examples), f"{kind}/validation": len(dataset.validation)}
    finish_stage(run, "train", counts=counts, files=files)
