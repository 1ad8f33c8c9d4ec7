"""A role and a length of training in, an embedded model out: tokenizer and `LlamaForCausalLM` in bf16 safetensors.

The teacher learns from scratch. The student is cut from the teacher's trunk (its state at 85 % of its steps) by leaving out
layers, as Llama 3.2's 1B and 3B were cut from larger models, and trained on in other conventions.

Rows hold whole conversations as shared prefixes with independent branches (one system prompt, many requests), so that an answer
costs 60 tokens instead of 300. Reply tokens weigh 1, those that begin a word `DECISION_WEIGHT` (which tool, parameter or value comes
is decided there, the rest is copied), all others `PROMPT_WEIGHT`. Hidden matrices learn with Muon, the rest with AdamW. Resumes from
its own checkpoints; the same seed and number of steps give the same data in the same order.

Legend: B rows, T tokens.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from distill.chat import example_ids, prompt_ids
from distill.embedded.corpus import Conversation, ModelRole, corpus_texts, draw_conversation
from distill.embedded.tokenizer import CONTEXT_LENGTH, train_tokenizer
from distill.records import Message

PROMPT_WEIGHT = 0.05
DECISION_WEIGHT = 3
TOKENS_PER_STEP = 4096
WARMUP_STEPS = 50
TRUNK_SHARE = 0.85
TRUNK = "trunk.pt"
MUON_LEARNING_RATE = 0.01
ADAM_LEARNING_RATE = 2e-3

CHECKPOINT_EVERY = 100
STEPS: dict[ModelRole, int] = {"teacher": 9400, "student": 800}
FIRST_RATE: dict[ModelRole, float] = {"teacher": 1.0, "student": 0.3}
"""The highest learning rate as a share of the optimizers' own. The trunk's was 0.2 when the student was cut from it."""
LAYERS_OF_TRUNK: dict[ModelRole, tuple[int, ...]] = {"teacher": (0, 1, 2, 3, 4), "student": (0, 2, 4)}


@dataclass(frozen=True, slots=True)
class Lesson:
    """One kind of row: its length in tokens, how many tools stand in its prompts, and whether its conversations are plain."""

    length: int
    tool_counts: tuple[int, ...]
    plain: bool = False


COPYING = Lesson(length=512, tool_counts=(1,), plain=True)
SHORT = Lesson(length=512, tool_counts=(1, 1, 1, 2))
CHOOSING = Lesson(length=1024, tool_counts=(2, 3, 4), plain=True)
LONG = Lesson(length=1024, tool_counts=(1, 2, 3, 4))
FULL = Lesson(length=1360, tool_counts=(1, 2, 3, 4))
CURRICULUM: tuple[tuple[int, tuple[Lesson, ...]], ...] = (
    (300, (COPYING,)),
    (700, (COPYING, SHORT, CHOOSING)),
    (4000, (CHOOSING, SHORT, LONG)),
)
"""Until which step the teacher gets which lessons, each as often as the others; then `LAST_LESSONS`."""
LAST_LESSONS: tuple[Lesson, ...] = (CHOOSING, SHORT, FULL, FULL)
STUDENT_LESSONS: tuple[Lesson, ...] = (SHORT, SHORT, CHOOSING, FULL)


@dataclass(frozen=True, slots=True)
class Rows:
    """One batch: token ids, positions, group and branch of each token, the next token in its branch and that token's weight."""

    input_ids_BT: Tensor
    position_ids_BT: Tensor
    group_BT: Tensor
    branch_BT: Tensor
    target_BT: Tensor
    weight_BT: Tensor


