"""A dataset saved to disk gives the records that its rows were, however it stores them; what Arrow makes unreadable is named."""

from __future__ import annotations

import copy
import datetime
import json
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, DatasetDict, Features, Json, List, Value
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.records import DataError, Reject, Source
from distill.sources.chat_dataset import read_dataset
from distill.sources.chat_jsonl import read_chat_jsonl
from distill.sources.files import Line
from distill.sources.record import SourceRecord

FIND: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "find_film",
        "description": "Find a film.",
        "parameters": {
            "type": "object",
            "properties": {"title": {"type": "string"}, "year": {"type": "integer"}},
            "required": ["title"],
        },
    },
}
BOOK: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "book_seats",
        "description": "Book seats.",
        "parameters": {
            "type": "object",
            "properties": {
                "film": {"type": "string", "enum": ["Heat", "Ran"]},
                "row": {"type": ["integer", "null"]},
                "place": {"type": "object", "properties": {"city": {"type": "string"}, "zip": {"type": "string"}}},
                "seats": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "properties": {"number": {"type": "integer"}, "aisle": {"type": "boolean"}},
                    },
                },
            },
            "required": ["film", "row"],
        },
    },
}
NOW: dict[str, Any] = {
    "type": "function",
    "function": {"name": "now", "description": "The time.", "parameters": {"type": "object", "properties": {}}},
}


def call(name: str, arguments: Any) -> dict[str, Any]:
    return {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "c", "type": "function", "function": {"name": name, "arguments": arguments}}],
    }


def row(tools: Any, *turns: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "Please."}, *turns], "tools": tools}


ROWS: list[dict[str, Any]] = [
    row([FIND], call("find_film", {"title": "Heat"})),
    row([BOOK, NOW], call("book_seats", {"film": "Ran", "row": 3, "place": {"city": "Oslo"}, "seats": [{"number": 1}, {"number": 2, "aisle": True}]})),
    row([BOOK], call("book_seats", {"film": "Ran", "row": None})),
    row([NOW], call("now", {}), {"role": "tool", "tool_call_id": "c", "content": "10:30"}, {"role": "assistant", "content": "It is 10:30."}),
    row([FIND, BOOK], {"role": "assistant", "content": "None fits."}),
    row(None),
    row([]),
]  # fmt: skip


def as_json_text(value: dict[str, Any]) -> dict[str, Any]:
    """As careful data sets are written: tools and arguments as JSON text."""
    value = copy.deepcopy(value)
    for turn in value["messages"]:
        for item in turn.get("tool_calls") or ():
            item["function"]["arguments"] = json.dumps(item["function"]["arguments"])
    return {**value, "tools": None if value["tools"] is None else json.dumps(value["tools"])}


STORED: dict[str, Any] = {
    "structs": lambda rows: Dataset.from_list(rows),
    "Json() where rows differ": lambda rows: Dataset.from_list(rows, on_mixed_types="use_json"),
    "Json() columns": lambda rows: Dataset.from_list(rows, features=Features({"messages": Json(), "tools": Json()})),
    "Json() tools": lambda rows: Dataset.from_list(
        [as_json_text(row) | {"tools": row["tools"]} for row in rows],
        features=Features(
            {"messages": Dataset.from_list(list(map(as_json_text, rows))).features["messages"], "tools": List(Json())}
        ),
    ),
    "JSON text": lambda rows: Dataset.from_list(list(map(as_json_text, rows))),
    "whole conversations as JSON text": lambda rows: Dataset.from_list(
        [{name: json.dumps(item) for name, item in row.items() if item is not None} for row in rows]
    ),
}


def save(rows: list[dict[str, Any]], folder: Path, stored: str = "structs") -> str:
    STORED[stored](rows).save_to_disk(str(folder))
    return str(folder)


def read(location: str, split: str | None = None) -> list[SourceRecord | Reject]:
    return list(read_dataset(location, split=split, multi_turn=True))


def from_lines(rows: list[dict[str, Any]], name: str) -> list[SourceRecord | Reject]:
    lines = [Line(number, 0, json.dumps(row).encode()) for number, row in enumerate(rows, start=1)]
    return list(read_chat_jsonl(lines, name=name, multi_turn=True))


