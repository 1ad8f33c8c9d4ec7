"""Every line of a chat file becomes records or a reject with its own reason, and turn k's conversation begins turn k + 1's."""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.calls.parse import parse_calls
from distill.records import Message, Reject, Source, Tool, ToolCall
from distill.sources.chat_jsonl import read_chat_jsonl
from distill.sources.files import Line
from distill.sources.record import LoggedReply, SourceRecord

SYSTEM = {"role": "system", "content": "You call tools."}
USER = {"role": "user", "content": "Find Heat."}
ANSWER = {"role": "assistant", "content": "[find_film(title='Heat')]"}
SCHEMA: dict[str, Any] = {"type": "object", "properties": {"title": {"type": "string"}}}
FIND = {"name": "find_film", "description": "Find a film.", "parameters": SCHEMA}
TOOLS = [{"type": "function", "function": FIND}]
TOOL = Tool("find_film", "Find a film.", SCHEMA)
CALL = ToolCall("find_film", {"title": "Heat"})
TEXT = {"role": "assistant", "content": "It is of 1995."}
RESULT = {"role": "tool", "tool_call_id": "c1", "name": "find_film", "content": '{"year": 1995}'}


def function(arguments: Any, name: Any = "find_film") -> dict[str, Any]:
    return {"id": "c1", "type": "function", "function": {"name": name, "arguments": arguments}}


