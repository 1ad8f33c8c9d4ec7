"""Tools are found in texts in every convention and layout, and others take exactly their place, laid out alike."""

from __future__ import annotations

import contextlib
import json
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.records import DataError, Message, Tool
from distill.sources.problem import RecordProblem
from distill.sources.tools import check_tools
from distill.sources.tools_in_text import find_tools, render_tools, replace_tools

LAYOUTS: tuple[tuple[int | None, str, str], ...] = (
    (None, ", ", ": "), (None, ",", ":"), (None, ", ", ":"), (None, ",", ": "), (4, ",", ": "), (2, ",", ": "), (1, ",", ": "), (0, ",", ":"), (3, ",", " : "),
)  # fmt: skip

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
AROUND = st.text(max_size=20).filter(lambda text: not set("[{") & set(text))


def written(
    tools: list[Any],
    layout: tuple[int | None, str, str],
    *,
    wrapped: bool = False,
    ensure_ascii: bool = False,
    bare: bool = False,
) -> str:
    indent, item, key = layout
    values = [{"type": "function", "function": tool} for tool in tools] if wrapped else tools
    return json.dumps(values[0] if bare else values, indent=indent, separators=(item, key), ensure_ascii=ensure_ascii)


def plain(tools: tuple[Tool, ...]) -> list[Any]:
    return [{"name": tool.name, "description": tool.description, "parameters": tool.parameters} for tool in tools]


def problem(text: str) -> RecordProblem:
    with pytest.raises(RecordProblem) as caught:
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


BETWEEN = st.text(alphabet="\n \t", min_size=1, max_size=3)


@pytest.mark.parametrize("layout", LAYOUTS)
@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_tools_that_stand_as_objects_are_found_alike(layout: tuple[int | None, str, str], data: st.DataObject) -> None:
    wrapped, between = data.draw(st.booleans()), data.draw(BETWEEN)
    tools = [ACCENT, *data.draw(TOOLS)]
    before, after = data.draw(AROUND), data.draw(AROUND)

    def objects(values: list[Any]) -> str:
        return between.join(written([value], layout, wrapped=wrapped, bare=True) for value in values)

    messages = (Message("system", "No tools here."), Message("user", before + objects(tools) + after))
    found = find_tools(messages)
    span = found.span
    assert plain(found.tools) == tools and span is not None
    assert (
        messages[1].content[span.start : span.end] == objects(tools) == render_tools(found.tools, span, between=between)
    )
    changed, new = replace_tools(messages, found.tools[:2], span)
    if len(tools) > 1:
        assert replace_tools(changed, found.tools, new) == (messages, span)
        assert find_tools(changed).tools == found.tools[:2]
    with pytest.raises(DataError, match="cannot become none"):
        replace_tools(messages, (), span)


@settings(max_examples=100, deadline=None)
@given(tools=TOOLS, layout=st.sampled_from(LAYOUTS), data=st.data())
def test_a_span_is_claimed_only_for_text_that_rendering_gives_back(
    tools: list[Any], layout: tuple[int | None, str, str], data: st.DataObject
) -> None:
    text = written([*tools, FIND], layout, wrapped=data.draw(st.booleans()))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(text)))
        text = (
            text[:at]
            + data.draw(st.sampled_from(["", " ", "\n", "\n    ", ",", "\\u00e9", '"']))
            + text[at + data.draw(st.integers(0, 2)) :]
        )
    with contextlib.suppress(RecordProblem):
        found = find_tools([Message("system", text)])
        if found.span is not None and text[found.span.start] == "[":
            assert text[found.span.start : found.span.end] == render_tools(found.tools, found.span)