def contents(results: list[SourceRecord | Reject]) -> list[Any]:
    """Records without their offsets, which a table does not have; dicts compare without regard to the order of keys."""
    return [
        (result.reason, result.source and result.source.line)
        if isinstance(result, Reject)
        else (result.messages, result.tools, result.reply, result.source.line)
        for result in results
    ]


@pytest.mark.parametrize("stored", STORED)
def test_a_saved_dataset_gives_what_the_lines_of_its_rows_give(stored: str, tmp_path: Path) -> None:
    location = save(ROWS, tmp_path / "data", stored)
    found = read(location)
    assert contents(found) == contents(from_lines(ROWS, location))
    assert found[0].source == Source(location, 1)
    if stored != "structs":  # which know one order of keys for all rows
        assert [
            list(record.tools[0].parameters) for record in found if isinstance(record, SourceRecord) and record.tools
        ][1:3] == [["type", "properties", "required"]] * 2


def test_arrow_does_fill_what_is_read_here_without_a_null(tmp_path: Path) -> None:
    location = save(ROWS, tmp_path / "data")
    filled = Dataset.load_from_disk(location)[0]["tools"][0]["function"]["parameters"]["properties"]
    assert filled["film"] is None and filled["title"] == {"type": "string"}
    record = read(location)[0]
    assert isinstance(record, SourceRecord) and record.tools is not None
    assert record.tools[0].parameters == FIND["function"]["parameters"]
    assert record.reply is not None and record.reply.calls[0].arguments == {"title": "Heat"}


NULLABLE: dict[str, Any] = {
    "name": "find_film",
    "parameters": {
        "type": "object",
        "properties": {"title": {"type": "string"}, "year": {"type": ["integer", "null"]}},
    },
}


@pytest.mark.parametrize(
    ("tools", "arguments", "reason"),
    [
        ([NULLABLE], {"title": "Heat", "year": None}, "ambiguous_null"),
        ([{"name": "find_film", "parameters": {"properties": {"title": {}, "year": {}}}}], {"title": None}, "ambiguous_null"),
        (None, {"title": "Heat", "year": None}, "ambiguous_null"),
        ([{"name": "find_film", "parameters": {"properties": {"title": {"type": "dict"}}}}], {"title": {"a": None}}, "ambiguous_null"),
        ([NULLABLE], {"title": "Heat", "year": datetime.datetime(2024, 1, 1)}, "not_json"),
        ([NULLABLE], {"title": b"Heat", "year": 1995}, "not_json"),
    ],
)  # fmt: skip
def test_what_cannot_be_told_apart_in_structs_is_a_reject(
    tools: Any, arguments: Any, reason: str, tmp_path: Path
) -> None:
    (found,) = read(save([row(tools, call("find_film", arguments))], tmp_path / "data"))
    assert isinstance(found, Reject) and found.reason == reason


def test_a_null_in_json_is_the_rows_own(tmp_path: Path) -> None:
    rows = [row([NULLABLE], call("find_film", {"title": "Heat", "year": None})), row([NOW], call("now", {}))]
    for stored in STORED:
        (found, _) = read(save(rows, tmp_path / stored.replace(" ", "-"), stored))
        if stored in ("structs",):
            assert isinstance(found, Reject)
        else:
            assert isinstance(found, SourceRecord) and found.reply is not None
            assert found.reply.calls[0].arguments == {"title": "Heat", "year": None}


def test_splits_formats_and_other_columns(tmp_path: Path) -> None:
    rows = [{**item, "id": index} for index, item in enumerate(ROWS)]
    both = DatasetDict({"train": Dataset.from_list(rows), "test": Dataset.from_list(rows[:2])})
    both.with_format("numpy").save_to_disk(str(tmp_path / "both"))
    assert len(read(str(tmp_path / "both"), "train")) == 8
    found = read(str(tmp_path / "both"), "test")
    assert contents(found) == contents(from_lines(ROWS[:2], "x"))
    assert found[0].source == Source(f"{tmp_path / 'both'}:test", 1)
    DatasetDict({"train": Dataset.from_list(rows)}).save_to_disk(str(tmp_path / "one"))
    assert len(read(str(tmp_path / "one"))) == 8
    for location, split in (("both", None), ("both", "dev"), ("one", "test")):
        with pytest.raises(DataError, match="choose one of train"):
            read(str(tmp_path / location), split)