def build_model(role: ModelRole, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A fresh model of the role's shape."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=CONTEXT_LENGTH,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        num_hidden_layers=len(LAYERS_OF_TRUNK[role]),
        hidden_size=256,
        intermediate_size=512,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    # compiled `eager` is a sixth faster, but its gradients are NaN at 896 tokens and more (torch 2.13, CPU, bf16)
    config._attn_implementation = "sdpa"
    return LlamaForCausalLM(config)


def pretrain(role: ModelRole, out: Path, *, work: Path, steps: int, seed: int, device: str) -> None:
    """Train for `steps` optimizer steps and save the model and tokenizer into `out`. Checkpoints and log lie in `work`.

    The student needs the teacher's trunk in `work`, so train the teacher there first.
    """
    work.mkdir(parents=True, exist_ok=True)
    tokenizer = _tokenizer(work, seed)
    torch.manual_seed(seed)
    model = build_model(role, tokenizer)
    model.to(device)  # type: ignore[arg-type]  # transformers' wrapper hides the signature
    if role == "student":
        model.load_state_dict(
            _cut(torch.load(work / TRUNK, weights_only=True, map_location=device)["model"], LAYERS_OF_TRUNK[role])
        )
    optimizers = _optimizers(model)
    checkpoint = work / f"{role}.pt"
    start = _resume(checkpoint, model, optimizers, device)
    loss_of = torch.compile(_loss, dynamic=False)
    loader = DataLoader(
        RowStream(role, tokenizer, steps=steps, start=start, seed=seed),
        batch_size=None,
        num_workers=1,
        prefetch_factor=8,
    )
    log = (work / f"{role}.log.jsonl").open("a")
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, TextColumn("{task.fields[note]}")) as progress:
        task = progress.add_task(f"pretrain {role}", total=steps, completed=start, note="")
        clock, tokens, average = time.monotonic(), 0, 0.0
        for step, rows in enumerate(loader, start=start):
            _set_learning_rates(optimizers, step, steps, first_rate=FIRST_RATE[role])
            loss = _step(model, loss_of, optimizers, [tensor.to(device) for tensor in rows])
            tokens += rows[0].numel()
            average = average * 0.95 + float(loss)
            if (step + 1) % 20 == 0 or step + 1 == steps:
                rate = tokens / (time.monotonic() - clock)
                log.write(
                    json.dumps({"step": step + 1, "loss": round(average / 20, 4), "tokens_per_s": round(rate)}) + "\n"
                )
                log.flush()
                progress.update(task, completed=step + 1, note=f"loss {float(loss):.3f}, {rate / 1000:.1f}k tokens/s")
            if (step + 1) % CHECKPOINT_EVERY == 0 or step + 1 == steps:
                _save_checkpoint(checkpoint, model, optimizers, step + 1)
            if role == "teacher" and step + 1 == trunk_step(steps):
                _save_checkpoint(work / TRUNK, model, optimizers, step + 1)
    save_model(model, tokenizer, out)


def load_checkpoint(role: ModelRole, work: Path) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast, int]:
    """The model, the tokenizer and the step of the last checkpoint in `work`. Raises FileNotFoundError if there is none."""
    state = torch.load(work / f"{role}.pt", weights_only=True, map_location="cpu")
    tokenizer = _tokenizer(work, seed=0)
    model = build_model(role, tokenizer)
    model.load_state_dict(state["model"])
    model.eval()
    return model, tokenizer, int(state["step"])


