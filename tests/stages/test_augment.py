"""Curated examples stay, new ones are verified and say what they came from, and every try is a row or a reject."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from distill.embedded.customer import CustomerPrompt
from distill.records import Example, Message, Reject, Tool, ToolCall, content_id
from distill.run_dir import finish_stage, read_json, read_rows, start_stage, write_stage_rows
from distill.sources.tools_in_text import find_tools
from distill.stages.augment import run_augment, why_wrong
from tests.customer_world import customer_prompts, gold_example, make_config

NUM_EXAMPLES, TRIES = 30, {"values": 3, "rename": 2}


@pytest.fixture(scope="module")
def prompts() -> list[CustomerPrompt]:
    return customer_prompts(NUM_EXAMPLES + 4, seed=10)


@pytest.fixture(scope="module")
def curated(prompts: list[CustomerPrompt]) -> list[Example]:
    examples = [gold_example(prompt) for prompt in prompts]
    return [
        replace(example, split="validation") if index >= NUM_EXAMPLES else example
        for index, example in enumerate(examples)
    ]


def augment(folder: Path, curated: Sequence[Example], **settings: Any) -> tuple[list[Example], list[Reject]]:
    run = folder / "run"
    start_stage(run, "curate", {}, redo=False)
    write_stage_rows(run, "curate", curated, [])
    finish_stage(run, "curate", counts={}, files=["rows.jsonl", "rejects.jsonl"])
    run_augment(run, make_config(folder, "unused", train=[Path("unused")], augment={**TRIES, **settings}), redo=False)
    done = run / "augment"
    return list(read_rows(done / "rows.jsonl", Example)), list(read_rows(done / "rejects.jsonl", Reject))


def test_every_try_is_a_row_or_a_reject(curated: list[Example], tmp_path: Path) -> None:
    rows, rejects = augment(tmp_path, curated)
    originals = [example for example in curated if example.split == "train"]
    assert rows[:NUM_EXAMPLES] == originals, "validation examples are not trained on"
    new = rows[NUM_EXAMPLES:]
    assert len(new) + len(rejects) == NUM_EXAMPLES * sum(TRIES.values())
    assert {reject.reason for reject in rejects} <= {"not_applicable", "duplicate", "failed_verification"}
    assert len({example.id for example in rows}) == len(rows)
    assert len({example.messages for example in rows}) == len(rows)
    by_id = {example.id: example for example in originals}
    for example in new:
        assert example.lineage is not None
        assert example.prompt_id == by_id[example.lineage.example_id].prompt_id
        assert why_wrong(example) is None
    methods = Counter(example.lineage.method for example in new if example.lineage)
    assert methods["rename"] == 2 * NUM_EXAMPLES and methods["values"] > NUM_EXAMPLES
    counts: Any = read_json(tmp_path / "run" / "augment" / "manifest.json")["counts"]
    assert counts == {"rows": len(rows), "rejects": len(rejects), "original": NUM_EXAMPLES, **methods}


def test_the_result_depends_on_the_seed_and_not_on_the_order(curated: list[Example], tmp_path: Path) -> None:
    rows, _ = augment(tmp_path / "one", curated)
    reversed_rows, _ = augment(tmp_path / "two", curated[::-1])
    assert sorted(rows, key=lambda row: row.id) == sorted(reversed_rows, key=lambda row: row.id)
    assert rows[NUM_EXAMPLES:] == reversed_rows[NUM_EXAMPLES:]
    more, _ = augment(tmp_path / "three", curated, values=4)
    assert {row.id for row in rows} <= {row.id for row in more}


@pytest.mark.parametrize("limit", [NUM_EXAMPLES + 5, NUM_EXAMPLES, 7])
def test_what_is_over_the_limit_is_counted(limit: int, curated: list[Example], tmp_path: Path) -> None:
    everything, tried = augment(tmp_path / "all", curated)
    rows, rejects = augment(tmp_path / "some", curated, max_examples=limit)
    assert len(rows) == limit
    assert rows == everything[:limit]
    over = [reject for reject in rejects if reject.reason == "over_limit"]
    assert len(over) == len(everything) - limit
    assert len(rejects) == len(tried) + len(over)


def test_no_methods_leave_the_curated_examples(curated: list[Example], tmp_path: Path) -> None:
    rows, rejects = augment(tmp_path, curated, values=0, rename=0)
    assert (rows, rejects) == ([example for example in curated if example.split == "train"], [])


def test_a_schema_that_speaks_of_its_own_names_is_a_reject_and_no_stop(tmp_path: Path) -> None:
    text = (
        '[{"name": "find", "description": "", "parameters": {"type": "object", "properties": '
        '{"a": {"type": "integer"}, "b": {"$ref": "#/properties/a"}}, "required": ["b"]}}]'
    )
    messages = (Message("system", text), Message("user", "Find it."))
    found = find_tools(messages)
    calls = (ToolCall("find", {"b": 3}),)
    example = Example("e", "p", "train", messages, found.tools, found.span, "simple", "[find(b=3)]", calls, 1.0, None)
    assert why_wrong(example) is None
    rows, rejects = augment(tmp_path, [example])
    assert rows == [example]
    assert Counter(reject.reason for reject in rejects) == {"not_applicable": 3, "failed_verification": 2}


@pytest.mark.parametrize(
    ("reply", "calls", "what"),
    [
        ("[find(a=1)]", (ToolCall("find", {"a": 1}),), None),
        ("[find(a=1.0)]", (ToolCall("find", {"a": 1}),), None),
        ("[find(a=2)]", (ToolCall("find", {"a": 1}),), "other calls"),
        ("[find(a=1), find(a=1)]", (ToolCall("find", {"a": 1}),), "other calls"),
        ("find it", (ToolCall("find", {"a": 1}),), "not_a_list"),
        ("[find(a='x')]", (ToolCall("find", {"a": "x"}),), "integer"),
        ("[find(c=1)]", (ToolCall("find", {"c": 1}),), "c"),
        ("[find(b=1)]", (ToolCall("find", {"b": 1}),), "unknown type"),
        ("No function fits.", (), None),
    ],
)
def test_an_example_is_right_if_its_reply_says_calls_that_its_tools_allow(
    reply: str, calls: tuple[ToolCall, ...], what: str | None
) -> None:
    tool = Tool("find", "", {"type": "dict", "properties": {"a": {"type": "integer"}, "b": {"type": "whatever"}}})
    example = Example(
        content_id(reply), "p", "train", (Message("user", "Find."),), (tool,), None, "simple", reply, calls, 1.0, None
    )
    found = why_wrong(example)
    assert found is None if what is None else found is not None and what in found
