"""A log tree comes back complete, each reject is earned by its own reason, and no line stops the rest."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from distill.chat import prompt_ids
from distill.records import DataError, Message, Reject, Source, Tool, ToolCall
from distill.sources.bedrock_names import from_bedrock_name, to_bedrock_name
from distill.sources.converse import read_converse_reply
from distill.sources.files import InputFile, Line, open_inputs, read_bytes, read_lines
from distill.sources.invocation_logs import (
    is_log_object,
    is_same_model,
    normalise_model_id,
    offloaded_body_path,
    read_invocation_logs,
)
from distill.sources.llama_prompt import split_llama_prompt
from distill.sources.metadata_filter import MetadataFilter, parse_metadata_filter
from distill.sources.record import LoggedReply, SourceRecord
from tests.sources.log_tree import (
    FOLDER,
    OPERATIONS,
    Call,
    Turn,
    expected_messages,
    expected_reply,
    llama_prompt,
    log_record,
    request_id,
    write_log_tree,
)

TEACHER = "meta.llama3-1-70b-instruct-v1:0"
TEACHERS_NAMES = (
    TEACHER,
    f"us.{TEACHER}",
    f"arn:aws:bedrock:us-west-2::foundation-model/{TEACHER}",
    f"arn:aws-us-gov:bedrock:us-gov-west-1:123456789012:inference-profile/us-gov.{TEACHER}",
)
FILM = ToolCall("films.find", {"title": "Heat", "years": [1995, None], "exact": True})
WEATHER = ToolCall("get_weather", {})
TOOLS = (
    Tool("films.find", "Find a film", {"type": "object", "properties": {"title": {"type": "string"}}, "required": ["title"]}),
    Tool("get_weather", "", {"type": "object", "properties": {}}),
)  # fmt: skip
ASK = Turn("Any good\r\n 1995 thrillers? ☃ ")
SEVERAL_TURNS = (
    ASK,
    Turn("Let me see.", calls=(FILM, WEATHER)),
    Turn(results=("Heat (1995)", {"sky": "clear", "wind": [1, 2]})),
    Turn("Heat."),
    Turn("And today?"),
    Turn(calls=(WEATHER,)),
    Turn("Quick!", results=("",)),
)


def read(
    *lines: bytes | dict[str, Any],
    open_body: Callable[[str], bytes] | None = None,
    metadata_filter: MetadataFilter | None = None,
    teacher: str | None = TEACHER,
    multi_turn: bool = True,
) -> list[SourceRecord | Reject]:
    data = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
    return list(
        read_invocation_logs(
            (
                Line(number, 100 * number, line, is_cut=line.endswith(b"\0"))
                for number, line in enumerate(data, start=1)
            ),
            name="logs",
            open_body=open_body or Path.read_bytes,  # type: ignore[arg-type]  # nothing is offloaded where none is given
            metadata_filter=metadata_filter,
            teacher=teacher,
            multi_turn=multi_turn,
        )
    )


def read_tree(root: Path, *, teacher: str | None) -> Iterator[SourceRecord | Reject]:
    """As a stage does it: objects by path, bodies from the same copy of the tree."""
    for file in open_inputs(str(root), suffixes=(".json.gz",)):
        if not isinstance(file, InputFile) or not is_log_object(file.path):
            continue

        def open_body(url: str, log_path: str = file.path) -> bytes:
            return read_bytes(offloaded_body_path(url, log_path=log_path))

        yield from read_invocation_logs(
            read_lines(file),
            name=Path(file.path).name,
            open_body=open_body,
            metadata_filter=None,
            teacher=teacher,
            multi_turn=True,
        )


def tree_calls() -> list[Call]:
    """Every operation with one turn and several, text and calls, large requests, large answers and failures."""
    large = Turn("word " * 30_000)
    calls = []
    for index, operation in enumerate(OPERATIONS):
        tools = TOOLS if operation.startswith("Converse") else None
        model = TEACHERS_NAMES[index]
        calls += [
            Call(operation, (ASK,), Turn("[find(title='Heat')]\n"), system="You call tools.", model_id=model),
            Call(operation, (ASK,), Turn(calls=(FILM, WEATHER)), tools=tools, metadata={"project": "a#b"}),
            Call(
                operation,
                SEVERAL_TURNS,
                Turn("Look:", calls=(FILM,)),
                system="  two\n\nlines ",
                tools=tools,
                model_id=model,
            ),
            Call(operation, (large,), Turn("Short."), model_id=model),
            Call(operation, (large,), large, system="x"),
            Call(operation, (ASK,), large),
            Call(operation, (ASK,), Turn("never"), error="ThrottlingException"),
            Call(operation, (ASK,), Turn("other"), model_id="amazon.nova-pro-v1:0"),
        ]
    return calls


def test_a_log_tree_comes_back_complete_wherever_it_was_copied(tmp_path: Path) -> None:
    calls = tree_calls()
    assert write_log_tree(tmp_path / "data", calls, Random(0)) == 4 * len(OPERATIONS)
    found = list(read_tree(tmp_path / "data", teacher=TEACHER))
    assert len(found) == len(calls)
    for number, (call, result) in enumerate(zip(calls, found, strict=True)):
        assert result.source is not None
        assert result.source.request_id == request_id(number)
        if call.error is not None or call.model_id not in TEACHERS_NAMES:
            assert isinstance(result, Reject)
            assert result.reason == ("failed_call" if call.error else "model_mismatch")
            assert (call.error or call.model_id) in result.detail
        else:
            expected = SourceRecord(
                expected_messages(call), call.tools, expected_reply(call, model=TEACHER), result.source
            )
            assert result == expected
    # Prompts alone: any model's, answers unread.
    prompts = list(read_tree(tmp_path / "data", teacher=None))
    assert [type(result) for result in prompts] == [Reject if call.error else SourceRecord for call in calls]
    assert all(result.reply is None for result in prompts if isinstance(result, SourceRecord))
    # A copy of one region's folder, or of the objects of an hour, is complete in itself.
    shutil.copytree(tmp_path / "data" / FOLDER / "us-west-2", tmp_path / "region")
    assert list(read_tree(tmp_path / "region", teacher=TEACHER)) == found
    (hour,) = (tmp_path / "region" / "2025" / "05" / "01").glob("22")
    shutil.copytree(hour, tmp_path / "hour")
    assert list(read_tree(tmp_path / "hour", teacher=TEACHER)) == found[:3]


TEXTS = st.sampled_from(
    [
        "Hi",
        " \n x\t",
        "<|eot_id|",
        "\n\nthree\n",
        "é\u2028☃\x85",
        '{"a": [1]}',
        "[f(a=1)]",
        "<|python_tag|>x",
        "assistant",
    ]
)
JSON_VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=5,
)
CALLS = st.lists(
    st.builds(
        ToolCall, st.sampled_from(["f", "a.b.c", "get_weather", "_x9"]), st.dictionaries(TEXTS, JSON_VALUES, max_size=3)
    ),
    min_size=1,
    max_size=3,
).map(tuple)
RESULTS: st.SearchStrategy[Any] = TEXTS | st.just("") | st.dictionaries(TEXTS, JSON_VALUES, max_size=2)
ASSISTANT_TURNS = st.builds(Turn, TEXTS) | st.builds(Turn, TEXTS, CALLS) | st.builds(Turn, st.just(""), CALLS)
ANY_TOOLS = st.lists(
    st.builds(Tool, st.text(min_size=1, max_size=7), TEXTS, st.dictionaries(TEXTS, JSON_VALUES)), max_size=2
).map(tuple)


@st.composite
def logged_calls(draw: st.DrawFn) -> Call:
    operation = draw(st.sampled_from(OPERATIONS))
    turns = [Turn(draw(TEXTS))]
    for _ in range(draw(st.integers(0, 2))):
        turns.append(draw(ASSISTANT_TURNS))
        results = [draw(RESULTS) for _ in turns[-1].calls]
        says_nothing: bool = draw(st.booleans())
        turns.append(Turn("" if results and says_nothing else draw(TEXTS), results=tuple(results)))
    tools = draw(st.none() | ANY_TOOLS) if operation.startswith("Converse") else None
    return Call(
        operation,
        tuple(turns),
        draw(ASSISTANT_TURNS),
        draw(st.none() | TEXTS),
        tools,
        draw(st.sampled_from(TEACHERS_NAMES)),
    )


@settings(max_examples=100, deadline=None)
@given(call=logged_calls(), random=st.randoms(use_true_random=False), offload=st.booleans())
def test_any_call_comes_back_as_it_was_made(call: Call, random: Random, offload: bool) -> None:
    record = log_record(call, 7, random)
    bodies: dict[str, bytes] = {}
    for side in ("input", "output") if offload else ():
        bodies[f"s3://bkt/{side}"] = json.dumps(record[side].pop(f"{side}BodyJson")).encode()
        record[side] |= {f"{side}BodyJson": None, f"{side}BodyS3Path": f"s3://bkt/{side}"}
    source = Source("logs", 1, 100, request_id(7))
    expected = SourceRecord(expected_messages(call), call.tools, expected_reply(call, model=TEACHER), source)
    assert read(record, open_body=bodies.__getitem__) == [expected]
    (single,) = read(record, open_body=bodies.__getitem__, multi_turn=False)
    assert single == expected if len(call.turns) == 1 else isinstance(single, Reject) and single.reason == "multi_turn"


def test_history_is_written_out_as_llama_reads_it() -> None:
    (found,) = read(log_record(Call("Converse", SEVERAL_TURNS, Turn("Yes.")), 0, Random(0)))
    assert isinstance(found, SourceRecord)
    assert found.messages == (
        Message("user", "Any good\r\n 1995 thrillers? ☃ "),
        Message("assistant", 'Let me see.\n[films.find(title="Heat", years=[1995, None], exact=True), get_weather()]'),
        Message("tool", "Heat (1995)"),
        Message("tool", '{"sky": "clear", "wind": [1, 2]}'),
        Message("assistant", "Heat."),
        Message("user", "And today?"),
        Message("assistant", "[get_weather()]"),
        Message("tool", ""),
        Message("user", "Quick!"),
    )


BEGIN, EOT = "<|begin_of_text|>", "<|eot_id|>"


def header(name: str) -> str:
    return f"<|start_header_id|>{name}<|end_header_id|>"


@settings(max_examples=30, deadline=None)
@given(call=logged_calls())
def test_messages_of_a_raw_prompt_render_to_that_very_prompt(
    call: Call, llama_tokenizer: PreTrainedTokenizerFast
) -> None:
    assume(not any("<|" in message.content for message in expected_messages(call)))
    stripped = [Message(message.role, message.content.strip()) for message in expected_messages(call)]
    prompt = llama_prompt(call)
    for message, short in zip(expected_messages(call), stripped, strict=True):
        prompt = prompt.replace(f"\n\n{message.content}{EOT}", f"\n\n{short.content}{EOT}")
    messages = split_llama_prompt(prompt)
    assert list(messages) == stripped
    assert prompt_ids(messages, llama_tokenizer) == llama_tokenizer.encode(prompt, add_special_tokens=False)


@pytest.mark.parametrize(
    "prompt",
    [
        f"{BEGIN}{header('user')}\n\nHi{EOT}{header('assistant')}\n\n",
        f"{header('user')}Hi{EOT}{header('assistant')}",
        f"\n{BEGIN}\n{header(' user ')}\nHi{EOT}\n\n{header('assistant')}\n \n",
    ],
)
def test_prompts_written_by_hand_are_taken_apart(prompt: str) -> None:
    assert split_llama_prompt(prompt) == (Message("user", "Hi"),)


def test_end_of_message_ends_a_turn_and_tool_is_another_name_of_ipython() -> None:
    call = '<|python_tag|>{"type": "function", "name": "f", "parameters": {}}'
    prompt = f"{header('user')}\n\nHi{EOT}{header('assistant')}\n\n{call}<|eom_id|>{header('tool')}\n\n[1]{EOT}{header('assistant')}\n\n"
    assert split_llama_prompt(prompt) == (Message("user", "Hi"), Message("assistant", call), Message("tool", "[1]"))


CONVERSE = log_record(Call("Converse", (ASK,), Turn("Fine."), system="s", tools=TOOLS), 0, Random(0))
STREAM = log_record(Call("InvokeModelWithResponseStream", (ASK,), Turn("Fine.")), 0, Random(0))
RAW = log_record(Call("InvokeModel", (ASK,), Turn("Fine.")), 0, Random(0))
USE = {"toolUse": {"toolUseId": "t", "name": "f", "input": {}}}
RESULT = {"toolResult": {"toolUseId": "t", "content": [{"text": "1"}]}}
DELTA = {"contentBlockDelta": {"contentBlockIndex": 0, "delta": {"text": "Hi"}}}
STOP = {"messageStop": {"stopReason": "end_turn"}}
DEEP: Any = 0
for _ in range(200):
    DEEP = [DEEP]


def request(**changes: Any) -> dict[str, Any]:
    return {**CONVERSE, "input": {"inputBodyJson": {**CONVERSE["input"]["inputBodyJson"], **changes}}}


def turns(*contents: Any) -> dict[str, Any]:
    return request(
        messages=[
            {"role": ("user", "assistant")[index % 2], "content": content} for index, content in enumerate(contents)
        ]
    )


def tool(**changes: Any) -> dict[str, Any]:
    return request(toolConfig={"tools": [{"toolSpec": {"name": "f", "inputSchema": {"json": {}}, **changes}}]})


def answer(*content: Any, stop: Any = "end_turn") -> dict[str, Any]:
    return output({"output": {"message": {"role": "assistant", "content": list(content)}}, "stopReason": stop})


def output(body: Any) -> dict[str, Any]:
    return {**CONVERSE, "output": {"outputBodyJson": body}}


def raw(prompt: Any, **changes: Any) -> dict[str, Any]:
    return {**RAW, "input": {"inputBodyJson": {"prompt": prompt, **changes}}}


def generation(body: Any) -> dict[str, Any]:
    return {**RAW, "output": {"outputBodyJson": body}}


def without(key: str) -> dict[str, Any]:
    return {name: value for name, value in CONVERSE.items() if name != key}


ASKED = [{"text": "Hi"}]
OPEN = f"{EOT}{header('assistant')}\n\n"
REJECTED: dict[str, list[Any]] = {
    "invalid_json": [b"{", b"[1]", b"null", b"\xff\xfe{", b'{"a": "\xff"}', b"[" * 100_000, b"1" * 5000],
    "repeated_key": [b'{"requestId": "a", "requestId": "b"}'],
    "line_too_long": [b'{"requestId": \0'],
    "not_an_invocation_log": [{}, {**CONVERSE, "schemaType": "Other"}],
    "bad_schema_version": [without("schemaVersion"), {**CONVERSE, "schemaVersion": "2.0"}, {**CONVERSE, "schemaVersion": [1]}],
    "bad_metadata": [{**CONVERSE, "requestMetadata": ["a"]}, {**CONVERSE, "requestMetadata": "\ud83d"}],
    "metadata_filtered": [{**CONVERSE, "requestMetadata": {"hide": "yes"}}],
    "failed_call": [{**without("output"), "errorCode": "ThrottlingException"}, {**CONVERSE, "errorCode": 500}],
    "missing_model_id": [without("modelId"), {**CONVERSE, "modelId": " "}, {**CONVERSE, "modelId": 1}],
    "model_mismatch": [{**CONVERSE, "modelId": "meta.llama3-1-405b-instruct-v1:0"}, {**CONVERSE, "modelId": "\ud83d"}],
    "unknown_operation": [without("operation"), {**CONVERSE, "operation": "StartAsyncInvoke"}, {**CONVERSE, "operation": ["Converse"]}],
    "missing_input": [without("input"), {**CONVERSE, "input": {}}, {**CONVERSE, "input": []}, {**CONVERSE, "input": {"inputBodyS3Path": ""}}],
    "missing_output": [without("output"), {**CONVERSE, "output": {"outputBodyJson": None}}],
    "missing_body": [{**CONVERSE, "input": {"inputBodyS3Path": "s3://bkt/none"}}, {**CONVERSE, "output": {"outputBodyS3Path": "s3://bkt/\ud83d"}}],
    "bad_body": [{**CONVERSE, "input": {"inputBodyS3Path": "broken"}}, {**CONVERSE, "output": {"outputBodyS3Path": "broken"}}],
    "unsupported_body": [
        {**CONVERSE, "input": {"inputBodyJson": []}}, raw(None), raw(["a"]), {**RAW, "input": {"inputBodyJson": {"inputText": "Hi"}}},
        raw(None, anthropic_version="bedrock-2023-05-31", messages=[{"role": "user", "content": "Hi"}]),
        raw(None, tools=[], messages=[{"role": "user", "content": ASKED}]),
    ],
    "not_llama_prompt": [raw(""), raw("\n\nHuman: Hi\n\nAssistant:"), raw("<s>[INST] Hi [/INST]")],
    "broken_llama_prompt": [
        raw(f"Be brief.{header('user')}\n\nHi{OPEN}"), raw(f"{BEGIN}{BEGIN}{header('user')}\n\nHi{OPEN}"),
        raw(f"{header('user')}\n\nHi{EOT}"), raw(f"{header('user')}\n\nHi{OPEN}{header('user')}"), raw("<|start_header_id|>assistant"),
        raw(f"<|start_header_id|>user\n\nHi{OPEN}"), raw(f"{header('user')}\n\nHi{header('assistant')}\n\n"),
        raw(f"{header('user')}\n\nHi{EOT}more{header('assistant')}"), raw(f"{header('user')}\n\na<|end_of_text|>b{OPEN}"),
        raw(f"{header('user')}\n\na<|end_header_id|>b{OPEN}"), raw(f"{header('user')}\n\nHi{EOT}{EOT}{header('assistant')}"),
    ],
    "assistant_prefill": [raw(f"{header('user')}\n\nHi{OPEN}["), turns(ASKED, [{"text": "["}])],
    "missing_messages": [request(messages=[]), request(messages=None), request(messages={"role": "user"})],
    "bad_role": [
        request(messages=[{"role": "system", "content": ASKED}]), request(messages=["Hi"]), request(messages=[{"role": ["user"]}]),
        raw(f"{header('critic')}\n\nHi{OPEN}"), raw(f"{header('')}\n\nHi{OPEN}"),
    ],
    "not_alternating": [
        request(messages=[{"role": "user", "content": ASKED}] * 2), request(messages=[{"role": "assistant", "content": ASKED}]),
        raw(f"{header('user')}\n\na{EOT}{header('user')}\n\nb{OPEN}"), raw(f"{header('system')}\n\na{OPEN}"), raw(header("assistant")),
        raw(f"{header('tool')}\n\na{OPEN}"), raw(f"{header('user')}\n\na{EOT}{header('assistant')}\n\nb{OPEN}"),
    ],
    "bad_system": [
        request(system="s"), request(system=[{"text": "a"}, {"text": "b"}]), request(system=[{"guardContent": {}}]), request(system=[{}]),
        request(system=["s"]), request(system=[{"cachePoint": {}}]), request(system={}),
    ],
    "no_text": [
        turns([]), turns("Hi"), turns([{"text": " \n"}]), turns([{"text": 3}]), turns([{"text": "\ud83d"}]), turns([{"cachePoint": {}}]),
        turns(ASKED, [{"text": ""}], ASKED), request(system=[{"text": ""}]), request(system=[{"text": None}]),
        raw(f"{header('user')}\n\n{OPEN}"), raw(f"{header('system')}\n\n \n{EOT}{header('user')}\n\nHi{OPEN}"), answer({"text": None}),
        turns(ASKED, [USE], [{"toolResult": {"toolUseId": "t", "content": [{"text": 1}]}}]),
        turns(ASKED, [USE], [{"toolResult": {"toolUseId": "t", "content": [{"json": "\ud83d"}]}}]),
    ],
    "several_texts": [turns([{"text": "a"}, {"text": "b"}]), answer({"text": "a"}, {"text": "b"})],
    "multimodal": [
        turns([{"image": {"format": "png"}}]), turns([{"text": "see"}, {"document": {}}]), raw(f"{header('user')}\n\n<|image|>Hi{OPEN}"),
        raw(f"{header('user')}\n\nHi{OPEN}", images=["aaaa"]), turns(ASKED, [USE], [{"toolResult": {"toolUseId": "t", "content": [{"image": {}}]}}]),
    ],
    "unknown_block": [
        turns(["Hi"]), turns([{}]), turns([{"guardContent": {}}]), turns([{"text": "a", "cachePoint": {}}]), turns([USE]),
        turns(ASKED, [RESULT], ASKED), answer({"citationsContent": {}}), turns(ASKED, [USE], [{"toolResult": {"toolUseId": "t", "content": [{"toolUse": 1}]}}]),
    ],
    "bad_tool": [
        request(toolConfig=[]), request(toolConfig={}), request(toolConfig={"tools": [{"systemTool": {"name": "search"}}]}), tool(name=""), tool(name=1),
        tool(description=1), tool(inputSchema=None), tool(inputSchema={"json": []}), tool(inputSchema={}), request(toolConfig={"tools": ["f"]}), tool(description="\ud83d"),
    ],
    "bad_tool_json": [tool(inputSchema={"json": {"a": DEEP}})],
    "bad_tool_use": [
        answer({"toolUse": {"toolUseId": "t", "name": "f", "input": {"a": "\ud83d"}}}),
        answer({"toolUse": {"name": "f", "input": {}}}), answer({"toolUse": {"toolUseId": "t", "input": {}}}), answer({"toolUse": None}),
        answer({"toolUse": {"toolUseId": "t", "name": "f", "input": "{}"}}), answer(USE, USE), answer({"toolUse": {"toolUseId": "t", "name": "", "input": {}}}),
    ],
    "bad_tool_result": [
        turns([RESULT]), turns(ASKED, [USE], ASKED), turns(ASKED, [USE], [RESULT, RESULT]), turns(ASKED, ASKED, [RESULT]),
        turns(ASKED, [USE], [{"toolResult": {"toolUseId": "u", "content": []}}]), turns(ASKED, [USE], [{"toolResult": {"toolUseId": "t"}}]),
        turns(ASKED, [USE], [{"toolResult": DEEP}]), turns(ASKED, [USE], [{"toolResult": {"toolUseId": 1, "content": []}}]),
    ],
    "unwritable_call": [turns(ASKED, [{"toolUse": {"toolUseId": "t", "name": "-x", "input": {}}}], [RESULT])],
    "too_deep": [
        answer({"toolUse": {"toolUseId": "t", "name": "f", "input": {"a": DEEP}}}),
        turns(ASKED, [USE], [{"toolResult": {"toolUseId": "t", "content": [{"json": DEEP}]}}]),
    ],
    "bad_output": [output({}), output("Hi"), output({"output": {"message": "Hi"}}), generation({}), generation({"generation": None}), generation("Hi")],
    "broken_stream": [
        output([DELTA, {"modelStreamErrorException": {"message": "x"}}]), output(["Hi"]), output([{}]), output([{"contentBlockDelta": None}]),
        output([{"contentBlockDelta": {"delta": "Hi"}}]), output([{"contentBlockDelta": {"delta": {"text": "Hi"}, "contentBlockIndex": "0"}}]),
        output([{"contentBlockDelta": {"delta": {"citation": {}}}}]), output([{"contentBlockStart": {"start": {"toolUse": {}}}}, DELTA, STOP]),
        output([{"contentBlockDelta": {"delta": {"toolUse": {"input": '{"a": '}}}}, STOP]), output([{"contentBlockDelta": {"delta": {"toolUse": {"input": {}}}}}]),
        generation([{"generation": "Hi"}, {"chunk": {"bytes": "e30="}}]), generation([None]),
    ],
    "truncated_reply": [answer({"text": "Hi"}, stop="max_tokens"), answer(stop="max_tokens"), generation({"generation": "Hi", "stop_reason": "length"})],
    "unfinished_reply": [
        answer({"text": "Hi"}, stop="guardrail_intervened"), answer({"text": "Hi"}, stop=None), answer({"text": "Hi"}, stop=["end_turn"]), output([DELTA]),
        generation({"generation": "Hi"}), generation([]), {**STREAM, "output": {"outputBodyJson": STREAM["output"]["outputBodyJson"][:-1]}},
    ],
    "empty_reply": [answer(), answer({"text": " "}), output([STOP]), generation({"generation": "\n", "stop_reason": "stop"})],
}  # fmt: skip
NOT_HIDDEN = parse_metadata_filter({"notEquals": {"hide": "yes"}}, where="filter")


def open_none(url: str) -> bytes:
    if url == "broken":
        return b'{"messages": '
    raise FileNotFoundError(url)


@pytest.mark.parametrize(
    ("reason", "line"),
    [
        pytest.param(reason, line, id=f"{reason}-{number}")
        for reason, lines in REJECTED.items()
        for number, line in enumerate(lines)
    ],
)
def test_each_reason_is_earned_and_the_rest_is_read(reason: str, line: Any) -> None:
    first, rejected, last = read(CONVERSE, line, RAW, metadata_filter=NOT_HIDDEN, open_body=open_none)
    assert isinstance(first, SourceRecord) and isinstance(last, SourceRecord)
    assert isinstance(rejected, Reject)
    assert rejected.source is not None
    assert (rejected.reason, rejected.source.line, rejected.source.offset) == (reason, 2, 200)
    assert 0 < len(rejected.detail) < 500
    assert rejected.detail.encode()


def test_a_prompt_is_not_lost_over_an_answer_that_nobody_wants() -> None:
    answers = "bad_output broken_stream truncated_reply unfinished_reply empty_reply".split()
    lines = [line for reason in answers for line in REJECTED[reason]]
    assert all(isinstance(result, SourceRecord) and result.reply is None for result in read(*lines, teacher=None))


def test_what_surrounds_the_content_is_passed_over() -> None:
    cache, thought = {"cachePoint": {"type": "default"}}, {"reasoningContent": {"reasoningText": {"text": "Hm."}}}
    tools = {"tools": [{"toolSpec": {"name": "f", "inputSchema": {"json": {}}}}, cache]}
    system = [{"type": "text", "text": "s"}, cache]
    record = request(toolConfig=tools, system=system, messages=[{"role": "user", "content": [{"text": "Hi"}, cache]}])
    events = [
        {"messageStart": {"role": "assistant"}},
        {"contentBlockDelta": {"contentBlockIndex": 0, "delta": {"reasoningContent": {"text": "Hm."}}}},
        {"contentBlockDelta": {"contentBlockIndex": 1, "delta": {"text": "Yes"}, "p": "abc"}},
        {**STOP, "amazon-bedrock-invocationMetrics": {"inputTokenCount": 3}},
    ]
    for body in ({"output": {"message": {"content": [thought, {"text": "Yes"}]}}, "stopReason": "end_turn"}, events):
        assert read({**record, "output": {"outputBodyJson": body}}) == [
            SourceRecord(
                (Message("system", "s"), Message("user", "Hi")), (Tool("f", "", {}),), LoggedReply("Yes", (), TEACHER),
                Source("logs", 1, 100, request_id(0)),
            )
        ]  # fmt: skip


def test_blocks_of_a_stream_may_interleave() -> None:
    events: list[Any] = [
        {
            "contentBlockDelta": {
                "contentBlockIndex": 1,
                "delta": {"toolUse": {"toolUseId": "t", "name": "f", "input": '{"a'}},
            }
        },
        {"contentBlockStart": {"contentBlockIndex": 0, "start": {"toolUse": {"toolUseId": "s", "name": "g"}}}},
        {"contentBlockDelta": {"contentBlockIndex": 1, "delta": {"toolUse": {"input": '": 1}'}}}},
        {"messageStop": {"stopReason": "tool_use"}},
    ]
    assert read_converse_reply(events).calls == (ToolCall("g", {}), ToolCall("f", {"a": 1}))


@pytest.mark.parametrize(
    ("model_id", "model"),
    [
        *((name, TEACHER) for name in TEACHERS_NAMES),
        (f"apac.{TEACHER}", TEACHER),
        (f"arn:aws:bedrock:eu-west-1:123456789012:inference-profile/global.{TEACHER}", TEACHER),
        ("us.zai.glm-4.6", "zai.glm-4.6"),
        ("deepseek.v3.2", "deepseek.v3.2"),
        ("ai21.jamba-1-5-mini-v1:0", "ai21.jamba-1-5-mini-v1:0"),
        ("us.model", "us.model"),
        ("", ""),
        *(
            (arn, arn)
            for kind in ("application-inference-profile/a1b2c3", f"custom-model/{TEACHER}/a1b2c3d4e5f6", "provisioned-model/a1", "prompt/P1:1")
            for arn in [f"arn:aws:bedrock:us-west-2:123456789012:{kind}"]
        ),
    ],
)  # fmt: skip
def test_a_model_has_one_id_however_it_was_called(model_id: str, model: str) -> None:
    assert normalise_model_id(model_id) == model
    assert normalise_model_id(model) == model
    assert is_same_model(model_id, TEACHER) == is_same_model(TEACHER, model_id) == (model == TEACHER)


@settings(max_examples=1000, deadline=None)
@given(
    name=st.text(max_size=20)
    | st.text("ab.-_2e0", max_size=64)
    | st.from_regex(r"[a-z]*(-_2e_-)*[_-]*[a-z.]*", fullmatch=True)
)
def test_every_name_that_fits_comes_back_from_bedrock(name: str) -> None:
    size = sum(4 + len(f"{ord(odd):x}") for odd in re.findall(r"[^a-zA-Z0-9_-]|-(?=_)", name))
    size += len(re.findall(r"[a-zA-Z0-9_]|-(?!_)", name))
    if not 1 <= size <= 64:
        with pytest.raises(DataError, match=f"{size} characters"):
            to_bedrock_name(name)
        return
    mapped = to_bedrock_name(name)
    assert len(mapped) == size
    assert re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", mapped)
    assert from_bedrock_name(mapped) == name
    if re.fullmatch(r"[a-zA-Z0-9_-]+", name) and "-_" not in name:
        assert mapped == name
    # What was never mapped stays, whatever it looks like: reading changes a name only into one that is written so.
    assert from_bedrock_name(name) == name or to_bedrock_name(from_bedrock_name(name)) == name


@pytest.mark.parametrize(
    "name",
    ["get_weather", "mcp__server__tool", "kb___Retrieve", "get-weather", "a-_b", "-_61_-", "x-_110000_-", "-_2E_-"],
)
def test_names_that_were_never_mapped_stay(name: str) -> None:
    assert from_bedrock_name(name) == name
    assert to_bedrock_name("math.factorial") == "math-_2e_-factorial"


@pytest.mark.parametrize(
    ("path", "is_log"),
    [
        (f"s3://bkt/p/{FOLDER}/us-west-2/2025/05/01/10/20250501T100000000Z_1a.json.gz", True),
        (f"s3://bkt/p/{FOLDER}/us-west-2/2025/05/01/10/data/{request_id(1)}_input.json.gz", False),
        (f"s3://bkt/p/{FOLDER}/us-west-2/2025/05/01/10/data/{request_id(1)}_output.json.gz", False),
        (f"s3://bkt/p/{FOLDER}/amazon-bedrock-logs-permission-check", False),
        (f"s3://bkt/p/{FOLDER}/amazon-bedrock-logs-permission-check.json", False),
        ("/data/logs/20250501T100000000Z_1a.json.gz", True),
        ("data/20250501T100000000Z_1a.json.gz", True),
    ],
)
def test_offloaded_bodies_and_markers_are_no_logs(path: str, is_log: bool) -> None:
    assert is_log_object(path) is is_log


def mutated(value: Any, random: Random) -> Any:
    """The value with one of its parts left out, doubled, or replaced by something else."""
    if not isinstance(value, dict | list) or not value or random.random() < 0.15:
        return random.choice(
            [
                None,
                True,
                0,
                1e999,
                "",
                " ",
                "\ud83d",
                "x",
                [],
                {},
                [{}],
                {"text": "x"},
                USE,
                RESULT,
                DELTA,
                "<|eot_id|>",
                value,
            ]
        )
    key = random.choice(list(value) if isinstance(value, dict) else range(len(value)))
    choice = random.random()
    if choice < 0.1:
        return (
            {k: v for k, v in value.items() if k != key} if isinstance(value, dict) else value[:key] + value[key + 1 :]
        )
    if choice < 0.2 and isinstance(value, list):
        return [*value, value[key]]
    changed = mutated(value[key], random)
    return {**value, key: changed} if isinstance(value, dict) else [*value[:key], changed, *value[key + 1 :]]


def test_no_mutated_line_raises_and_each_gives_one_result() -> None:
    random = Random(0)
    calls = [call for call in tree_calls() if len(call.turns[0].text) < 1000 and len(call.reply.text) < 1000]
    records = [*(log_record(call, number, random) for number, call in enumerate(calls)), *REJECTED["too_deep"]]
    reasons: set[str] = set()
    for _ in range(1000):
        lines = []
        for record in random.choices(records, k=20):
            changed = record
            for _ in range(random.randrange(1, 4)):
                changed = mutated(changed, random)
            line = bytearray(json.dumps(changed).encode())
            if random.random() < 0.2:
                line[random.randrange(len(line))] = random.randrange(256)
            lines.append(bytes(line).replace(b"\n", b" "))
        teacher = random.choice([None, TEACHER])
        found = read(*lines, teacher=teacher, metadata_filter=NOT_HIDDEN, open_body=open_none)
        assert [result.source.line for result in found if result.source] == [
            number for number, line in enumerate(lines, 1) if line.strip()
        ]
        for result in found:
            if isinstance(result, Reject):
                reasons.add(result.reason)
                assert result.detail.encode()
            else:
                assert result.messages[-1].role in ("user", "tool")
                assert all(message.content.strip() for message in result.messages if message.role != "tool")
                assert (result.reply is None) == (teacher is None)
    assert reasons <= REJECTED.keys()
    assert len(reasons) > 25