def calls(*items: Any, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": None, "tool_calls": list(items), **more}


CALLS = calls(function('{"title": "Heat"}'))


def of(*turns: Any, **more: Any) -> dict[str, Any]:
    return {"messages": list(turns), **more}


def user(content: Any) -> dict[str, Any]:
    return of({"role": "user", "content": content})


def as_line(value: Any) -> bytes:
    return value if isinstance(value, bytes) else (value if isinstance(value, str) else json.dumps(value)).encode()


def as_json(value: Any) -> bytes:
    return json.dumps(value).encode()


def read(*values: Any, multi_turn: bool = True) -> list[SourceRecord | Reject]:
    lines = [
        value if isinstance(value, Line) else Line(number, 10 * number, as_line(value))
        for number, value in enumerate(values, start=1)
    ]
    return list(read_chat_jsonl(lines, name="chat.jsonl", multi_turn=multi_turn))


def only(value: Any, *, multi_turn: bool = False) -> SourceRecord:
    (found,) = read(value, multi_turn=multi_turn)
    assert isinstance(found, SourceRecord), found
    return found


DEEP: Any = "x"
for _ in range(200):
    DEEP = {"x": DEEP}

REJECTED: dict[str, list[Any]] = {
    "invalid_json": ["[1]", "{", "nonsense", "3", "[" * 100_000, "1" * 5000, b"\xff\xfe{", b'{"a": "\xff"}'],
    "line_too_long": [Line(2, 20, b'{"messages": [\0', True)],
    "repeated_key": ['{"messages": [], "messages": []}'],
    "missing_messages": [{}, of(), {"messages": "hi"}, of(SYSTEM), {"messages": {"role": ["user"]}}],
    "extra_field": [of({**USER, "name": "Ann"}), of(USER, {**TEXT, "reasoning_content": "hm"}), of({**USER, "tool_calls": [1]})],
    "bad_role": [of("hi"), of({"content": "hi"}), of({"role": "bot", "content": "hi"}), of({"role": ["user"]}), of(None)],
    "bad_system": [of(USER, SYSTEM), of(USER, TEXT, {"role": "developer", "content": "x"})],
    "not_alternating": [of(USER, USER), of(ANSWER), of(SYSTEM, TEXT), of(USER, RESULT), of(USER, TEXT, TEXT), of(USER, CALLS, RESULT, USER)],
    "no_text": [
        user(None), user(""), user(" \n"), user([]), user(3), user({"text": "a"}), user([{"type": "text"}]), user([3]), user("\ud83d"),
        user([{"type": "text", "text": "\ud83d"}]), of(USER, {"role": "assistant", "content": ""}), of(USER, {"role": "assistant"}),
        of(USER, calls()), of(USER, CALLS, {**RESULT, "content": None}), of(USER, CALLS, {**RESULT, "content": {"year": 1995}}),
    ],
    "multimodal": [
        user([{"type": "image_url", "image_url": {"url": "x"}}]), user([{"type": "text", "text": "see"}, {"type": "input_audio"}]),
        of(USER, {"role": "assistant", "content": None, "audio": {"id": "a"}}),
    ],
    "bad_tool_call": [
        of(USER, calls("x")), of(USER, {**TEXT, "tool_calls": "x"}), of(USER, calls({})), of(USER, calls(function("{}", name=""))),
        of(USER, calls(function("{}", name=3))), of(USER, calls(function("{"))), of(USER, calls(function(""))), of(USER, calls(function("[]"))),
        of(USER, calls(function(None))), of(USER, calls(function('{"a": 1, "a": 2}'))), of(USER, calls({"type": "custom", "custom": {}})),
        of(USER, calls(function("{}"), function_call={"name": "f", "arguments": "{}"})), of(USER, calls(function({"a": "\ud83d"}))),
        of(USER, {"role": "assistant", "function_call": "f"}), of(USER, calls(function("[" * 100_000))),
    ],
    "bad_tool_result": [of(USER, CALLS, {**RESULT, "tool_call_id": "c2"}), of(USER, CALLS, {**RESULT, "tool_call_id": 3})],
    "unwritable_call": [of(USER, calls(function("{}", name="find film")), RESULT)],
    "too_deep": [of(USER, calls(function(DEEP)))],
    "no_trained_turn": [of(USER, {**TEXT, "weight": 0}), of(USER, {**TEXT, "train": False}), {"prompt": [USER, TEXT], "completion": []}],
    "bad_tool": [of(USER, tools={}), of(USER, tools=[{"type": "web_search"}]), of(USER, tools=TOOLS, functions=[FIND])],
    "bad_tool_json": [of(USER, tools="[{"), of(USER, functions=[{"name": "f", "parameters": DEEP}])],
}  # fmt: skip


@pytest.mark.parametrize(
    ("reason", "value"), [(reason, value) for reason, values in REJECTED.items() for value in values]
)
def test_every_reason_is_earned(reason: str, value: Any) -> None:
    found = read(of(SYSTEM, USER), value, of(USER))
    assert [type(result) for result in found] == [SourceRecord, Reject, SourceRecord]
    reject = found[1]
    assert isinstance(reject, Reject) and (reject.reason, reject.source) == (reason, Source("chat.jsonl", 2, 20))
    reject.detail.encode()


@pytest.mark.parametrize(
    "value",
    [of(USER, TEXT, USER), of(USER, CALLS, RESULT), of(USER, CALLS, RESULT, TEXT), of(SYSTEM, USER, TEXT, USER, TEXT)],
)
def test_several_turns_are_a_reject_unless_asked_for(value: Any) -> None:
    (found,) = read(value, multi_turn=False)
    assert isinstance(found, Reject) and found.reason == "multi_turn"


@pytest.mark.parametrize(
    ("value", "record"),
    [
        (of(USER), ((Message("user", "Find Heat."),), None, None)),
        (of({"role": "developer", "content": "x"}, USER), ((Message("system", "x"), Message("user", "Find Heat.")), None, None)),
        (user([{"type": "text", "text": " a\r\n"}, {"text": "b"}]), ((Message("user", " a\r\nb"),), None, None)),
        (of(USER, tools=[]), ((Message("user", "Find Heat."),), (), None)),
        (of(USER, ANSWER, tools=TOOLS), ((Message("user", "Find Heat."),), (TOOL,), LoggedReply(ANSWER["content"], (), None))),
        (of(USER, CALLS, tools=json.dumps(TOOLS)), ((Message("user", "Find Heat."),), (TOOL,), LoggedReply("", (CALL,), None))),
        (of(USER, calls(function({"title": "Heat"}), content="Let me see.")), ((Message("user", "Find Heat."),), None, LoggedReply("", (CALL,), None))),
        (of(USER, calls({"name": "find_film", "arguments": {"title": "Heat"}})), ((Message("user", "Find Heat."),), None, LoggedReply("", (CALL,), None))),
        (
            of(USER, {"role": "assistant", "content": None, "function_call": {"name": "find_film", "arguments": '{"title": "Heat"}'}}, functions=[FIND]),
            ((Message("user", "Find Heat."),), (TOOL,), LoggedReply("", (CALL,), None)),
        ),
        (
            of(USER, {"role": "assistant", "content": None, "refusal": "No.", "audio": None, "annotations": [], "tool_calls": []}),
            ((Message("user", "Find Heat."),), None, LoggedReply("No.", (), None)),
        ),
        (of(USER, calls(function({}, name="odd name"))), ((Message("user", "Find Heat."),), None, LoggedReply("", (ToolCall("odd name", {}),), None))),
        (of({**USER, "train": False}, {**ANSWER, "train": True, "weight": 1}), ((Message("user", "Find Heat."),), None, LoggedReply(ANSWER["content"], (), None))),
        ({"prompt": [USER], "completion": [CALLS], "tools": TOOLS}, ((Message("user", "Find Heat."),), (TOOL,), LoggedReply("", (CALL,), None))),
        ({"prompt": [USER]}, ((Message("user", "Find Heat."),), None, None)),
        (of(USER, id=3, source="x", prompt="Find Heat."), ((Message("user", "Find Heat."),), None, None)),
    ],
)  # fmt: skip
def test_every_way_of_writing_a_record_is_read(value: Any, record: Any) -> None:
    for multi_turn in (False, True):
        messages, tools, reply = record
        assert only(value, multi_turn=multi_turn) == SourceRecord(messages, tools, reply, Source("chat.jsonl", 1, 10))


def test_a_byte_order_mark_is_no_reason_to_reject_and_blank_lines_are_none() -> None:
    assert [type(found) for found in read(b"\xef\xbb\xbf" + as_line(of(USER)), b" \r", b"")] == [SourceRecord]


def test_calls_and_results_of_earlier_turns_become_text() -> None:
    first, second = calls(function({"title": "Heat"}), content="Let me see."), calls(function({"title": "Ran"}))
    found = read(
        of(
            SYSTEM,
            USER,
            first,
            RESULT,
            second,
            {"role": "function", "name": "find_film", "content": ""},
            TEXT,
            tools=TOOLS,
        )
    )
    assert [record.reply for record in found if isinstance(record, SourceRecord)] == [
        LoggedReply("", (CALL,), None),
        LoggedReply("", (ToolCall("find_film", {"title": "Ran"}),), None),
        LoggedReply("It is of 1995.", (), None),
    ]
    assert isinstance(found[2], SourceRecord) and found[2].messages == (
        Message("system", "You call tools."),
        Message("user", "Find Heat."),
        Message("assistant", 'Let me see.\n[find_film(title="Heat")]'),
        Message("tool", '{"year": 1995}'),
        Message("assistant", '[find_film(title="Ran")]'),
        Message("tool", ""),
    )


TEXTS = st.text(min_size=1, max_size=8).filter(str.strip)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)
TOOL_CALLS = st.lists(
    st.builds(
        ToolCall,
        st.sampled_from(["find_film", "book.seats", "a-b"]),
        st.dictionaries(st.text(max_size=4), VALUES, max_size=2),
    ),
    min_size=1,
    max_size=3,
)


