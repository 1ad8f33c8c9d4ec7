"""Completions become examples by majority, each unusable one has its reason, and every annotated prompt is a row or a reject."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from distill.records import (
    Annotation,
    Completion,
    Example,
    ExpectedCall,
    FinishReason,
    Message,
    Prompt,
    Reject,
    Source,
    Tool,
    ToolCall,
    content_id,
)
from distill.run_dir import finish_stage, read_json, read_rows, start_stage, write_stage_rows
from distill.stages.curate import curate_prompt, run_curate
from tests.customer_world import make_config

FIND = Tool(
    "find_film",
    "Find a film.",
    {"type": "dict", "properties": {"title": {"type": "string"}, "year": {"type": "integer"}}, "required": ["title"]},
)
ODD = Tool(
    "odd",
    "Its schema cannot be applied.",
    {"type": "dict", "properties": {"a": {"type": "txt"}, "b": "string", "c": {"type": 5}}},
)
SOURCE = Source("train.jsonl", 7)
HEAT, RAN = "[find_film(title='Heat')]", "[find_film(title='Ran')]"
REFUSAL = "None of the functions can do that."


def make_prompt(
    request: str = "Find Heat.", *, expected: tuple[ExpectedCall, ...] | None = None, split: Any = "train"
) -> Prompt:
    return Prompt(
        id=content_id(request), messages=(Message("user", request),), tools=(FIND, ODD), tools_span=None, category="multiple", group="g",
        split=split, test_set=None, expected_calls=expected, source=SOURCE,
    )  # fmt: skip


def said(text: str, finish_reason: FinishReason = "stop") -> Completion:
    return Completion(text=text, finish_reason=finish_reason, num_prompt_tokens=10, num_completion_tokens=5)


def curate(*texts: str | Completion, min_agreement: float = 0.5) -> Example | Reject:
    completions = [text if isinstance(text, Completion) else said(text) for text in texts]
    return curate_prompt(make_prompt(), completions, min_agreement=min_agreement)


@pytest.mark.parametrize(
    "text",
    [
        HEAT,
        '[find_film(title="Heat")]',
        ' [ find_film( title = """Heat""" , ) ]\n',
        "[find_film(**{'title': 'Heat'})]",
        r"[find_film(title='\x48eat')]",
    ],
)
def test_a_call_is_trained_in_canonical_form_however_it_was_written(text: str) -> None:
    made = curate(text)
    assert isinstance(made, Example)
    assert made.reply == '[find_film(title="Heat")]'
    assert made.calls == (ToolCall("find_film", {"title": "Heat"}),)
    assert (made.category, made.weight, made.lineage, made.split) == ("multiple", 1.0, None, "train")


@pytest.mark.parametrize(
    ("completion", "reason"),
    [
        (said(HEAT, "length"), "truncated"),
        (said(REFUSAL, "length"), "truncated"),
        (said(" \n"), "empty"),
        (said("[find_film(title=Heat)]"), "malformed_call"),
        (said("I call find_film(title='Heat') now."), "malformed_call"),
        (said('{"name": "find_film"}'), "malformed_call"),
        (said("<function=find_film>{}</function>"), "malformed_call"),
        (said("```python\nx\n```"), "malformed_call"),
        (said("[find_film()]"), "invalid_call"),
        (said("[find_film(title=3)]"), "invalid_call"),
        (said("[find_film(title='Heat', rating=3)]"), "invalid_call"),
        (said("[seek_film(title='Heat')]"), "invalid_call"),
        (said("[odd(a='x')]"), "bad_tool_schema"),
        (said("[odd(b='x')]"), "bad_tool_schema"),
        (said("[odd(c='x')]"), "bad_tool_schema"),
    ],
)
def test_an_unusable_completion_has_its_reason(completion: Completion, reason: str) -> None:
    made = curate(completion)
    assert isinstance(made, Reject)
    assert (made.id, made.reason, made.source) == (make_prompt().id, reason, SOURCE)
    assert made.detail
    beside = curate(completion, HEAT, HEAT)
    assert isinstance(beside, Example) and beside.weight == pytest.approx(2 / 3), "it counts, but has no vote"


def test_a_refusal_is_an_answer() -> None:
    made = curate(REFUSAL, "No function fits.", HEAT)
    assert isinstance(made, Example)
    assert (made.reply, made.calls, made.category) == (REFUSAL, (), "irrelevance")
    assert made.weight == pytest.approx(2 / 3)
    empty = curate("[]")
    assert isinstance(empty, Example)
    assert (empty.reply, empty.category) == ("[]", "irrelevance")


@pytest.mark.parametrize(
    ("texts", "min_agreement", "expected"),
    [
        ([HEAT, HEAT, RAN], 0.5, ("Heat", 2 / 3)),
        ([RAN, HEAT, HEAT], 0.5, ("Heat", 2 / 3)),
        ([HEAT, '[find_film(title="Heat")]'], 1.0, ("Heat", 1.0)),
        (["[find_film(title='Heat', year=1995)]", "[find_film(year=1995, title='Heat')]"], 1.0, ("Heat", 1.0)),
        ([HEAT, RAN], 0.0, "tie"),
        ([HEAT, RAN, "[", "["], 0.0, "tie"),
        ([HEAT, HEAT, RAN, RAN, REFUSAL], 0.0, "tie"),
        ([HEAT, "[", "["], 0.5, "low_agreement"),
        ([HEAT, "[", "["], 0.3, ("Heat", 1 / 3)),
        ([HEAT, HEAT, RAN, REFUSAL], 0.5, ("Heat", 0.5)),
        ([HEAT, HEAT, RAN, REFUSAL], 0.51, "low_agreement"),
        (["[", HEAT.replace("find", "seek")], 0.0, "malformed_call"),
    ],
)
def test_the_most_frequent_answer_wins_if_enough_agree(texts: list[str], min_agreement: float, expected: Any) -> None:
    made = curate(*texts, min_agreement=min_agreement)
    if isinstance(made, Reject):
        assert made.reason == expected
    else:
        assert (made.calls[0].arguments["title"], pytest.approx(made.weight)) == expected


def test_every_annotated_prompt_is_a_row_or_a_reject(tmp_path: Path) -> None:
    expected = (ExpectedCall("find_film", {"title": ["Heat"]}),)
    prompts = [
        make_prompt("a", expected=expected), make_prompt("b", expected=expected, split="validation"), make_prompt("c"), make_prompt("d"),
        make_prompt("e"), make_prompt("f", split="test"),
    ]  # fmt: skip
    texts = {
        "a": [HEAT, HEAT],
        "b": [RAN, RAN],
        "c": [HEAT, RAN],
        "d": ["[odd(a=1)]", "[odd(a=1)]"],
    }  # nothing came for e, f is a test prompt
    annotations = [
        Annotation(content_id(name), index, said(text), "teacher", 0.7, index)
        for name, both in texts.items()
        for index, text in enumerate(both)
    ]
    run = tmp_path / "run"
    stages: list[tuple[Any, list[Any]]] = [("prompts", prompts), ("annotate", annotations[::-1])]
    for stage, rows in stages:
        start_stage(run, stage, {}, redo=False)
        write_stage_rows(run, stage, rows, [])
        finish_stage(run, stage, counts={}, files=["rows.jsonl", "rejects.jsonl"])
    run_curate(run, make_config(tmp_path, "unused", train=[Path("unused")]), redo=False)
    examples = list(read_rows(run / "curate" / "rows.jsonl", Example))
    rejects = list(read_rows(run / "curate" / "rejects.jsonl", Reject))
    assert [(example.prompt_id, example.split) for example in examples] == [
        (content_id("a"), "train"),
        (content_id("b"), "validation"),
    ]
    assert {reject.id: reject.reason for reject in rejects} == {
        content_id("c"): "tie",
        content_id("d"): "bad_tool_schema",
    }
    assert len(examples) + len(rejects) == len(texts)
    counts: Any = read_json(run / "curate" / "manifest.json")["counts"]
    assert counts == {
        "rows": 2,
        "rejects": 2,
        "disagree_with_own_answer": 1,
        "train/multiple": 1,
        "validation/multiple": 1,
    }
