"""A model shape and a batch in, training tokens/s, MFU and peak memory out, beside TRL's SFTTrainer on the same examples.

    python scripts/bench_gpu.py --shapes 1b 3b --methods lora full --sequence-length 1024 --batch-size 32

Weights and tokens are random: the speed of training depends on neither. docs/benchmarks.md says what each number means.

Legend: N examples, T tokens.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import importlib.util
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, Literal, cast

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from peft import PeftModel, prepare_model_for_kbit_training
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    PrinterCallback,
    TrainerCallback,
)
from transformers.utils.logging import disable_progress_bar

from distill.embedded.tokenizer import train_tokenizer
from distill.records import JsonObject, JsonValue
from distill.run_dir import package_versions, write_json
from distill.training.examples import TrainingExample
from distill.training.loop import Recipe, accumulate_gradients, prepare, trainable
from distill.training.student import attach_adapter

Method = Literal["lora", "qlora", "full"]
TrainerName = Literal["distill", "trl"]
Model = PreTrainedModel | PeftModel
Batches = Sequence[Sequence[TrainingExample]]

# Published shapes: config.json of meta-llama/Llama-3.2-1B and -3B. `tiny` is for trying this script out.
SHAPES: dict[str, dict[str, int]] = {
    "tiny": {
        "hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 256,
        "vocab_size": 512,
    },
    "1b": {
        "hidden_size": 2048, "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8, "intermediate_size": 8192,
        "vocab_size": 128256,
    },
    "3b": {
        "hidden_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 24, "num_key_value_heads": 8, "intermediate_size": 8192,
        "vocab_size": 128256,
    },
}  # fmt: skip

# Dense bf16 tensor throughput of NVIDIA's data sheets; where a sheet gives the rate with sparsity, half of it. The first name
# that stands in the device's own name counts.
PEAK_TFLOPS: tuple[tuple[str, float], ...] = (
    ("H200 NVL", 835.5),
    ("H200", 989.4),
    ("H100 NVL", 835.5),
    ("H100 PCIe", 756.0),
    ("H100", 989.4),
    ("A100", 312.0),
    ("L40S", 362.0),
    ("A10G", 70.0),
)
LEARNING_RATE = 1e-5
MAX_GRAD_NORM = 1.0
PEERS = ("trl", "bitsandbytes", "datasets")


@dataclass(frozen=True, slots=True)
class Workload:
    """What is trained and how. `batch_size` counts examples per optimizer step, `micro_batch_size` those of one forward pass.

    The last `trained_tokens` of each example's `sequence_length` tokens are trained.
    """

    shape: str
    method: Method
    sequence_length: int
    trained_tokens: int
    batch_size: int
    micro_batch_size: int
    lora_rank: int
    activation_checkpointing: bool
    compile_layers: bool
    warmup_steps: int
    timed_steps: int


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds and loss of every step, warm-up included, and the most memory held at once (None without CUDA)."""

    step_seconds: tuple[float, ...]
    losses: tuple[float, ...]
    peak_memory_bytes: int | None


@dataclass(frozen=True, slots=True)
class Result:
    """One line of the table. Rates come from the median step after the warm-up; `skipped` says why they are missing.

    `model_flops` counts one step. `mfu` is None where the device's peak is unknown.
    """

    workload: Workload
    trainer: TrainerName
    skipped: str | None
    step_seconds: float | None = None
    tokens_per_second: float | None = None
    examples_per_second: float | None = None
    model_flops: float | None = None
    mfu: float | None = None
    peak_memory_bytes: int | None = None
    losses: tuple[float, ...] = ()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit code, 2 where there is no GPU to measure."""
    arguments = _arguments(argv)
    if not arguments.tiny and not torch.cuda.is_available():
        print(
            "bench_gpu: no CUDA device; run it on a machine with one, or with --tiny to try the script", file=sys.stderr
        )
        return 2
    disable_progress_bar()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    peak_tflops = arguments.peak_tflops or known_peak_tflops(device_name(device))
    results = []
    for workload in _workloads(arguments):
        for trainer in arguments.trainers:
            result = measure(workload, trainer, device=device, peak_tflops=peak_tflops)
            print(f"{workload.shape} {workload.method} {trainer}: {_summary(result)}", file=sys.stderr)
            results.append(result)
    facts: JsonObject = {**machine_facts(device), "peak_tflops": peak_tflops}
    print(_heading(facts, arguments))
    print(markdown_table(*_table(results)))
    write_json(arguments.out, {**facts, "results": [cast(JsonValue, asdict(result)) for result in results]})
    return 0


def measure(workload: Workload, trainer: TrainerName, *, device: torch.device, peak_tflops: float | None) -> Result:
    """Train a fresh model of the workload's shape for its steps. What cannot run here is skipped with its reason."""
    missing = why_not_installed(trainer, workload.method)
    if missing is not None:
        return Result(workload, trainer, skipped=missing)
    _free_memory()
    try:
        return _measured(workload, trainer, device, peak_tflops)
    except torch.OutOfMemoryError:
        return Result(
            workload, trainer, skipped="out of memory; lower --micro-batch-size or set --activation-checkpointing"
        )