@st.composite
def conversations(draw: st.DrawFn) -> tuple[list[dict[str, Any]], list[LoggedReply]]:
    """A conversation of several requests, each with steps of calls and results, and its replies in order."""
    turns: list[dict[str, Any]] = [{"role": "system", "content": draw(TEXTS)}] if draw(st.booleans()) else []
    replies: list[LoggedReply] = []
    for _ in range(draw(st.integers(1, 3))):
        turns.append({"role": "user", "content": draw(TEXTS)})
        for step in draw(st.lists(TOOL_CALLS, max_size=2)):
            replies.append(LoggedReply("", tuple(step), None))
            as_text = draw(st.booleans())
            items = [
                {
                    "id": f"c{index}",
                    "type": "function",
                    "function": {
                        "name": call.name,
                        "arguments": json.dumps(call.arguments) if as_text else call.arguments,
                    },
                }
                for index, call in enumerate(step)
            ]
            turns.append({"role": "assistant", "content": draw(st.none() | st.text(max_size=5)), "tool_calls": items})
            turns += [
                {"role": "tool", "tool_call_id": f"c{index}", "content": draw(st.text(max_size=5))}
                for index in range(len(step))
            ]
        text = draw(TEXTS)
        replies.append(LoggedReply(text, (), None))
        turns.append({"role": "assistant", "content": text})
    return turns, replies


