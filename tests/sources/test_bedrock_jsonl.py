"""Every line of a Bedrock file becomes a record or a reject with its own reason, and no line stops the rest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.records import DataError, Message, Reject, Source
from distill.sources.bedrock_jsonl import SCHEMA_VERSION, BedrockRecord, read_bedrock_jsonl

USER = {"role": "user", "content": [{"text": "Find Heat."}]}
ASSISTANT = {"role": "assistant", "content": [{"text": "[find(title='Heat')]"}]}
GOOD: dict[str, Any] = {"schemaVersion": SCHEMA_VERSION, "system": [{"text": "You call tools."}], "messages": [USER]}


def content(*blocks: Any) -> dict[str, Any]:
    return {**GOOD, "messages": [{"role": "user", "content": list(blocks)}]}


REJECTED: dict[str, list[Any]] = {
    "invalid_json": ["[1]", "{", '{"a": 1} {"b": 2}', "nonsense", "3", "null", "[" * 100_000, "1" * 5000, b"\xff\xfe{", b'{"a": "\xff"}'],
    "extra_field": [
        {**GOOD, "id": 1},
        {**GOOD, "messages": [{**USER, "name": "x"}]},
    ],
    "bad_schema_version": [{**GOOD, "schemaVersion": "bedrock-conversation-2023"}, {"messages": [USER]}, {**GOOD, "schemaVersion": [1]}],
    "bad_system": [
        {**GOOD, "system": []}, {**GOOD, "system": "text"}, {**GOOD, "system": [{"text": "a"}, {"text": "b"}]},
        {**GOOD, "system": None}, {**GOOD, "system": [{"text": "a", "cachePoint": {}}]}, {**GOOD, "system": ["a"]},
    ],
    "missing_messages": [{**GOOD, "messages": []}, {"schemaVersion": SCHEMA_VERSION}, {**GOOD, "messages": USER}],
    "bad_role": [{**GOOD, "messages": [{**USER, "role": "system"}]}, {**GOOD, "messages": ["hi"]}, {**GOOD, "messages": [{"role": ["user"]}]}],
    "not_alternating": [{**GOOD, "messages": [USER, USER]}, {**GOOD, "messages": [ASSISTANT]}, {**GOOD, "messages": [ASSISTANT, USER]}],
    "multi_turn": [{**GOOD, "messages": [USER, ASSISTANT, USER]}, {**GOOD, "messages": [USER, ASSISTANT] * 2}],
    "multimodal": [content({"image": {"format": "png"}}), content({"document": {}}), content({"text": "see", "video": {}})],
    "no_text": [
        content(), content({"text": ""}), content({"text": " \n"}), content({"text": 3}), content({"text": "a"}, {"text": "b"}), content("a"),
        content({"toolUse": {}}), content({"text": "\ud83d"}), {**GOOD, "messages": [{"role": "user"}]}, {**GOOD, "system": [{"text": ""}]},
        {**GOOD, "messages": [USER, {"role": "assistant", "content": [{"text": ""}]}]},
    ],
}  # fmt: skip


def as_line(value: Any) -> bytes:
    return value if isinstance(value, bytes) else (value if isinstance(value, str) else json.dumps(value)).encode()


def as_json(value: Any) -> bytes:
    return json.dumps(value).encode()


def read(folder: Path, *lines: Any, end: bytes = b"\n") -> list[BedrockRecord | Reject]:
    path = folder / "prompts.jsonl"
    path.write_bytes(end.join(map(as_line, lines)))
    return list(read_bedrock_jsonl(path, name="prompts.jsonl"))


@pytest.mark.parametrize(
    ("reason", "line"),
    [
        pytest.param(reason, line, id=f"{reason}-{number}")
        for reason, lines in REJECTED.items()
        for number, line in enumerate(lines)
    ],
)
def test_each_reason_is_earned_and_the_rest_of_the_file_is_read(reason: str, line: Any, tmp_path: Path) -> None:
    first, rejected, last = read(tmp_path, GOOD, line, GOOD)
    assert isinstance(first, BedrockRecord) and isinstance(last, BedrockRecord)
    assert isinstance(rejected, Reject)
    assert (rejected.reason, rejected.source) == (reason, Source("prompts.jsonl", 2))
    assert 0 < len(rejected.detail) < 500
    assert rejected.detail.encode()


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\n\n  \n"])
def test_records_keep_the_users_text_byte_for_byte(end: bytes, tmp_path: Path) -> None:
    text = "  two\u2028lines\r\n and \x85 spaces \t"
    blocks = [{"type": "text", "text": text}]
    full = {**GOOD, "system": [{"text": text}], "messages": [{"role": "user", "content": blocks}, ASSISTANT]}
    found = read(
        tmp_path, json.dumps(full, ensure_ascii=False), {"schemaVersion": SCHEMA_VERSION, "messages": [USER]}, end=end
    )
    lines = 1 + end.count(b"\n")
    assert found == [
        BedrockRecord(
            (Message("system", text), Message("user", text)), "[find(title='Heat')]", Source("prompts.jsonl", 1)
        ),
        BedrockRecord((Message("user", "Find Heat."),), None, Source("prompts.jsonl", lines)),
    ]


def test_a_byte_order_mark_is_no_reason_to_reject(tmp_path: Path) -> None:
    assert isinstance(read(tmp_path, b"\xef\xbb\xbf" + as_line(GOOD))[0], BedrockRecord)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "none.jsonl", tmp_path):
        with pytest.raises(DataError, match=f"{path}: cannot read the prompt file"):
            list(read_bedrock_jsonl(path, name="x"))


JSON: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from(["user", "assistant", SCHEMA_VERSION, "", "\ud83d", "hi"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["schemaVersion", "system", "messages", "role", "content", "text", "type", "image", "x"]),
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
        "messages": st.lists(TURNS | st.just(USER) | JSON, max_size=3) | JSON,
    },
    optional={"system": BLOCKS | JSON, "x": JSON},
)
LINES = st.binary(max_size=20).map(lambda line: line.replace(b"\n", b"")) | JSON.map(as_json) | NEARLY.map(as_json)


@settings(max_examples=100, deadline=None)
@given(lines=st.lists(LINES, max_size=6))
def test_no_line_raises_and_each_gives_one_result(lines: list[bytes], tmp_path_factory: pytest.TempPathFactory) -> None:
    found = read(tmp_path_factory.getbasetemp(), *lines)
    numbers = [number for number, line in enumerate(lines, start=1) if line.strip()]
    assert [result.source.line for result in found if result.source is not None] == numbers
    for result in found:
        if isinstance(result, Reject):
            assert result.reason in REJECTED
        else:
            assert [message.role for message in result.messages][-1] == "user"
            assert all(message.content.strip() for message in result.messages)