def save_model(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """Write bf16 safetensors, the configuration and the tokenizer."""
    model.bfloat16()
    model.save_pretrained(out, safe_serialization=True)
    tokenizer.save_pretrained(out)


def is_bfloat16_fast(device: str) -> bool:
    """Whether bf16 products take less time than fp32's: on a GPU and on a CPU with AMX; on other CPUs they take more."""
    return device == "cuda" or torch.cpu._is_amx_tile_supported()


def trunk_step(steps: int) -> int:
    """After how many of the teacher's `steps` the weights are kept that the student is cut from."""
    return round(TRUNK_SHARE * steps)


class RowStream(IterableDataset[tuple[Tensor, ...]]):
    """Batches of packed rows; batch `k` depends on the seed and `k` alone."""

    def __init__(
        self, role: ModelRole, tokenizer: PreTrainedTokenizerFast, *, steps: int, start: int, seed: int
    ) -> None:
        self.role, self.tokenizer, self.steps, self.start, self.seed = role, tokenizer, steps, start, seed

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        for step in range(self.start, self.steps):
            random = Random(f"{self.seed}-{self.role}-{step}")
            rows = draw_rows(self.role, self.tokenizer, step, random)
            yield (
                rows.input_ids_BT,
                rows.position_ids_BT,
                rows.group_BT,
                rows.branch_BT,
                rows.target_BT,
                rows.weight_BT,
            )


def draw_rows(role: ModelRole, tokenizer: PreTrainedTokenizerFast, step: int, random: Random) -> Rows:
    """One batch at a point of the curriculum: short plain conversations first, up to four tools later.

    The student begins where the teacher's trunk ended, so it has no beginner's lessons.
    """
    lessons = STUDENT_LESSONS
    if role == "teacher":
        lessons = next((lessons for until, lessons in CURRICULUM if step < until), LAST_LESSONS)
    lesson = lessons[int(random.random() * len(lessons))] if len(lessons) > 1 else lessons[0]
    columns = [_draw_row(role, tokenizer, lesson, random) for _ in range(TOKENS_PER_STEP // lesson.length)]
    ids, positions, groups, branches, targets, weights = (
        torch.tensor(np.array([row[index] for row in columns])) for index in range(6)
    )
    return Rows(ids, positions, groups, branches, targets, weight_BT=weights.float() / 1000)


def _draw_row(
    role: ModelRole,
    tokenizer: PreTrainedTokenizerFast,
    lesson: Lesson,
    random: Random,
) -> list[list[int]]:
    """Six lists of the lesson's length: ids, positions, groups, branches, targets, weights in thousandths."""
    row: list[list[int]] = [[], [], [], [], [], []]
    misses = 0
    while misses < 3:
        space = lesson.length - len(row[0])
        count = random.choice(lesson.tool_counts) if misses == 0 else 1
        conversation = draw_conversation(role, count, max(1, min(8, space // 70)), random, plain=lesson.plain)
        pieces = _group_columns(conversation, tokenizer, len(row[0]) + 1, space)
        if pieces is None:
            misses += 1
            continue
        for column, piece in zip(row, pieces, strict=True):
            column.extend(piece)
    padding = lesson.length - len(row[0])
    fillers = (tokenizer.pad_token_id, 0, 0, 0, 0, 0)
    for column, filler in zip(row, fillers, strict=True):
        column.extend([filler] * padding)
    return row


def _group_columns(
    conversation: Conversation, tokenizer: PreTrainedTokenizerFast, group: int, space: int
) -> list[list[int]] | None:
    header = len(prompt_ids([], tokenizer)) - 1
    prefix = prompt_ids([conversation.system], tokenizer)[:-header]
    ids, positions, branches = list(prefix), list(range(len(prefix))), [0] * len(prefix)
    targets, weights = [*prefix[1:], 0], [int(1000 * PROMPT_WEIGHT)] * (len(prefix) - 1) + [0]
    for branch, (user, reply) in enumerate(conversation.exchanges, start=1):
        tokens = example_ids([Message(user.role, user.content)], reply, tokenizer)
        own, mask = tokens.input_ids[1:], tokens.loss_mask[1:]
        if len(ids) + len(own) > space:
            break
        ids += own
        positions += range(len(prefix), len(prefix) + len(own))
        branches += [branch] * len(own)
        targets += [*own[1:], 0]
        weights += [*(_weight(before, trained, tokenizer) for before, trained in zip(own, mask[1:], strict=False)), 0]
    if len(ids) == len(prefix):
        return None
    return [ids, positions, [group] * len(ids), branches, targets, weights]


def _weight(before: int, trained: int, tokenizer: PreTrainedTokenizerFast) -> int:
    """The weight of a token, in thousandths, by the token before it."""
    if not trained:
        return int(1000 * PROMPT_WEIGHT)
    return 1000 * (1 if before in _word_ids(tokenizer) else DECISION_WEIGHT)


@cache
def _word_ids(tokenizer: PreTrainedTokenizerFast) -> frozenset[int]:
    """Tokens that end in a letter or digit, so that the next one may be the rest of the word."""
    return frozenset(index for index in range(len(tokenizer)) if str(tokenizer.decode([index]))[-1:].isalnum())


def _loss(model: LlamaForCausalLM, rows: list[Tensor]) -> Tensor:
    input_ids_BT, position_ids_BT, group_BT, branch_BT, target_BT, weight_BT = rows
    length = input_ids_BT.shape[1]
    causal_TT = torch.ones(length, length, dtype=torch.bool, device=input_ids_BT.device).tril()
    same_group_BTT = group_BT[:, :, None] == group_BT[:, None, :]
    same_branch_BTT = (branch_BT[:, None, :] == 0) | (branch_BT[:, :, None] == branch_BT[:, None, :])
    mask_B1TT = (causal_TT & same_group_BTT & same_branch_BTT)[:, None]
    logits_BTV = model(
        input_ids=input_ids_BT, position_ids=position_ids_BT, attention_mask=mask_B1TT, use_cache=False
    ).logits
    losses_N = torch.nn.functional.cross_entropy(
        logits_BTV.flatten(0, 1).float(), target_BT.flatten(), reduction="none"
    )
    return (losses_N * weight_BT.flatten()).sum() / weight_BT.sum()


def _step(model: LlamaForCausalLM, loss_of: Any, optimizers: list[torch.optim.Optimizer], rows: list[Tensor]) -> Tensor:
    device = rows[0].device.type
    with torch.autocast(device, dtype=torch.bfloat16, enabled=is_bfloat16_fast(device)):
        loss: Tensor = loss_of(model, rows)
    loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    if not torch.isfinite(norm):
        raise FloatingPointError(
            f"loss {float(loss)}, gradient norm {float(norm)}: cannot go on; the last checkpoint is kept"
        )
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return loss.detach()


def _optimizers(model: LlamaForCausalLM) -> list[torch.optim.Optimizer]:
    hidden = [parameter for name, parameter in model.named_parameters() if parameter.ndim == 2 and "embed" not in name]
    rest = [parameter for name, parameter in model.named_parameters() if parameter.ndim != 2 or "embed" in name]
    muon = torch.optim.Muon(hidden, lr=MUON_LEARNING_RATE, momentum=0.95, weight_decay=0.1)
    adam = torch.optim.AdamW(rest, lr=ADAM_LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.0)
    for optimizer in (muon, adam):
        for group in optimizer.param_groups:
            group["peak"] = group["lr"]
    return [muon, adam]


def _set_learning_rates(optimizers: list[torch.optim.Optimizer], step: int, steps: int, *, first_rate: float) -> None:
    """Warm-up, then straight down to zero: with batches this small a level rate leaves the weights too noisy to copy rare tokens."""
    factor = first_rate * min((step + 1) / WARMUP_STEPS, (steps - step) / steps)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * factor


def _tokenizer(work: Path, seed: int) -> PreTrainedTokenizerFast:
    folder = work / "tokenizer"
    if not (folder / "tokenizer.json").exists():
        train_tokenizer(corpus_texts(Random(f"{seed}-tokenizer"), 6000)).save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert isinstance(tokenizer, PreTrainedTokenizerFast)
    return tokenizer


def _cut(trunk: dict[str, Tensor], layers: tuple[int, ...]) -> dict[str, Tensor]:
    """The trunk's weights with only some of its layers, numbered anew."""
    kept: dict[str, Tensor] = {}
    for name, tensor in trunk.items():
        parts = name.split(".")
        if "layers" not in parts:
            kept[name] = tensor
        elif (layer := int(parts[parts.index("layers") + 1])) in layers:
            parts[parts.index("layers") + 1] = str(layers.index(layer))
            kept[".".join(parts)] = tensor
    return kept


def _resume(path: Path, model: LlamaForCausalLM, optimizers: list[torch.optim.Optimizer], device: str) -> int:
    if not path.exists():
        return 0
    state = torch.load(path, weights_only=True, map_location=device)
    model.load_state_dict(state["model"])
    for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    return int(state["step"])


def _save_checkpoint(path: Path, model: LlamaForCausalLM, optimizers: list[torch.optim.Optimizer], step: int) -> None:
    partial = path.with_suffix(".partial")
    torch.save(
        {"model": model.state_dict(), "optimizers": [optimizer.state_dict() for optimizer in optimizers], "step": step},
        partial,
    )
    os.replace(partial, path)