def why_not_installed(trainer: TrainerName, method: Method) -> str | None:
    """None if everything needed can be imported, else what is missing."""
    needed = {"trl": trainer == "trl", "datasets": trainer == "trl", "bitsandbytes": method == "qlora"}
    absent = [name for name, wanted in needed.items() if wanted and importlib.util.find_spec(name) is None]
    return f"{' and '.join(absent)} not installed" if absent else None


def build_model(workload: Workload, *, device: torch.device) -> Model:
    """A model with random weights on `device`, equal for equal workloads, ready for either trainer.

    Frozen weights are bf16 (NF4 under QLoRA), trained ones fp32; both trainers compute in bf16 by autocast.
    """
    config = LlamaConfig(
        **SHAPES[workload.shape],  # type: ignore[arg-type]  # integers all, by name
        max_position_embeddings=max(8192, workload.sequence_length),
        rope_parameters={"rope_type": "default", "rope_theta": 500000.0},
        tie_word_embeddings=True,
    )
    dtype = torch.float32 if workload.method == "full" else torch.bfloat16
    torch.manual_seed(0)
    with torch.device(device):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="sdpa")
    if workload.method == "qlora":
        model = load_nf4(model, device=device)
    if workload.activation_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    if workload.compile_layers:
        for layer in cast(Any, model).model.layers:
            layer.compile()
    if workload.method == "full":
        return model
    return attach_adapter(model, rank=workload.lora_rank, alpha=2 * workload.lora_rank, dropout=0.0, seed=0)


def load_nf4(model: PreTrainedModel, *, device: torch.device) -> PreTrainedModel:
    """The model read back from disk with its linear layers in NF4, as QLoRA has it (Dettmers et al. 2023, arXiv 2305.14314)."""
    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    with TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        loaded = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=torch.bfloat16,
            attn_implementation="sdpa",
            quantization_config=quantization,
            device_map={"": 0 if device.type == "cuda" else "cpu"},
        )
    return cast(PreTrainedModel, prepare_model_for_kbit_training(loaded, use_gradient_checkpointing=False))


def random_examples(workload: Workload, *, count: int) -> list[TrainingExample]:
    """`count` examples of random tokens, all of the workload's length: nothing is padded, by either trainer."""
    generator = torch.Generator().manual_seed(1)
    length, vocabulary = workload.sequence_length, SHAPES[workload.shape]["vocab_size"]
    ids_NT = torch.randint(vocabulary, (count, length), generator=generator, dtype=torch.int32)
    loss_mask_T = torch.arange(length) >= length - workload.trained_tokens
    return [
        TrainingExample(id=str(n), input_ids_T=ids_NT[n], loss_mask_T=loss_mask_T, weight=1.0) for n in range(count)
    ]


