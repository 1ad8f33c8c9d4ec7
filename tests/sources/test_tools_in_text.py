"""Tool lists are found in texts in every layout, and another list takes exactly their place, laid out alike."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.records import Message, Tool
from distill.sources.tools_in_text import LAYOUTS, ToolsProblem, find_tools, render_tools, replace_tools, why_bad_schema

FIND = {
    "name": "find_film",
    "description": "Find a film.",
    "parameters": {"type": "dict", "properties": {"title": {"type": "string"}}},
}
BOOK = {"name": "book.seats", "description": "", "parameters": {}}
ACCENT = {"name": "café", "description": "Où?", "parameters": {"é": 1.5}}
OTHERS = (Tool("vapo", "Un été.", {"type": "object", "required": ["a"]}), Tool("kiru", "", {}))

JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
TOOLS = st.lists(
    st.tuples(st.text(max_size=6), st.text(max_size=6), st.dictionaries(st.text(max_size=5), JSON, max_size=3)).map(
        lambda parts: dict(zip(("name", "description", "parameters"), parts, strict=True))
    ),
    min_size=1,
    max_size=3,
)
AROUND = st.text(max_size=20).filter(lambda text: "[" not in text)


def written(
    tools: list[Any], layout: tuple[int | None, str, str], *, wrapped: bool = False, ensure_ascii: bool = False
) -> str:
    indent, item, key = layout
    values = [{"type": "function", "function": tool} for tool in tools] if wrapped else tools
    return json.dumps(values, indent=indent, separators=(item, key), ensure_ascii=ensure_ascii)


def plain(tools: tuple[Tool, ...]) -> list[Any]:
    return [{"name": tool.name, "description": tool.description, "parameters": tool.parameters} for tool in tools]


def problem(text: str) -> ToolsProblem:
    with pytest.raises(ToolsProblem) as caught:
        find_tools([Message("user", text)])
    return caught.value


@pytest.mark.parametrize("layout", LAYOUTS)
@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_every_layout_is_found_and_only_the_list_changes(
    layout: tuple[int | None, str, str], data: st.DataObject
) -> None:
    wrapped, ensure_ascii = data.draw(st.booleans()), data.draw(st.booleans())
    tools, before = data.draw(TOOLS), data.draw(AROUND)
    after, asks = data.draw(st.text(max_size=20)), data.draw(st.text(max_size=10))
    tools = [*tools, ACCENT]  # with an accent, so that both spellings of it are told apart
    text = written(tools, layout, wrapped=wrapped, ensure_ascii=ensure_ascii)
    messages = (Message("system", before + text + after), Message("user", asks))
    found = find_tools(messages)
    assert plain(found.tools) == tools
    span = found.span
    assert span is not None
    assert messages[0].content[span.start : span.end] == render_tools(found.tools, span) == text
    changed, new = replace_tools(messages, OTHERS, span)
    assert (
        changed[0].content
        == before + written(plain(OTHERS), layout, wrapped=wrapped, ensure_ascii=ensure_ascii) + after
    )
    assert changed[1:] == messages[1:]
    assert changed[0].content[new.start : new.end] == render_tools(OTHERS, new)
    assert replace_tools(changed, found.tools, new) == (messages, span)


def test_the_first_list_of_tools_is_taken_wherever_it_stands() -> None:
    noise = 'Prices are [{"price": 3}], seats [{"name": "x"}], [1, {"name": "a", "parameters": {}}] and [{"broken": ]. '
    messages = [
        Message("system", noise),
        Message("user", noise + written([FIND], LAYOUTS[0]) + written([BOOK], LAYOUTS[0])),
    ]
    found = find_tools(messages)
    assert [tool.name for tool in found.tools] == ["find_film"]
    assert found.span is not None and (found.span.message_index, found.span.start) == (1, len(noise))


@pytest.mark.parametrize(
    "text",
    [
        '[{"parameters": {}, "name": "find_film"}]',  # another order
        '[{"name": "find_film", "parameters": {}}]',  # no description
        '[{"name": "find_film", "description": null, "parameters": {}}]',
        '[{"name": "find_film", "description": "", "parameters": {}, "strict": true}]',
        '[ {"name":  "find_film", "description": "", "parameters": {"a": 1.0e3}} ]',
        '[{"name": "find_film", "description": "", "parameters": {"a": 1, "a": 2}}]',
        '[{"type": "function", "function": {"name": "find_film", "description": "", "parameters": {}}}, {"name": "b", "description": "", "parameters": {}}]',
    ],
)
def test_tools_in_a_layout_of_their_own_are_read_but_have_no_span(text: str) -> None:
    found = find_tools([Message("user", "Tools: " + text)])
    assert found.tools[0].name == "find_film" and found.tools[0].description == ""
    assert found.span is None


def test_a_text_without_usable_tools_says_why() -> None:
    assert problem("Find Heat.").reason == "no_tools"
    assert problem('[{"title": "Heat"}] []').reason == "no_tools"
    assert problem(written([FIND], LAYOUTS[0])[:-1]).reason == "bad_tool_json"
    assert problem('[{"name": "find_film", parameters: {}}]').reason == "bad_tool_json"
    with pytest.raises(ToolsProblem):
        find_tools([Message("assistant", written([FIND], LAYOUTS[0]))])


@pytest.mark.parametrize("depth", [99, 300, 900, 100_000])
@pytest.mark.parametrize("indent", ["", " "])
def test_a_list_too_deep_to_be_written_again_is_a_problem_and_no_crash(depth: int, indent: str) -> None:
    deep = (
        '[{"name": "a", "description": "", "parameters": {"x": ' + f"[{indent}" * depth + f"{indent}]" * depth + "}}]"
    )
    assert problem(deep).reason == "bad_tool_json"


def test_many_brackets_take_no_time() -> None:
    assert problem('[{"a": ' * 20_000).reason == "no_tools"


@pytest.mark.parametrize(
    ("tools", "why"),
    [
        ([FIND, BOOK], None),
        ([FIND, BOOK, FIND], "find_film is declared twice"),
        ([{**FIND, "parameters": {"properties": {"a": {}}, "required": ["a", "b"]}}], "find_film requires b"),
        ([{**FIND, "parameters": {"required": ["b"]}}], "find_film requires b"),
        ([{**FIND, "parameters": {"properties": {"a": {}}, "required": [["a"]]}}], "find_film requires ['a']"),
        ([{**FIND, "parameters": {"properties": ["a"]}}], "properties must be an object"),
        ([{**FIND, "parameters": {"properties": None}}], "properties must be an object"),
        ([{**FIND, "parameters": {"required": "a"}}], "required a list"),
    ],
)
def test_a_bad_schema_is_explained(tools: list[Any], why: str | None) -> None:
    found = why_bad_schema([Tool.from_json(tool) for tool in tools])
    assert found is None if why is None else found is not None and why in found
