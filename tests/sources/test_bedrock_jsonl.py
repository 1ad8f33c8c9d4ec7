"""Every line of a Bedrock file becomes a record or a reject with its own reason, and no line stops the rest."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.records import Message, Reject, Source, Tool, ToolCall
from distill.sources.bedrock_jsonl import MAX_TURNS, SCHEMA_VERSION, read_bedrock_jsonl
from distill.sources.files import MAX_LINE_BYTES, Line, input_file, read_lines
from distill.sources.record import LoggedReply, SourceRecord

USER = {"role": "user", "content": [{"text": "Find Heat."}]}
ASSISTANT = {"role": "assistant", "content": [{"text": "[find(title='Heat')]"}]}
GOOD: dict[str, Any] = {"schemaVersion": SCHEMA_VERSION, "system": [{"text": "You call tools."}], "messages": [USER]}
SPEC: dict[str, Any] = {
    "name": "math-_2e_-find", "description": "Find.", "inputSchema": {"json": {"type": "object", "properties": {"x": {"type": "integer"}}}}
}  # fmt: skip
NOVA: dict[str, Any] = {**GOOD, "toolConfig": {"tools": [{"toolSpec": SPEC}], "toolChoice": {"auto": {}}}}
CALL: dict[str, Any] = {
    "role": "assistant",
    "content": [{"toolUse": {"toolUseId": "1", "name": "math-_2e_-find", "input": {"x": 1}}}],
}
RESULT: dict[str, Any] = {
    "role": "user",
    "content": [{"toolResult": {"toolUseId": "1", "content": [{"json": {"y": 2}}]}}],
}


def content(*blocks: Any) -> dict[str, Any]:
    return {**GOOD, "messages": [{"role": "user", "content": list(blocks)}]}


def nova(**config: Any) -> dict[str, Any]:
    return {**GOOD, "toolConfig": {"tools": [{"toolSpec": SPEC}], **config}}


def spec(**fields: Any) -> dict[str, Any]:
    return nova(tools=[{"toolSpec": {**SPEC, **fields}}])


REJECTED: dict[str, list[Any]] = {
    "invalid_json": [
        "[1]", "{", '{"a": 1} {"b": 2}', "nonsense", "3", "null", "[" * 100_000, "1" * 5000, b"\xff\xfe{", b'{"a": "\xff"}', b'{"a": "\xed\xa0\x80"}',
        '{"a": NaN}', '{"a": -Infinity}', '{"a": 1e999}', json.dumps(GOOD).encode("utf-16-le"), "\0",
    ],
    "line_too_long": [b" " * MAX_LINE_BYTES + b"{}"],
    "repeated_key": ['{"schemaVersion": "x", "schemaVersion": "y"}', json.dumps(nova()).replace('"x"', '"y": 1, "y"')],
    "extra_field": [
        {**GOOD, "id": 1},
        {**GOOD, "\ud83d": 1},
        {**GOOD, "messages": [{**USER, "name": "x"}]},
        nova(cachePoint={}),
    ],
    "bad_schema_version": [{**GOOD, "schemaVersion": "bedrock-conversation-2023"}, {"messages": [USER]}, {**GOOD, "schemaVersion": [1]}],
    "bad_system": [
        {**GOOD, "system": []}, {**GOOD, "system": "text"}, {**GOOD, "system": [{"text": "a"}, {"text": "b"}]},
        {**GOOD, "system": None}, {**GOOD, "system": [{"text": "a", "cachePoint": {}}]}, {**GOOD, "system": ["a"]},
    ],
    "missing_messages": [{**GOOD, "messages": []}, {"schemaVersion": SCHEMA_VERSION}, {**GOOD, "messages": USER}],
    "bad_role": [{**GOOD, "messages": [{**USER, "role": "system"}]}, {**GOOD, "messages": ["hi"]}, {**GOOD, "messages": [{"role": ["user"]}]}],
    "not_alternating": [{**GOOD, "messages": [USER, USER]}, {**GOOD, "messages": [ASSISTANT]}, {**GOOD, "messages": [ASSISTANT, USER]}],
    "multi_turn": [{**GOOD, "messages": [USER, ASSISTANT, USER]}, {**GOOD, "messages": [USER, ASSISTANT] * 2}, {**NOVA, "messages": [USER, CALL, RESULT]}],
    "too_many_turns": [{**GOOD, "messages": [USER, ASSISTANT] * (MAX_TURNS // 2 + 1)}],
    "multimodal": [content({"image": {"format": "png"}}), content({"document": {}}), content({"text": "see", "video": {}})],
    "no_text": [
        content(), content({"text": ""}), content({"text": " \n"}), content({"text": 3}), content({"text": "a"}, {"text": "b"}), content("a"),
        content({"toolUse": {}}), content({"text": "\ud83d"}), {**GOOD, "messages": [{"role": "user"}]}, {**GOOD, "system": [{"text": ""}]},
        {**GOOD, "messages": [USER, {"role": "assistant", "content": [{"text": ""}]}]}, content({"text": "a", "type": 1}),
        {**GOOD, "messages": [USER, CALL]}, {**NOVA, "messages": [USER, {"role": "assistant", "content": []}]},
    ],
    "no_tools": [nova(tools=[]), nova(tools=[{"cachePoint": {"type": "default"}}])],
    "bad_tool": [
        {**GOOD, "toolConfig": []}, {**GOOD, "toolConfig": None}, {**GOOD, "toolConfig": {}}, nova(tools=[{"systemTool": {"name": "x"}}]),
        spec(name=""), spec(inputSchema={}), spec(name="\ud83d"),
    ],
    "bad_tool_json": [spec(inputSchema={"json": json.loads('{"a":' * 150 + "1" + "}" * 150)})],
    "bad_tool_use": [
        {**NOVA, "messages": [USER, {"role": "assistant", "content": [{"toolUse": {"name": "f", "input": {}}}]}]},
        {**NOVA, "messages": [USER, {"role": "assistant", "content": CALL["content"] * 2}]},
    ],
    "bad_tool_result": [{**NOVA, "messages": [RESULT]}, {**NOVA, "messages": [USER, CALL, USER]}],
    "unknown_block": [{**NOVA, "messages": [{"role": "user", "content": [{"guardContent": {}}]}]}],
    "several_texts": [{**NOVA, "messages": [{"role": "user", "content": [{"text": "a"}, {"text": "b"}]}]}],
    "unwritable_call": [{**NOVA, "messages": [USER, {"role": "assistant", "content": [{"toolUse": {"toolUseId": "1", "name": "a b", "input": {}}}]}, RESULT]}],
    "too_deep": [
        {**NOVA, "messages": [USER, {"role": "assistant", "content": [{"toolUse": {"toolUseId": "1", "name": "f", "input": json.loads('{"a":' * 150 + "1" + "}" * 150)}}]}]},
    ],
}  # fmt: skip
NEEDS_MULTI_TURN = ("too_many_turns", "unwritable_call", "bad_tool_result")


def as_line(value: Any) -> bytes:
    return value if isinstance(value, bytes) else (value if isinstance(value, str) else json.dumps(value)).encode()


def as_json(value: Any) -> bytes:
    return json.dumps(value).encode()


def read(*lines: Any, folder: Path, end: bytes = b"\n", multi_turn: bool = False) -> list[SourceRecord | Reject]:
    path = folder / "prompts.jsonl"
    path.write_bytes(end.join(map(as_line, lines)))
    return list(read_bedrock_jsonl(read_lines(input_file(str(path))), name="prompts.jsonl", multi_turn=multi_turn))


@pytest.mark.parametrize(
    ("reason", "line"),
    [
        pytest.param(reason, line, id=f"{reason}-{number}")
        for reason, lines in REJECTED.items()
        for number, line in enumerate(lines)
    ],
)
def test_each_reason_is_earned_and_the_rest_of_the_file_is_read(reason: str, line: Any, tmp_path: Path) -> None:
    first, rejected, last = read(GOOD, line, GOOD, folder=tmp_path, multi_turn=reason in NEEDS_MULTI_TURN)
    assert isinstance(first, SourceRecord) and isinstance(last, SourceRecord)
    assert isinstance(rejected, Reject)
    assert (rejected.reason, rejected.source) == (reason, Source("prompts.jsonl", 2, len(as_line(GOOD)) + 1))
    assert 0 < len(rejected.detail) < 500
    assert rejected.detail.encode()


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\n\n  \n"])
def test_records_keep_the_users_text_byte_for_byte(end: bytes, tmp_path: Path) -> None:
    text = "  two\u2028lines\r\n and \x85 spaces \t"
    blocks = [{"type": "text", "text": text}]
    full = {**GOOD, "system": [{"text": text}], "messages": [{"role": "user", "content": blocks}, ASSISTANT]}
    line = json.dumps(full, ensure_ascii=False).encode()
    found = read(line, {"schemaVersion": SCHEMA_VERSION, "messages": [USER]}, folder=tmp_path, end=end)
    assert found == [
        SourceRecord(
            messages=(Message("system", text), Message("user", text)),
            tools=None,
            reply=LoggedReply(text="[find(title='Heat')]", calls=(), model=None),
            source=Source("prompts.jsonl", 1, 0),
        ),
        SourceRecord(
            messages=(Message("user", "Find Heat."),),
            tools=None,
            reply=None,
            source=Source("prompts.jsonl", 1 + end.count(b"\n"), len(line) + len(end)),
        ),
    ]


def test_a_byte_order_mark_is_no_reason_to_reject(tmp_path: Path) -> None:
    assert isinstance(read(b"\xef\xbb\xbf" + as_line(GOOD), folder=tmp_path)[0], SourceRecord)


@pytest.mark.parametrize("num_turns", range(1, 8))
def test_a_conversation_is_a_prompt_for_each_turn_of_the_assistant_and_for_an_open_end(
    num_turns: int, tmp_path: Path
) -> None:
    texts = [f"turn {number}" for number in range(num_turns)]
    turns = [
        {"role": ("user", "assistant")[number % 2], "content": [{"text": text}]} for number, text in enumerate(texts)
    ]
    found = read({**GOOD, "messages": turns}, folder=tmp_path, multi_turn=True)
    said = [found_record.messages for found_record in found if isinstance(found_record, SourceRecord)]
    whole = (
        Message("system", "You call tools."),
        *(Message("assistant" if number % 2 else "user", text) for number, text in enumerate(texts)),
    )
    assert said == [whole[: 2 + number] for number in range(0, num_turns, 2)]
    replies = [found_record.reply for found_record in found if isinstance(found_record, SourceRecord)]
    answered = [LoggedReply(text, (), None) for text in texts[1::2]]
    assert replies == (answered if num_turns % 2 == 0 else [*answered, None])


def test_novas_records_give_tools_and_calls_and_their_results_are_turns(tmp_path: Path) -> None:
    tools = (Tool("math.find", "Find.", SPEC["inputSchema"]["json"]),)
    call = ToolCall("math.find", {"x": 1})
    system, user = Message("system", "You call tools."), Message("user", "Find Heat.")
    single, answered, text = (
        read({**NOVA, "messages": messages}, folder=tmp_path) for messages in ([USER], [USER, CALL], [USER, ASSISTANT])
    )
    source = Source("prompts.jsonl", 1, 0)
    assert single == [SourceRecord((system, user), tools, None, source)]
    assert answered == [SourceRecord((system, user), tools, LoggedReply("", (call,), None), source)]
    assert text == [SourceRecord((system, user), tools, LoggedReply("[find(title='Heat')]", (), None), source)]
    turns = [USER, CALL, RESULT, ASSISTANT, USER, CALL]
    whole = (
        system, user, Message("assistant", "[math.find(x=1)]"), Message("tool", '{"y": 2}'),
        Message("assistant", "[find(title='Heat')]"), user,
    )  # fmt: skip
    for num_turns, ends in ((4, (2, 4)), (3, (2, 4)), (5, (2, 4, 6)), (6, (2, 4, 6))):
        found = read({**NOVA, "messages": turns[:num_turns]}, folder=tmp_path, multi_turn=True)
        records = [record for record in found if isinstance(record, SourceRecord)]
        assert [record.messages for record in records] == [whole[:end] for end in ends]
        assert [record.reply and (record.reply.text, record.reply.calls) for record in records] == [
            ("", (call,)),
            *([("[find(title='Heat')]", ())] if num_turns > 3 else [None]),
            *([None] if num_turns == 5 else [("", (call,))] if num_turns == 6 else []),
        ]


JSON: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from(["user", "assistant", SCHEMA_VERSION, "", "\ud83d", "hi"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "schemaVersion",
                    "system",
                    "messages",
                    "role",
                    "content",
                    "text",
                    "type",
                    "image",
                    "x",
                    "toolUse",
                    "json",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)
BLOCKS = st.lists(st.fixed_dictionaries({}, optional={"text": JSON, "type": JSON, "image": JSON}) | JSON, max_size=2)
TURNS = st.fixed_dictionaries(
    {}, optional={"role": st.sampled_from(["user", "assistant", "tool", 3]), "content": BLOCKS | JSON, "x": JSON}
)
NEARLY = st.fixed_dictionaries(
    {
        "schemaVersion": st.just(SCHEMA_VERSION) | JSON,
        "messages": st.lists(st.sampled_from([USER, ASSISTANT, CALL, RESULT]) | TURNS | JSON, max_size=5) | JSON,
    },
    optional={
        "system": BLOCKS | JSON,
        "x": JSON,
        "toolConfig": JSON | st.fixed_dictionaries({"tools": JSON | st.just([{"toolSpec": SPEC}])}),
    },
)
LINES = st.binary(max_size=20).map(lambda line: line.replace(b"\n", b"")) | JSON.map(as_json) | NEARLY.map(as_json)


@settings(max_examples=200, deadline=None)
@given(lines=st.lists(LINES, max_size=6), multi_turn=st.booleans())
def test_no_line_raises_and_each_gives_its_results(lines: list[bytes], multi_turn: bool) -> None:
    given_lines = [Line(number, 10 * number, line) for number, line in enumerate(lines, start=1)]
    found = list(read_bedrock_jsonl(given_lines, name="x", multi_turn=multi_turn))
    places = [(result.source.line, result.source.offset) for result in found if result.source is not None]
    expected = [(line.number, line.offset) for line in given_lines if line.data.strip()]
    assert (sorted(set(places)) if multi_turn else places) == expected
    assert len([result for result in found if isinstance(result, Reject)]) == len(
        {result.source.line for result in found if isinstance(result, Reject) and result.source}
    )
    for result in found:
        if isinstance(result, Reject):
            assert result.reason in REJECTED and result.detail.encode()
        else:
            assert result.messages[-1].role in ("user", "tool")
            assert all(message.content.strip() or message.role == "tool" for message in result.messages)
            json.dumps([str(result)], ensure_ascii=False).encode()


def test_whatever_becomes_of_a_good_record_nothing_raises() -> None:
    """Bytes of good records put out, put in or put elsewhere: nearly right is where readers break."""
    random = Random(0)
    good = [
        json.dumps(value).encode()
        for value in (
            GOOD,
            {**NOVA, "messages": [USER, CALL, RESULT, ASSISTANT]},
            {**GOOD, "messages": [USER, ASSISTANT] * 3},
        )
    ]
    reasons: Counter[str] = Counter()
    for number in range(1, 10_001):
        data = bytearray(random.choice(good))
        for _ in range(random.choice((1, 1, 2, 5))):
            start = random.randrange(len(data))
            end = min(len(data), start + random.choice((1, 1, 2, 8, 40)))
            data[start:end] = random.choice(
                (
                    b"",
                    b"0",
                    b'"',
                    b"{}",
                    b"[]",
                    b"null",
                    b"\xff",
                    b"\\ud800",
                    b"text",
                    b"toolUse",
                    bytes(data[start:end]) * 2,
                )
            )
        found = list(read_bedrock_jsonl([Line(number, 0, bytes(data))], name="x", multi_turn=bool(number % 2)))
        rejects = [result for result in found if isinstance(result, Reject)]
        assert len(found) == 1 or not rejects
        reasons.update(reject.reason for reject in rejects)
    assert set(reasons) <= set(REJECTED) and len(reasons) > 10