@settings(max_examples=60, deadline=None)
@given(conversation=conversations(), weights=st.data())
def test_each_reply_is_an_example_whose_conversation_begins_the_next_ones(
    conversation: tuple[list[dict[str, Any]], list[LoggedReply]], weights: st.DataObject
) -> None:
    turns, replies = conversation
    found = [record for record in read(of(*turns, tools=TOOLS)) if isinstance(record, SourceRecord)]
    assert [record.reply for record in found] == replies
    for record, later in pairwise(found):
        assert later.messages[: len(record.messages)] == record.messages
        said = later.messages[len(record.messages)]
        assert said.role == "assistant" and record.reply is not None
        if record.reply.calls:
            assert parse_calls(said.content.rsplit("\n", 1)[-1], mode="strict") == record.reply.calls
        else:
            assert said.content == record.reply.text
    assert [len(record.messages) for record in found] == sorted({len(record.messages) for record in found})
    open_ended = read(of(*turns, {"role": "user", "content": "And now?"}))
    assert len(open_ended) == len(found) + 1
    assert isinstance(open_ended[-1], SourceRecord) and open_ended[-1].reply is None
    untrained = weights.draw(st.sets(st.integers(0, len(replies) - 1), max_size=len(replies) - 1))
    assistants = iter(range(len(replies)))
    weighted = [
        {**turn, "weight": int(next(assistants) not in untrained)} if turn["role"] == "assistant" else turn
        for turn in turns
    ]
    assert read(of(*weighted, tools=TOOLS)) == [record for index, record in enumerate(found) if index not in untrained]


JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["user", "assistant", "tool", "text", "", "\ud83d", "{}", "c1"]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["messages", "tools", "role", "content", "text", "type", "tool_calls", "function", "name", "arguments"]), inner, max_size=4),
    max_leaves=8,
)  # fmt: skip
CALL_ITEMS = st.fixed_dictionaries(
    {}, optional={"id": JSON, "type": JSON, "function": JSON | st.just(FIND), "name": JSON, "arguments": JSON}
)
TURNS = st.fixed_dictionaries(
    {"role": st.sampled_from(["system", "user", "assistant", "tool", "function", "developer"]) | JSON},
    optional={"content": JSON | TEXTS, "tool_calls": st.lists(CALL_ITEMS, max_size=2) | JSON, "function_call": CALL_ITEMS | JSON,
              "tool_call_id": JSON, "weight": JSON, "refusal": JSON, "name": JSON},
)  # fmt: skip
NEARLY = st.fixed_dictionaries(
    {"messages": st.lists(TURNS | st.sampled_from([USER, CALLS, RESULT, TEXT]) | JSON, max_size=4) | JSON},
    optional={"tools": JSON | st.just(TOOLS), "functions": JSON | st.just([FIND])},
)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    line = bytearray(
        as_line(
            draw(
                st.sampled_from(
                    [of(SYSTEM, USER, CALLS, RESULT, TEXT, tools=TOOLS), of(USER, ANSWER, functions=[FIND])]
                )
            )
        )
    )
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(line) - 1))
        line[at : at + draw(st.integers(0, 6))] = draw(st.binary(max_size=3)).replace(b"\n", b"")
    return bytes(line)


LINES = (
    st.binary(max_size=20).map(lambda line: line.replace(b"\n", b""))
    | JSON.map(as_json)
    | NEARLY.map(as_json)
    | mutated()
)


@settings(max_examples=300, deadline=None)
@given(lines=st.lists(LINES, max_size=5), multi_turn=st.booleans())
def test_no_line_raises_and_each_gives_one_result_or_its_turns(lines: list[bytes], multi_turn: bool) -> None:
    found = read(*lines, multi_turn=multi_turn)
    numbers = [result.source.line for result in found if result.source is not None]
    expected = [number for number, line in enumerate(lines, start=1) if line.strip()]
    assert (list(dict.fromkeys(numbers)) if multi_turn else numbers) == expected
    for result in found:
        if isinstance(result, Reject):
            assert result.reason in {*REJECTED, "multi_turn"}
        else:
            assert result.messages[-1].role in ("user", "tool")
    rejected = [result.source for result in found if isinstance(result, Reject)]
    assert not {source.line for source in rejected if source} & {
        line.source.line for line in found if isinstance(line, SourceRecord)
    }


def test_only_the_completion_of_a_prompt_with_earlier_replies_is_learnt() -> None:
    found = read({"prompt": [USER, CALLS, RESULT], "completion": [TEXT]})
    assert [record.reply for record in found if isinstance(record, SourceRecord)] == [
        LoggedReply("It is of 1995.", (), None)
    ]


def test_a_source_is_read_as_it_comes() -> None:
    def endless() -> Iterable[Line]:
        number = 0
        while True:
            number += 1
            yield Line(number, 0, as_line(of(USER)))

    first = next(iter(read_chat_jsonl(endless(), name="x", multi_turn=False)))
    assert isinstance(first, SourceRecord)