def time_distill(model: Model, batches: Batches, *, micro_batch_tokens: int, device: torch.device) -> Timings:
    """One optimizer step of `distill.training` on each batch."""
    # Accelerate keeps the settings of the first accelerator of a process in a global, TRL's as well as ours.
    AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator(cpu=device.type == "cpu", mixed_precision="no")
    recipe = Recipe(
        seed=0,
        num_steps=len(batches),
        batch_size=len(batches[0]),
        micro_batch_tokens=micro_batch_tokens,
        learning_rate=LEARNING_RATE,
        weight_decay=0.0,
        warmup_share=0.0,
        max_grad_norm=MAX_GRAD_NORM,
        validate_every=len(batches),
        checkpoint_every=len(batches),
        dtype="bfloat16",
    )
    trainee, optimizer = prepare(model, recipe, accelerator)
    _reset_peak_memory(device)
    ends, losses = [_now(device)], []
    for batch in batches:
        losses.append(accumulate_gradients(trainee, batch))
        accelerator.clip_grad_norm_(trainable(trainee).values(), MAX_GRAD_NORM)
        optimizer.step()
        optimizer.zero_grad()
        ends.append(_now(device))
    return Timings(_differences(ends), tuple(losses), _peak_memory(device))


def time_trl(
    model: Model, batches: Batches, *, micro_batch_size: int, checkpointing: bool, device: torch.device
) -> Timings:
    """One optimizer step of TRL's SFTTrainer on each batch, in the same order, `micro_batch_size` examples a forward pass."""
    trl: Any = importlib.import_module("trl")
    datasets: Any = importlib.import_module("datasets")
    examples = [example for batch in batches for example in batch]
    rows = {
        "input_ids": [example.input_ids_T.tolist() for example in examples],
        "labels": [example.input_ids_T.masked_fill(~example.loss_mask_T, -100).tolist() for example in examples],
    }
    watch = StepWatch(device)
    with TemporaryDirectory() as folder:
        settings = trl.SFTConfig(
            output_dir=folder,
            max_steps=len(batches),
            per_device_train_batch_size=micro_batch_size,
            gradient_accumulation_steps=len(batches[0]) // micro_batch_size,
            max_length=None,
            train_sampling_strategy="sequential",
            optim="adamw_torch_fused",
            learning_rate=LEARNING_RATE,
            lr_scheduler_type="constant",
            weight_decay=0.0,
            max_grad_norm=MAX_GRAD_NORM,
            bf16=True,
            gradient_checkpointing=checkpointing,
            gradient_checkpointing_kwargs={"use_reentrant": False},
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=device.type == "cpu",
        )
        trainer = trl.SFTTrainer(
            model=model,
            args=settings,
            train_dataset=datasets.Dataset.from_dict(rows),
            processing_class=_any_tokenizer(),
            callbacks=[watch],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return Timings(_differences(watch.ends), tuple(watch.losses), _peak_memory(device))


class StepWatch(TrainerCallback):
    """Notes when each optimizer step of a transformers Trainer ended, and its loss."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.ends: list[float] = []
        self.losses: list[float] = []

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        _reset_peak_memory(self.device)
        self.ends.append(_now(self.device))

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.ends.append(_now(self.device))

    def on_log(self, *_: Any, logs: dict[str, float] | None = None, **__: Any) -> None:
        if logs and "loss" in logs:
            self.losses.append(float(logs["loss"]))


def linear_flops(model: nn.Module, examples: Sequence[TrainingExample]) -> float:
    """Floating-point operations of all linear layers in one forward and backward pass over the examples.

    For each token that passes a weight: 2 forward, 2 for the gradient of its input, and 2 for its own if it is trained. So 6 per
    weight in full fine-tuning; with an adapter 4 per frozen weight and 6 per adapter weight. `lm_head` is passed by the trained
    tokens only. Embeddings are looked up, not multiplied.
    """
    output_layer: nn.Module = cast(Any, model).get_output_embeddings()
    num_tokens = sum(example.num_tokens for example in examples)
    num_trained_tokens = sum(example.num_trained_tokens for example in examples)
    total = 0.0
    for module in model.modules():
        if isinstance(module, nn.Linear):
            passes = num_trained_tokens if module is output_layer else num_tokens
            per_weight = 6 if module.weight.requires_grad else 4
            total += (
                per_weight * module.in_features * module.out_features * passes
            )  # NF4 weights lie packed, in another shape
    return total


def attention_flops(config: PretrainedConfig, examples: Sequence[TrainingExample]) -> float:
    """Floating-point operations of causal attention in one forward and backward pass, each example on its own.

    Scores and values take 2 operations each per channel and pair of tokens, there are T^2 / 2 pairs, backward costs twice forward.
    """
    width = config.num_attention_heads * config.head_dim
    num_pairs = sum(example.num_tokens**2 for example in examples) / 2
    return float(3 * 4 * config.num_hidden_layers * width * num_pairs)


def known_peak_tflops(name: str) -> float | None:
    """Dense bf16 peak of the device of that name, None if it is not among `PEAK_TFLOPS`."""
    return next((peak for part, peak in PEAK_TFLOPS if part in name), None)


def device_name(device: torch.device) -> str:
    """The device's name as its driver gives it."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"


def machine_facts(device: torch.device) -> JsonObject:
    """Date, device and versions: what numbers cannot be read without."""
    versions = {**package_versions(), **{name: _version(name) for name in PEERS}, "cuda": torch.version.cuda}
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "device": device_name(device),
        "versions": versions,
    }


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table with its columns aligned, so that it reads in a terminal too."""
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    lines = [header, ["-" * width for width in widths], *rows]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    )


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", choices=sorted(SHAPES), default=["1b", "3b"])
    parser.add_argument("--methods", nargs="+", choices=("lora", "qlora", "full"), default=["lora", "qlora", "full"])
    parser.add_argument("--trainers", nargs="+", choices=("distill", "trl"), default=["distill", "trl"])
    parser.add_argument("--sequence-length", type=int, default=1024, help="tokens per example (default: 1024)")
    parser.add_argument(
        "--trained-tokens", type=int, default=64, help="trained tokens at each example's end (default: 64)"
    )
    parser.add_argument("--batch-size", type=int, default=32, help="examples per optimizer step (default: 32)")
    parser.add_argument("--micro-batch-size", type=int, default=8, help="examples per forward pass (default: 8)")
    parser.add_argument("--lora-rank", type=int, default=16)
    parser.add_argument(
        "--activation-checkpointing", action="store_true", help="recompute each layer in the backward pass"
    )
    parser.add_argument("--compile", action="store_true", help="torch.compile each decoder layer")
    parser.add_argument("--warmup-steps", type=int, default=3, help="steps left out of the median (default: 3)")
    parser.add_argument("--steps", type=int, default=10, help="timed steps (default: 10)")
    parser.add_argument("--peak-tflops", type=float, help="dense bf16 peak of a GPU that the script does not know")
    parser.add_argument("--out", type=Path, default=Path("runs/bench/gpu.json"), help="where the JSON goes")
    parser.add_argument(
        "--tiny", action="store_true", help="a tiny shape and a few steps, without a GPU too: to try the script"
    )
    arguments = parser.parse_args(argv)
    if arguments.tiny:
        arguments.shapes = ["tiny"]
        arguments.sequence_length, arguments.trained_tokens = 64, 8
        arguments.batch_size, arguments.micro_batch_size = 4, 2
        arguments.warmup_steps, arguments.steps = 1, 2
    if arguments.batch_size % arguments.micro_batch_size:
        parser.error(
            f"--micro-batch-size {arguments.micro_batch_size} does not divide --batch-size {arguments.batch_size}"
        )
    if not 0 < arguments.trained_tokens < arguments.sequence_length:
        parser.error(
            f"--trained-tokens {arguments.trained_tokens}: from 1 to one less than --sequence-length {arguments.sequence_length}"
        )
    return arguments


def _workloads(arguments: argparse.Namespace) -> list[Workload]:
    return [
        Workload(
            shape=shape,
            method=method,
            sequence_length=arguments.sequence_length,
            trained_tokens=arguments.trained_tokens,
            batch_size=arguments.batch_size,
            micro_batch_size=arguments.micro_batch_size,
            lora_rank=arguments.lora_rank,
            activation_checkpointing=arguments.activation_checkpointing,
            compile_layers=arguments.compile,
            warmup_steps=arguments.warmup_steps,
            timed_steps=arguments.steps,
        )
        for shape in arguments.shapes
        for method in arguments.methods
    ]


def _measured(workload: Workload, trainer: TrainerName, device: torch.device, peak_tflops: float | None) -> Result:
    num_steps = workload.warmup_steps + workload.timed_steps
    examples = random_examples(workload, count=num_steps * workload.batch_size)
    batches = [examples[step * workload.batch_size :][: workload.batch_size] for step in range(num_steps)]
    model = build_model(workload, device=device)
    flops = linear_flops(model, batches[0]) + attention_flops(model.config, batches[0])
    if trainer == "distill":
        micro_batch_tokens = workload.micro_batch_size * workload.sequence_length
        timings = time_distill(model, batches, micro_batch_tokens=micro_batch_tokens, device=device)
    else:
        timings = time_trl(
            model,
            batches,
            micro_batch_size=workload.micro_batch_size,
            checkpointing=workload.activation_checkpointing,
            device=device,
        )
    seconds = median(timings.step_seconds[workload.warmup_steps :])
    return Result(
        workload,
        trainer,
        skipped=None,
        step_seconds=seconds,
        tokens_per_second=workload.batch_size * workload.sequence_length / seconds,
        examples_per_second=workload.batch_size / seconds,
        model_flops=flops,
        mfu=None if peak_tflops is None else flops / seconds / (peak_tflops * 1e12),
        peak_memory_bytes=timings.peak_memory_bytes,
        losses=timings.losses,
    )


def _any_tokenizer() -> PreTrainedTokenizerFast:
    """TRL asks for a tokenizer even where everything is tokenised; it takes the padding token from it."""
    return train_tokenizer(["unused"])


def _table(results: Sequence[Result]) -> tuple[list[str], list[list[str]]]:
    header = [
        "shape",
        "method",
        "trainer",
        "tokens/s",
        "examples/s",
        "MFU",
        "peak GiB",
        "first loss",
        "last loss",
        "speed / TRL",
    ]
    return header, [_cells(result, results) for result in results]


def _cells(result: Result, results: Sequence[Result]) -> list[str]:
    names = [result.workload.shape, result.workload.method, result.trainer]
    if result.tokens_per_second is None:
        return [*names, f"skipped: {result.skipped}", *[""] * 6]
    peers = [
        other.tokens_per_second
        for other in results
        if other.workload == result.workload and other.trainer == "trl" and other.tokens_per_second is not None
    ]
    return [
        *names,
        f"{result.tokens_per_second:,.0f}",
        f"{result.examples_per_second:.1f}",
        "peak unknown" if result.mfu is None else f"{result.mfu:.1%}",
        "" if result.peak_memory_bytes is None else f"{result.peak_memory_bytes / 2**30:.1f}",
        f"{result.losses[0]:.4f}",
        f"{result.losses[-1]:.4f}",
        f"{result.tokens_per_second / peers[0]:.2f}" if peers and result.trainer != "trl" else "",
    ]


def _summary(result: Result) -> str:
    if result.tokens_per_second is None:
        return f"skipped: {result.skipped}"
    return f"{result.tokens_per_second:,.0f} tokens/s"


def _heading(facts: JsonObject, arguments: argparse.Namespace) -> str:
    peak = facts["peak_tflops"]
    versions = cast(JsonObject, facts["versions"])
    shown = ", ".join(
        f"{name} {versions[name]}" for name in ("torch", "transformers", "peft", "accelerate", *PEERS) if versions[name]
    )
    return (
        f"{facts['device']}, {facts['date']}: {arguments.batch_size} examples of {arguments.sequence_length} tokens per step, "
        f"{arguments.micro_batch_size} per forward pass, {arguments.trained_tokens} trained tokens each; activation checkpointing "
        f"{'on' if arguments.activation_checkpointing else 'off'}, compiled layers {'on' if arguments.compile else 'off'}; "
        f"median of {arguments.steps} steps after {arguments.warmup_steps}\n"
        f"MFU: of {'an unknown peak (--peak-tflops)' if peak is None else f'{peak} dense bf16 TFLOP/s'}; {shown}\n"
    )


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _now(device: torch.device) -> float:
    """Seconds, once all work given to the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _differences(ends: Sequence[float]) -> tuple[float, ...]:
    return tuple(end - start for start, end in pairwise(ends))


def _free_memory() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _reset_peak_memory(device: torch.device) -> None:
    """From here on the peak is that of training, not of building the model."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def _peak_memory(device: torch.device) -> int | None:
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None


if __name__ == "__main__":
    sys.exit(main())