CONVENTIONS = {
    "a Llama 3 chat template with tools": (
        "Given the following functions, please respond with a JSON for a function call with its proper arguments that best answers the given "
        'prompt.\n\nRespond in the format {"name": function name, "parameters": dictionary of argument name and its value}.Do not use '
        f"variables.\n\n{json.dumps(FIND, indent=4)}\n\n{json.dumps(BOOK, indent=4)}\n\nFind Heat.",
        True,
    ),
    "Hermes": (
        f'<tools>\n{json.dumps({"type": "function", "function": FIND})}\n{json.dumps({"type": "function", "function": BOOK})}\n</tools>\n'
        'For each call return <tool_call>\n{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>',
        True,
    ),
    "Llama 3.1's custom functions": (
        f"Use the function 'find_film' to 'Find a film.':\n{json.dumps(FIND)}\n\nUse the function 'book.seats' to '':\n{json.dumps(BOOK)}\n\n"
        'Reply in the form <function=example_name>{"example": "value"}</function>',
        False,
    ),
    "a list that Python printed, as in AWS's recipe": (
        "Here is a list of functions in JSON format that you can invoke.\n    <tools>\n    [\n    "
        f'{[FIND, BOOK]}\n    ]\n    </tools>\n- Respond in the format {{"name": function name, "parameters": dictionary}}.',
        False,
    ),
    "a call given as an example before the tools": (
        f'Reply like [{{"name": "find_film", "parameters": {{"title": "Heat"}}}}]. Tools:\n{json.dumps([FIND, BOOK])}',
        True,
    ),
    "an example in OpenAI's form, and tools as objects": (
        '{"type": "function", "function": {"name": "find_film", "arguments": "{}"}}\n{"name": "now", "parameters": {}}\n'
        f'{{"name": "find_film", "parameters": {{"title": "Heat"}}}}\n{json.dumps(FIND)}\n{json.dumps(BOOK)}',
        True,
    ),
}  # fmt: skip


@pytest.mark.parametrize("role", ["system", "user"])
@pytest.mark.parametrize("convention", CONVENTIONS)
def test_every_known_convention_gives_the_same_tools(convention: str, role: Literal["system", "user"]) -> None:
    text, has_span = CONVENTIONS[convention]
    found = find_tools([Message("system", "You call functions."), Message(role, text)])
    assert plain(found.tools) == [FIND, BOOK]
    assert (found.span is not None) == has_span
    if found.span is not None:
        assert found.span.message_index == 1
        changed, _ = replace_tools([Message("system", ""), Message(role, text)], OTHERS, found.span)
        assert find_tools(changed).tools == OTHERS
        assert changed[1].content[: found.span.start] == text[: found.span.start]


def test_a_single_object_gets_company_on_a_line_of_its_own() -> None:
    for indent, between in ((None, "\n"), (4, "\n\n")):
        messages = [Message("system", f"Tools: {json.dumps(FIND, indent=indent)}\nThat is all.")]
        found = find_tools(messages)
        assert found.span is not None
        changed, _ = replace_tools(messages, (*found.tools, *OTHERS), found.span)
        assert json.dumps(FIND, indent=indent) + between in changed[0].content
        assert find_tools(changed).tools == (*found.tools, *OTHERS)


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
    broken = problem("Tools: " + written([FIND, BOOK], LAYOUTS[0])[:-1])
    assert broken.reason == "bad_tool_json" and "at character" in broken.detail
    assert problem("Tools: " + written([FIND], LAYOUTS[0], bare=True)[:-1]).reason == "bad_tool_json"
    assert problem(json.dumps([FIND, BOOK]).replace("}, {", "} {")).reason == "bad_tool_json"
    python = problem(str([FIND])[:-1])
    assert python.reason == "bad_tool_json" and "as Python" in python.detail
    assert problem("[{'name': 'a', 'description': '', 'parameters': {'a': (1, 2)}}]").reason == "bad_tool_json"
    assert problem("[{'name': 'a', 'description': '', 'parameters': open('/etc/passwd')}]").reason == "bad_tool_json"
    assert problem('[{"name": "find_film", parameters: {}}]').reason == "bad_tool_json"
    with pytest.raises(RecordProblem):
        find_tools([Message("assistant", written([FIND], LAYOUTS[0]))])


@pytest.mark.parametrize("depth", [99, 300, 900, 100_000])
@pytest.mark.parametrize("indent", ["", " "])
def test_a_list_too_deep_to_be_written_again_is_a_problem_and_no_crash(depth: int, indent: str) -> None:
    deep = (
        '[{"name": "a", "description": "", "parameters": {"x": ' + f"[{indent}" * depth + f"{indent}]" * depth + "}}]"
    )
    assert problem(deep).reason == "bad_tool_json"


def test_many_brackets_take_no_time() -> None:
    for text in ('[{"a": ', '{"name":', "[{'a': ", "[{'name': ", '[{"name": ', '{"type": "x"}'):
        assert problem(text * 20_000).reason in ("no_tools", "bad_tool_json")


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
    plain = [Tool.from_json(tool) for tool in tools]
    if why is None:
        check_tools(plain)
        return
    with pytest.raises(RecordProblem) as found:
        check_tools(plain)
    assert why in found.value.detail
