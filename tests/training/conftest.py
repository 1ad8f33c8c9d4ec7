"""A tiny Llama with a Llama-3-style tokenizer, examples with tools to train it on, and run folders that stand before `train`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
import yaml
from accelerate.state import AcceleratorState, GradientState, PartialState
from peft import PeftModel
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from distill.embedded.tokenizer import train_tokenizer
from distill.records import Example, Message, Split, Tool, ToolCall, content_id
from distill.run_dir import Stage, finish_stage, start_stage, write_stage_rows
from distill.training.examples import TrainingExample, tokenise
from distill.training.student import attach_adapter, load_student

FILMS = ("Heat", "Alien", "The Night of the Hunter", "Stalker", "Playtime", "In the Mood for Love")
CITIES = ("Oslo", "Lagos", "Santiago de Chile", "Ulm")

MakeRun = Callable[..., Path]


@pytest.fixture(autouse=True)
def _on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What these tests say of bits is said of the CPU; accelerate keeps its choice of device in a global."""
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    _forget_accelerate()
    yield
    _forget_accelerate()


@pytest.fixture(scope="session")
def texts() -> list[str]:
    return [
        text for example in make_examples(60, split="train") for text in (example.messages[0].content, example.reply)
    ]


@pytest.fixture(scope="session")
def tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    return train_tokenizer(texts)


@pytest.fixture(scope="session")
def student_folder(tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("student")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=192,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def examples() -> list[Example]:
    return make_examples(23, split="train")


@pytest.fixture(scope="session")
def training_examples(examples: list[Example], tokenizer: PreTrainedTokenizerFast) -> list[TrainingExample]:
    kept, rejects = tokenise(examples, tokenizer, max_length=1024)
    assert not rejects
    return kept


@pytest.fixture
def fresh_model(student_folder: Path) -> Callable[..., PeftModel]:
    def make(*, dtype: Any = "float32", dropout: float = 0.0) -> PeftModel:
        model = attach_adapter(load_student(str(student_folder), dtype=dtype), rank=4, alpha=8, dropout=dropout, seed=1)
        disturb(model)
        return model

    return make


@pytest.fixture
def make_run(tmp_path: Path, student_folder: Path, examples: list[Example]) -> MakeRun:
    """Writes a run with finished `curate` and `augment`, and its configuration; returns the configuration's path."""

    def make(name: str = "run", *, training: Sequence[Example] | None = None, **train: Any) -> Path:
        run = tmp_path / name
        rows: dict[Stage, list[Example]] = {
            "curate": [*(training or examples[:12]), *make_examples(4, split="validation")],
            "augment": [*(training or examples)],
        }
        for stage, records in rows.items():
            start_stage(run, stage, {}, redo=False)
            write_stage_rows(run, stage, records, [])
            finish_stage(run, stage, counts={"rows": len(records)}, files=["rows.jsonl"])
        settings = {
            "students": ["augmented"], "lora_rank": 4, "lora_alpha": 8, "learning_rate": 3e-3, "batch_size": 6, "max_steps": 12,
            "micro_batch_tokens": 1024, "max_length": 512, "checkpoint_every": 4, "validate_every": 5, "dtype": "float32", **train,
        }  # fmt: skip
        config = {
            "run": {"dir": str(run)},
            "prompts": {"train": ["unused.jsonl"]},
            "teacher": {"model": "unused"},
            "student": {"model": str(student_folder)},
            "train": settings,
        }
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(config))
        return path

    return make


def make_examples(count: int, *, split: Split) -> list[Example]:
    """Requests of many lengths, one or two calls each, with weights between a half and one."""
    return [_make_example(index, split, Random(f"{split}-{index}")) for index in range(count)]


def disturb(model: PeftModel) -> None:
    """A fresh adapter changes nothing, as its B matrices are zero; give them values, so that every weight has a gradient."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(0.05 * torch.randn(parameter.shape, generator=generator))


def _make_example(index: int, split: Split, random: Random) -> Example:
    calls = tuple(
        ToolCall(
            name="find_showtimes",
            arguments={"film": random.choice(FILMS), "city": random.choice(CITIES), "seats": random.randint(1, 9)},
        )
        for _ in range(random.choice((1, 1, 2)))
    )
    wishes = " and then ".join(
        f"{call.arguments['seats']} seats for {call.arguments['film']} in {call.arguments['city']}" for call in calls
    )
    text = f"Number {index}. " + "Please be quick. " * random.randint(0, 8) + f"I want {wishes}."
    reply = (
        "["
        + ", ".join(
            f'{c.name}(film="{c.arguments["film"]}", city="{c.arguments["city"]}", seats={c.arguments["seats"]})'
            for c in calls
        )
        + "]"
    )
    tool = Tool(
        name="find_showtimes",
        description="Find showtimes.",
        parameters={"type": "dict", "properties": {}, "required": []},
    )
    return Example(
        id=content_id(split, text),
        prompt_id=content_id(text),
        split=split,
        messages=(Message(role="user", content=text),),
        tools=(tool,),
        tools_span=None,
        category="simple" if len(calls) == 1 else "parallel",
        reply=reply,
        calls=calls,
        weight=random.choice((0.5, 0.75, 1.0)),
        lineage=None,
    )


def _forget_accelerate() -> None:
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    PartialState._reset_state()
