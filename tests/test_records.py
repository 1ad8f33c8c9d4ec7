"""Records are what they were after a trip through JSON, whatever text and values they hold; ids are hashes of content."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.records import (
    CATEGORIES,
    VERDICTS,
    Annotation,
    Completion,
    Example,
    ExpectedCall,
    Lineage,
    Message,
    Prediction,
    Prompt,
    Reject,
    Source,
    Tool,
    ToolCall,
    ToolsSpan,
    content_id,
    to_json,
)  # fmt: skip

TEXT = st.text(st.characters(exclude_categories=()), max_size=8)  # with surrogates, line separators and all
NUMBERS = st.integers(min_value=0, max_value=10**6)
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)
OBJECTS = st.dictionaries(TEXT, VALUES, max_size=3)


def few(items: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.lists(items, max_size=2).map(tuple)


MESSAGES = few(st.builds(Message, role=st.sampled_from(["system", "user", "assistant", "tool"]), content=TEXT))
TOOLS = few(st.builds(Tool, name=TEXT, description=TEXT, parameters=OBJECTS))
CALLS = few(st.builds(ToolCall, name=TEXT, arguments=OBJECTS))
EXPECTED = few(
    st.builds(ExpectedCall, name=TEXT, options=st.dictionaries(TEXT, st.lists(VALUES, max_size=2), max_size=2))
)
SPANS = st.none() | st.builds(
    ToolsSpan, message_index=NUMBERS, start=NUMBERS, end=NUMBERS, indent=st.none() | NUMBERS, item_separator=TEXT,
    key_separator=TEXT, wrapped=st.booleans(), ensure_ascii=st.booleans(),
)  # fmt: skip
SOURCES = st.builds(Source, path=TEXT, line=NUMBERS)
CATEGORY = st.sampled_from(CATEGORIES)
COMPLETIONS = st.builds(
    Completion,
    text=TEXT,
    finish_reason=st.sampled_from(["stop", "length", "error"]),
    num_prompt_tokens=NUMBERS,
    num_completion_tokens=NUMBERS,
)
RECORDS = {
    Prompt: st.builds(
        Prompt, id=TEXT, messages=MESSAGES, tools=TOOLS, tools_span=SPANS, category=CATEGORY, group=TEXT,
        split=st.sampled_from(["train", "validation", "test"]), test_set=st.none() | TEXT, expected_calls=st.none() | EXPECTED, source=SOURCES,
    ),
    Annotation: st.builds(
        Annotation, prompt_id=TEXT, sample_index=NUMBERS, completion=COMPLETIONS, model=TEXT, sampling_temperature=st.floats(0, 2), seed=NUMBERS
    ),
    Example: st.builds(
        Example, id=TEXT, prompt_id=TEXT, split=st.sampled_from(["train", "validation"]), messages=MESSAGES, tools=TOOLS, tools_span=SPANS,
        category=CATEGORY, reply=TEXT, calls=CALLS, weight=st.floats(0, 1),
        lineage=st.none() | st.builds(Lineage, example_id=TEXT, method=TEXT, seed=NUMBERS),
    ),
    Prediction: st.builds(
        Prediction, prompt_id=TEXT, model=TEXT, test_set=TEXT, category=CATEGORY, completion=COMPLETIONS, verdict=st.sampled_from(VERDICTS),
        bfcl_error=st.none() | TEXT, explanation=TEXT,
    ),
    Reject: st.builds(Reject, id=TEXT, reason=TEXT, detail=TEXT, source=st.none() | SOURCES),
}  # fmt: skip


@pytest.mark.parametrize("record_type", RECORDS)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_from_json_is_the_inverse_of_to_json(record_type: Any, data: st.DataObject) -> None:
    record = data.draw(RECORDS[record_type])
    text = json.dumps(to_json(record), ensure_ascii=False)
    again = record_type.from_json(json.loads(text.encode("utf-8", "surrogatepass").decode("utf-8", "surrogatepass")))
    assert again == record
    assert json.dumps(to_json(again), ensure_ascii=False) == text, "1 and 1.0 and True are equal, but not the same"


@pytest.mark.parametrize("record_type", RECORDS)
def test_every_field_is_written_and_a_missing_one_is_no_record(record_type: Any) -> None:
    record: Any = next(iter(_examples_of(record_type)))
    written = to_json(record)
    assert list(written) == [field.name for field in dataclasses.fields(record_type)]
    for name in written:
        with pytest.raises((KeyError, TypeError)):
            record_type.from_json({key: value for key, value in written.items() if key != name})
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(record, next(iter(written)), "other")


def test_ids_are_hashes_of_content() -> None:
    assert content_id("a", {"b": 1, "c": [2]}) == content_id("a", {"c": [2], "b": 1})
    parts: list[Any] = ["a", "b", "ab", 1, 1.5, True, None, [], {}, ["a"], "\ud800", "é"]
    assert len({content_id(part) for part in parts}) == len(parts)
    assert content_id("a", "b") != content_id("ab") != content_id(["a", "b"])
    assert content_id("run", 0) == "b74120fb586724e9", "ids stand in files that people keep"


def _examples_of(record_type: Any) -> list[Any]:
    source, completion = Source("train.jsonl", 1), Completion("[]", "stop", 10, 2)
    message = (Message("user", "Hello"),)
    return [
        record
        for record in (
            Prompt("p", message, (), None, "simple", "g", "train", None, None, source),
            Annotation("p", 0, completion, "teacher", 0.0, 0),
            Example("e", "p", "train", message, (), None, "simple", "[]", (), 1.0, None),
            Prediction("p", "base", "same_tools", "simple", completion, "correct", None, ""),
            Reject("p", "no_tools", "", source),
        )
        if isinstance(record, record_type)
    ]