def test_prompt_and_completion_are_read_where_there_are_no_messages(tmp_path: Path) -> None:
    rows = [
        {"prompt": item["messages"][:1], "completion": item["messages"][1:], "tools": item["tools"]} for item in ROWS
    ]
    expected = contents(from_lines(ROWS, "x"))
    for stored in ("structs", "Json() where rows differ"):
        found = read(save(rows, tmp_path / stored[:4], stored))
        assert contents(found) == expected == contents(from_lines(rows, "x"))
    beside = [{**item, "prompt": "Please."} for item in ROWS]
    assert contents(read(save(beside, tmp_path / "beside"))) == expected


def test_a_folder_of_files_is_read_as_load_dataset_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    for kind in ("parquet", "jsonl"):
        folder = tmp_path / kind
        folder.mkdir()
        if kind == "parquet":
            Dataset.from_list(ROWS).to_parquet(str(folder / "train.parquet"))
        else:
            (folder / "train.jsonl").write_text("".join(json.dumps(item) + "\n" for item in ROWS))
        assert contents(read(str(folder), "train")) == contents(from_lines(ROWS, "x"))


def test_what_is_no_dataset_of_chats_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "empty").mkdir()
    for location in (str(tmp_path / "none"), str(tmp_path / "empty")):
        with pytest.raises(DataError, match="cannot read the dataset"):
            read(location)
    Dataset.from_list([{"text": "hi"}]).save_to_disk(str(tmp_path / "texts"))
    with pytest.raises(DataError, match="no column messages, nor prompt and completion; found text"):
        read(str(tmp_path / "texts"))
    with pytest.raises(DataError, match="has no splits"):
        read(save(ROWS, tmp_path / "data"), "train")


LEAVES: st.SearchStrategy[Any] = st.none() | st.sampled_from(["user", "assistant", "x", "{}", "["])
FUNCTIONS = st.fixed_dictionaries(
    {"name": LEAVES, "arguments": st.none() | st.fixed_dictionaries({"a": LEAVES, "b": LEAVES})}
)
TURNS = st.none() | st.fixed_dictionaries(
    {
        "role": LEAVES,
        "content": LEAVES,
        "tool_calls": st.none()
        | st.lists(st.none() | st.fixed_dictionaries({"function": st.none() | FUNCTIONS}), max_size=2),
        "function_call": st.none() | FUNCTIONS,
    }
)
ODD_ROWS = st.fixed_dictionaries(
    {
        "messages": st.none() | st.lists(TURNS, max_size=3),
        "tools": st.none()
        | st.lists(
            st.none()
            | st.fixed_dictionaries(
                {
                    "name": LEAVES,
                    "parameters": st.none()
                    | st.fixed_dictionaries(
                        {"properties": st.none() | st.fixed_dictionaries({"a": st.none() | st.just({})})}
                    ),
                }
            ),
            max_size=2,
        ),
    }
)
FEATURES = Features({
    "messages": List({
        "role": Value("string"), "content": Value("string"),
        "tool_calls": List({"function": {"name": Value("string"), "arguments": {"a": Value("string"), "b": Value("string")}}}),
        "function_call": {"name": Value("string"), "arguments": {"a": Value("string"), "b": Value("string")}},
    }),
    "tools": List({"name": Value("string"), "parameters": {"properties": {"a": {"type": Value("string")}}}}),
})  # fmt: skip


@settings(max_examples=25, deadline=None)
@given(rows=st.lists(ODD_ROWS, min_size=1, max_size=5))
def test_no_row_raises_and_each_gives_one_result_or_its_turns(
    rows: list[Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    location = str(tmp_path_factory.mktemp("odd"))
    Dataset.from_list(rows, features=FEATURES).save_to_disk(location)
    found = read(location)
    assert list(dict.fromkeys(result.source.line for result in found if result.source)) == list(range(1, len(rows) + 1))
