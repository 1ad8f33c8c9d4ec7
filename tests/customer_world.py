"""Prompts of the demo's customer with their gold answers, as Bedrock records and as examples, and configurations to run them with."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from random import Random
from typing import Any

from distill.calls.render import render_calls
from distill.config import Config
from distill.embedded.conventions import TARGET, written_calls
from distill.embedded.customer import CustomerPrompt, bedrock_record
from distill.embedded.domains import CUSTOMER, load_domain
from distill.embedded.world import compose, draw_call, draw_tool
from distill.records import Category, Example, Message, ToolCall, category_of, content_id
from distill.sources.tools_in_text import find_tools

CATEGORIES: tuple[Category, ...] = ("simple", "multiple", "parallel")


def customer_prompts(count: int, *, seed: int, domain: str = CUSTOMER) -> list[CustomerPrompt]:
    """Simple, multiple and parallel prompts in turn; the same seed gives the same ones, more of them the same and more."""
    world = load_domain(domain)
    naming = Random(f"{seed}-tools")
    tools = [draw_tool(world, c, naming, naming="first", spelling="bfcl", all_optional=True) for c in world.concepts]
    return [_draw(index, CATEGORIES[index % 3], tools, Random(f"{seed}-{index}")) for index in range(count)]


def gold_calls(prompt: CustomerPrompt) -> tuple[ToolCall, ...]:
    return written_calls(prompt.request.calls, TARGET)


def gold_example(prompt: CustomerPrompt) -> Example:
    """What `curate` makes of the prompt when the teacher is right."""
    record: Any = bedrock_record(prompt)
    messages = (Message("system", record["system"][0]["text"]), Message("user", prompt.request.text))
    found, calls = find_tools(messages), gold_calls(prompt)
    return Example(
        id=content_id(prompt.request.text), prompt_id=content_id("prompt", prompt.request.text), split="train",
        messages=messages, tools=found.tools, tools_span=found.span, category=category_of(len(found.tools), calls),
        reply=render_calls(calls), calls=calls, weight=1.0, lineage=None,
    )  # fmt: skip


def write_jsonl(path: Path, values: Iterable[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values), encoding="utf-8")
    return path


def config_values(folder: Path, model: str, *, train: Sequence[Path], **sections: Any) -> dict[str, Any]:
    """A configuration whose run lies in `folder / "run"`; `sections` stand beside the required ones or are merged into them."""
    values: dict[str, Any] = {
        "run": {"dir": str(folder / "run")},
        "prompts": {"train": [str(path) for path in train], "split": {"group_by": "request"}},
        "teacher": {"model": model, "dtype": "float32", "batch_tokens": 4096},
        "annotate": {"max_new_tokens": 24},
        "student": {"model": model},
        "train": {"max_steps": 1},
    }
    return {**values, **{name: {**values.get(name, {}), **section} for name, section in sections.items()}}


def make_config(folder: Path, model: str, *, train: Sequence[Path], **sections: Any) -> Config:
    return Config.model_validate(config_values(folder, model, train=train, **sections))


def _draw(index: int, category: Category, tools: Sequence[Any], random: Random) -> CustomerPrompt:
    wanted = tools[index % len(tools)]
    if category == "parallel":
        calls = [draw_call(wanted, random, "seen") for _ in range(2)]
        return CustomerPrompt(category, (wanted.tool,), compose(calls, random, "seen"))
    others = random.sample([tool for tool in tools if tool is not wanted], 2) if category == "multiple" else []
    shown = [wanted, *others]
    random.shuffle(shown)
    request = compose([draw_call(wanted, random, "seen")], random, "seen")
    return CustomerPrompt(category, tuple(tool.tool for tool in shown), request)
