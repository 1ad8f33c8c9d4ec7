"""Structured tools are read in every form they come in, and every flaw of a schema has its word."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.calls.schema import why_invalid
from distill.records import DataError, Tool, ToolCall
from distill.sources.problem import RecordProblem
from distill.sources.tools import TYPES, check_tools, read_tools

BFCL = Path(__file__).parents[3] / "shared" / "data" / "bfcl"
SCHEMA: dict[str, Any] = {"type": "object", "properties": {"title": {"type": "string"}}, "required": ["title"]}
FIND = {"name": "find_film", "description": "Find a film.", "parameters": SCHEMA}
TOOL = Tool("find_film", "Find a film.", SCHEMA)
DEEP: Any = "x"
for _ in range(200):
    DEEP = [DEEP]


@pytest.mark.parametrize(
    ("value", "tools"),
    [
        ([FIND], [TOOL]),
        ([{"type": "function", "function": FIND}], [TOOL]),
        ([{"type": "function", "function": {**FIND, "strict": True}}], [TOOL]),
        ([{"type": "function", **FIND}], [TOOL]),  # OpenAI's Responses API
        (json.dumps([FIND]), [TOOL]),
        ([json.dumps({"type": "function", "function": FIND}), FIND], [TOOL, TOOL]),
        ([{**FIND, "parameters": json.dumps(SCHEMA)}], [TOOL]),
        ([{"name": "now"}, {"name": "then", "description": None, "parameters": None}], [Tool("now", "", {}), Tool("then", "", {})]),
        ([], []),
    ],
)  # fmt: skip
def test_every_form_of_structured_tools_is_read(value: Any, tools: list[Tool]) -> None:
    assert read_tools(value) == tuple(tools)


UNREADABLE: list[tuple[Any, str]] = [
    ("[{", "bad_tool_json"),
    (["{"], "bad_tool_json"),
    ([{**FIND, "parameters": "{"}], "bad_tool_json"),
    ([{**FIND, "parameters": {"x": DEEP}}], "bad_tool_json"),
    (json.dumps([{**FIND, "parameters": {"x": DEEP}}]), "bad_tool_json"),
    ([{**FIND, "parameters": json.dumps({"x": DEEP})}], "bad_tool_json"),
    ("[" * 100_000, "bad_tool_json"),
    ({}, "bad_tool"),
    ("{}", "bad_tool"),
    ([3], "bad_tool"),
    ([{}], "bad_tool"),
    ([{"name": ""}], "bad_tool"),
    ([{**FIND, "name": 3}], "bad_tool"),
    ([{**FIND, "description": 3}], "bad_tool"),
    ([{**FIND, "parameters": []}], "bad_tool"),
    ([{"type": "web_search"}], "bad_tool"),
    ([{**FIND, "description": "\ud83d"}], "bad_tool"),
]


@pytest.mark.parametrize(("value", "reason"), UNREADABLE)
def test_what_is_no_list_of_tools_says_why(value: Any, reason: str) -> None:
    with pytest.raises(RecordProblem) as caught:
        read_tools(value)
    assert caught.value.reason == reason


def with_parameters(**parameters: Any) -> list[Tool]:
    return [Tool("find_film", "", parameters)]


FLAWS: list[tuple[list[Tool], str, str]] = [
    ([TOOL, Tool("other", "", {}), TOOL], "duplicate_tool", "find_film is declared twice"),
    (with_parameters(required=["year"], properties={}), "required_not_in_properties", "requires year"),
    (with_parameters(required=["year"]), "required_not_in_properties", "requires year"),
    (with_parameters(required=[["year"]], properties={}), "required_not_in_properties", "requires ['year']"),
    (with_parameters(properties={"a": {"type": "dict", "properties": {}, "required": ["b"]}}), "required_not_in_properties", "find_film.a requires b"),
    (with_parameters(properties={"a": {"type": "HashMap"}}), "unknown_type", "find_film.a: type 'HashMap'"),
    (with_parameters(properties={"a": {"type": ["string", "nil"]}}), "unknown_type", "'nil'"),
    (with_parameters(properties={"a": {"type": {}}}), "unknown_type", "find_film.a"),
    (with_parameters(properties={"a": {"type": "array", "items": {"type": "str"}}}), "unknown_type", "find_film.a.items"),
    (with_parameters(properties={"a": {"anyOf": [{"type": "null"}, {"type": "int"}]}}), "unknown_type", "find_film.a.anyOf: type 'int'"),
    (with_parameters(**{"$defs": {"Place": {"type": "city"}}}), "unknown_type", "find_film.Place"),
    (with_parameters(properties=["a"]), "bad_tool_schema", "properties must be an object"),
    (with_parameters(properties=None), "bad_tool_schema", "properties must be an object"),
    (with_parameters(required="a"), "bad_tool_schema", "required a list"),
    (with_parameters(properties={"a": "string"}), "bad_tool_schema", "find_film.a: a schema is an object, found str"),
    (with_parameters(properties={"a": {"properties": []}}), "bad_tool_schema", "properties is an object of schemas"),
    (with_parameters(properties={"a": {"anyOf": {}}}), "bad_tool_schema", "anyOf is a list"),
    (with_parameters(city={"type": "str"}, unit={"type": "str"}), "bad_tool_schema", "under parameters.properties"),
]  # fmt: skip


@pytest.mark.parametrize(("tools", "reason", "detail"), FLAWS)
def test_every_flaw_of_a_schema_has_its_word(tools: list[Tool], reason: str, detail: str) -> None:
    with pytest.raises(RecordProblem) as caught:
        check_tools(tools)
    assert caught.value.reason == reason and detail in caught.value.detail


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        SCHEMA,
        {"type": "object", "properties": {"a": True, "b": {"type": ["string", "null"]}, "type": {"type": "string"}}},
        {"properties": {"a": {"type": "dict", "required": ["x"]}}},  # BFCL's parallel_29
        {"properties": {"a": {"type": "string", "required": True}}},
        {"properties": {"a": {}, "b": {}}, "anyOf": [{"required": ["a"]}, {"required": ["b"]}]},
        {"properties": {"place": {"$ref": "#/$defs/Place"}}, "$defs": {"Place": {"type": "object"}}, "additionalProperties": False},
    ],
)  # fmt: skip
def test_sound_schemas_have_none(parameters: Any) -> None:
    check_tools([Tool("find_film", "", parameters)])


@settings(max_examples=100, deadline=None)
@given(name=st.sampled_from(sorted(TYPES)) | st.text(max_size=8))
def test_the_known_types_are_those_that_calls_are_checked_against(name: str) -> None:
    tool = Tool("f", "", {"properties": {"a": {"type": name}}})
    try:
        why_invalid([ToolCall("f", {"a": "x"})], [tool])
        is_known = True
    except DataError:
        is_known = False
    assert is_known == (name in TYPES)


JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from(["object", "string", "{}", "[", "a", "\ud83d"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["name", "function", "type", "parameters", "properties", "required", "items", "anyOf", "a"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(value=JSON, parameters=st.dictionaries(st.sampled_from(["properties", "required", "type", "items", "a"]), JSON))
def test_no_json_raises_anything_else(value: Any, parameters: Any) -> None:
    for items in (
        value,
        [{"name": "f", "parameters": parameters}, {"name": "g", "parameters": {"properties": {"a": value}}}],
    ):
        with contextlib.suppress(RecordProblem):
            check_tools(read_tools(items))


@pytest.mark.skipif(not BFCL.is_dir(), reason="BFCL's data is not beside the repository")
def test_bfcls_own_tools_have_no_flaw_but_types_of_other_languages() -> None:
    flaws: Counter[tuple[str, str]] = Counter()
    for path in sorted(BFCL.glob("*.json")):
        for line in path.read_text().splitlines():
            try:
                check_tools(read_tools(json.loads(line)["function"]))
            except RecordProblem as problem:
                flaws[path.stem.removeprefix("BFCL_v4_"), problem.reason] += 1
    assert {key for key in flaws if key[0] not in ("simple_java", "simple_javascript")} == set()
    assert {reason for _, reason in flaws} == {"unknown_type"}
