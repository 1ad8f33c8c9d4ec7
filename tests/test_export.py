"""What is exported is what the other tool reads: the student's own tokens where tools stand in the text, equal values where they do not."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
from datasets import Features, Json, List, Value, load_dataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolParam
from pydantic import TypeAdapter
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from distill.augmentation.rename import rename_tools
from distill.calls.render import render_calls
from distill.calls.schema import why_invalid
from distill.chat import example_ids
from distill.cli import app, call_cleanly
from distill.config import ConfigError
from distill.export import export_run
from distill.export_formats import Unwritable, convert
from distill.records import Example, JsonValue, Message, Prompt, Reject, Source, Split, Tool, ToolCall, content_id
from distill.run_dir import Stage, finish_stage, read_rows, start_stage, write_stage_rows
from distill.sources.bedrock_jsonl import read_bedrock_jsonl
from distill.sources.bedrock_names import from_bedrock_name
from distill.sources.files import Line
from distill.sources.record import SourceRecord
from distill.sources.tools_in_text import find_tools
from tests.bfcl_entertainment import DATA as BFCL_DATA
from tests.customer_world import customer_prompts, gold_example

FORMATS = [
    (name, tools)
    for name in ("openai", "trl", "axolotl", "bedrock")
    for tools in ("text", "native")
    if (name, tools) != ("bedrock", "native")
]
TRL_FEATURES = Features({"id": Value("string"), "prompt": List(Json()), "completion": List(Json()), "tools": Value("string")})  # fmt: skip
FILE_NUMBERS = itertools.count()

CURATED = [gold_example(prompt) for prompt in customer_prompts(24, seed=5)]
REFUSAL = replace(
    CURATED[0], id="refusal", reply="I cannot do that — nenni, \u2028 désolé 🙈", calls=(), category="irrelevance"
)
AFTER_A_RESULT = replace(
    CURATED[1],
    id="second turn",
    messages=(
        *CURATED[1].messages,
        Message("assistant", 'Let me look.\n[halls.find(city="Liège", near=None), clock.now()]'),
        Message("tool", '["Forum"]'),
        Message("tool", "12:30"),
        Message("assistant", "The Forum, at half past twelve."),
        Message("user", "  Book it then.\n"),
    ),
)


def renamed(examples: Sequence[Example]) -> list[Example]:
    made = [rename_tools(example, Random(index), seed=index) for index, example in enumerate(examples)]
    return [example for example in made if example is not None]


def as_prompt(example: Example, *, split: Split) -> Prompt:
    return Prompt(
        id=content_id(split, example.id), messages=example.messages, tools=example.tools, tools_span=example.tools_span,
        category=example.category, group="g", split=split, test_set="mine" if split == "test" else None, expected_calls=None,
        source=Source("prompts.jsonl", 1),
    )  # fmt: skip


def write_run(folder: Path, **rows: Sequence[Prompt | Example]) -> Path:
    """A run with these stages done."""
    stages: dict[str, Stage] = {"prompts": "prompts", "curate": "curate", "augment": "augment"}
    for name, records in rows.items():
        start_stage(folder, stages[name], {}, redo=False)
        write_stage_rows(folder, stages[name], records, [])
        finish_stage(folder, stages[name], counts={"rows": len(records)}, files=["rows.jsonl", "rejects.jsonl"])
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    validation = [replace(example, split="validation") for example in CURATED[20:]]
    return write_run(
        tmp_path / "run",
        prompts=[as_prompt(example, split="test") for example in CURATED[:4]],
        curate=[*CURATED[:20], REFUSAL, AFTER_A_RESULT, *validation],
        augment=[*CURATED[:20], *renamed(CURATED[:20])],
    )


def lines_of(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]


def read_with_datasets(path: Path, folder: Path, features: Features | None = None) -> list[Any]:
    """The rows as `datasets` gives them to TRL and axolotl."""
    cache = folder / f"cache{next(FILE_NUMBERS)}"
    return list(load_dataset("json", data_files=str(path), split="train", cache_dir=str(cache), features=features))


def conversation_of(row: Any, export_format: str) -> tuple[list[Any], Any]:
    """The prompt's messages and the reply of a line with tools in the text."""
    if export_format == "trl":
        return row["prompt"], row["completion"][0]
    if export_format == "bedrock":
        turns = [
            *({"role": "system", "content": [block]} for block in row.get("system", [])),
            *row["messages"],
        ]
        plain = [{"role": turn["role"], "content": turn["content"][0]["text"]} for turn in turns]
        return plain[:-1], plain[-1]
    return row["messages"][:-1], row["messages"][-1]


@pytest.mark.parametrize("export_format", ["openai", "trl", "axolotl", "bedrock"])
def test_with_tools_in_the_text_the_other_trainer_sees_the_students_tokens(
    export_format: str, run: Path, tmp_path: Path, llama_tokenizer: PreTrainedTokenizerFast
) -> None:
    files = export_run(run, export_format=export_format)
    assert [file.path.name for file in files] == [
        "prompts-test.jsonl", "curate-train.jsonl", "curate-validation.jsonl", "augment-train.jsonl",
    ]  # fmt: skip
    template: Any = llama_tokenizer.apply_chat_template
    for file in files[1:]:
        stage, split = file.path.stem.split("-")
        examples = [row for row in read_rows(run / stage / "rows.jsonl", Example) if row.split == split]
        unwritable = {AFTER_A_RESULT.id} if export_format in ("openai", "bedrock") else set()
        examples = [example for example in examples if example.id not in unwritable]
        with_datasets = export_format in ("trl", "axolotl")
        rows = read_with_datasets(file.path, tmp_path) if with_datasets else lines_of(file.path)
        assert len(rows) == len(examples) > 0
        for row, example in zip(rows, examples, strict=True):
            history, reply = conversation_of(row, export_format)
            assert [(turn["role"], turn["content"]) for turn in history] == [
                (m.role, m.content) for m in example.messages
            ]
            assert (reply["role"], reply["content"]) == ("assistant", example.reply)
            expected = example_ids(example.messages, example.reply, llama_tokenizer)
            whole = template([*history, reply], return_dict=False)
            prompt = template(history, add_generation_prompt=True, return_dict=False)
            assert whole == list(expected.input_ids) and whole[: len(prompt)] == prompt
            assert len(whole) - len(prompt) == sum(expected.loss_mask)
            if with_datasets:
                assert row["id"] == example.id


def test_only_the_reply_is_trained_where_earlier_turns_are_the_assistants(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", curate=[AFTER_A_RESULT])
    for tools in ("text", "native"):
        (file,) = export_run(run, export_format="axolotl", tools=tools)
        (row,) = lines_of(file.path)
        assert [turn["train"] for turn in row["messages"]] == [False] * 7 + [True]
    (file,) = export_run(run, export_format="openai", tools="native")
    (row,) = lines_of(file.path)
    assert [turn.get("weight") for turn in row["messages"] if turn["role"] == "assistant"] == [0, 0, None]
    assert all("weight" not in turn for turn in row["messages"] if turn["role"] != "assistant")


def test_prompts_have_no_reply_and_their_split_stays(run: Path) -> None:
    for export_format, tools in FORMATS:
        (file,) = export_run(run, export_format=export_format, tools=tools, stage="prompts", split="test")
        for row in lines_of(file.path):
            turns = row["prompt"] if export_format == "trl" else row["messages"]
            assert turns[-1]["role"] == "user" and "completion" not in row


def test_bedrock_lines_are_taken_by_our_validator_and_by_the_rules_of_aws(run: Path) -> None:
    for file in export_run(run, export_format="bedrock"):
        data = file.path.read_bytes().split(b"\n")[:-1]
        found = list(
            read_bedrock_jsonl([Line(n, 0, line) for n, line in enumerate(data, start=1)], name=file.path.name)
        )
        stage, split = file.path.stem.split("-")
        path = run / stage / "rows.jsonl"
        stored = list(read_rows(path, Prompt)) if stage == "prompts" else list(read_rows(path, Example))
        rows = [row for row in stored if row.split == split]
        rows = [row for row in rows if len(row.messages) == 2]
        assert len(found) == len(rows) == file.num_rows
        for record, row, line in zip(found, rows, data, strict=True):
            assert isinstance(record, SourceRecord), record
            assert record.messages == row.messages and find_tools(record.messages).tools == row.tools
            assert (record.reply.text if record.reply else None) == getattr(row, "reply", None)
            check_by_the_rules_of_aws(json.loads(line))


def check_by_the_rules_of_aws(record: Any) -> None:
    """The schema that Bedrock's own validator enforces, written out once more."""
    assert {"schemaVersion", "messages"} <= record.keys() <= {"schemaVersion", "system", "messages"}
    assert record["schemaVersion"] == "bedrock-conversation-2024"
    assert all(block.keys() == {"text"} for block in record.get("system", []))
    assert len(record.get("system", [None])) == 1
    assert [turn["role"] for turn in record["messages"]] in (["user"], ["user", "assistant"])
    for turn in record["messages"]:
        assert turn.keys() == {"role", "content"} and len(turn["content"]) == 1
        assert turn["content"][0].keys() == {"text"} and isinstance(turn["content"][0]["text"], str)


MESSAGES: TypeAdapter[Any] = TypeAdapter(list[ChatCompletionMessageParam])
TOOLS: TypeAdapter[Any] = TypeAdapter(list[ChatCompletionToolParam])


def test_native_openai_lines_have_the_types_of_its_api_and_every_result_its_call(run: Path) -> None:
    for file in export_run(run, export_format="openai", tools="native"):
        for row in lines_of(file.path):
            MESSAGES.validate_python([{k: v for k, v in turn.items() if k != "weight"} for turn in row["messages"]])
            TOOLS.validate_python(row["tools"])
            assert row.keys() == {"messages", "tools"}
            names = [tool["function"]["name"] for tool in row["tools"]]
            assert all(re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", name) for name in names)
            asked = [call["id"] for turn in row["messages"][:-1] for call in turn.get("tool_calls", [])]
            assert asked == [turn["tool_call_id"] for turn in row["messages"] if turn["role"] == "tool"]
            ids = [*asked, *(call["id"] for call in row["messages"][-1].get("tool_calls", []))]
            assert len(set(ids)) == len(ids)


def test_native_turns_say_what_the_text_said(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", curate=[AFTER_A_RESULT, REFUSAL])
    (file,) = export_run(run, export_format="trl", tools="native")
    row, refusal = read_with_datasets(file.path, tmp_path, TRL_FEATURES)
    system, _, calling, first, second, spoken, last = row["prompt"]
    span = AFTER_A_RESULT.tools_span
    assert span is not None
    text = AFTER_A_RESULT.messages[0].content
    assert system == {"role": "system", "content": text[: span.start] + text[span.end :]}
    assert (calling["content"], [call["function"] for call in calling["tool_calls"]]) == (
        "Let me look.",
        [{"name": "halls.find", "arguments": {"city": "Liège", "near": None}}, {"name": "clock.now", "arguments": {}}],
    )
    ids = [call["id"] for call in calling["tool_calls"]]
    assert first == {"role": "tool", "tool_call_id": ids[0], "name": "halls.find", "content": '["Forum"]'}
    assert second == {"role": "tool", "tool_call_id": ids[1], "name": "clock.now", "content": "12:30"}
    assert spoken == {"role": "assistant", "content": "The Forum, at half past twelve."}
    assert last == {"role": "user", "content": "  Book it then.\n"}
    assert refusal["completion"] == [{"role": "assistant", "content": REFUSAL.reply}]
    (reply,) = row["completion"]
    assert reply.keys() == {"role", "tool_calls"} and all(len(call["id"]) == 9 for call in reply["tool_calls"])


TEXTS = st.text(st.characters(codec="utf-8"), max_size=8) | st.sampled_from(
    ["", "null", "12", "2024-01-01", "\x00", "\x85", "\u2028", "\r\n", "\\", '"', "</s>", "🙈", "{}", "[]"]
)
NUMBERS = st.integers() | st.integers(-100, 100) | st.floats(allow_nan=False, allow_infinity=False)
VALUES: st.SearchStrategy[JsonValue] = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
ARGUMENTS = st.dictionaries(st.sampled_from(["a", "b", "größe", "x y", "type"]), VALUES, max_size=3)
NAMES = st.sampled_from(["f", "math.factorial", "g-h", "spärlich"])


@st.composite
def examples(draw: st.DrawFn) -> Example:
    """An example about tools whose schema holds any values, with calls that hold any values."""
    names = draw(st.lists(NAMES, min_size=1, max_size=2, unique=True))
    properties: Any = draw(st.dictionaries(TEXTS, st.builds(dict, default=VALUES, enum=st.lists(VALUES, max_size=2))))
    tools = tuple(Tool(name, draw(TEXTS), {"type": "dict", "properties": properties}) for name in names)
    calls = tuple(draw(st.lists(st.builds(ToolCall, st.sampled_from(names), ARGUMENTS), max_size=2)))
    reply = draw(TEXTS)
    return Example(
        id=draw(st.uuids()).hex, prompt_id="p", split="train",
        messages=(Message("system", draw(TEXTS)), Message("user", draw(TEXTS))), tools=tools, tools_span=None, category="simple",
        reply=render_calls(calls) if calls and names == ["f"] else reply, calls=calls, weight=1.0, lineage=None,
    )  # fmt: skip


def declared_name(name: str, export_format: str) -> str:
    return from_bedrock_name(name) if export_format == "openai" else name


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(rows=st.lists(examples(), min_size=1, max_size=6))
@pytest.mark.parametrize(("export_format", "tools"), FORMATS)
def test_values_come_back_exactly_through_the_tools_own_reader(
    export_format: str, tools: str, rows: list[Example], tmp_path_factory: pytest.TempPathFactory
) -> None:
    # `datasets` takes a file whose replies are nothing but dates for timestamps; one ordinary row shows it that they are texts.
    rows = [minimal(tools=(Tool("f", "", {"type": "dict", "properties": {}}),)), *rows]
    folder = tmp_path_factory.mktemp("values")
    (file,) = export_run(write_run(folder / "run", curate=rows), export_format=export_format, tools=tools)
    rejects_path = file.path.with_name("curate-train.rejects.jsonl")
    rejects = list(read_rows(rejects_path, Reject)) if file.rejects else []
    assert file.num_rows + len(rejects) == len(rows) and sum(file.rejects.values()) == len(rejects)
    assert {reject.reason for reject in rejects} <= {"inexact_number", "no_text"}
    kept = [row for row in rows if row.id not in {reject.id for reject in rejects}]
    if not kept:
        assert file.path.read_bytes() == b""
        return
    if export_format in ("trl", "axolotl"):
        native_trl = (export_format, tools) == ("trl", "native")
        found = read_with_datasets(file.path, folder, TRL_FEATURES if native_trl else None)
    else:
        found = lines_of(file.path)
    for line, example in zip(found, kept, strict=True):
        history, reply = conversation_of(line, export_format)
        assert [turn["content"] for turn in history] == [message.content for message in example.messages]
        if tools == "text" or not example.calls:
            assert reply["content"] == example.reply
        if tools == "native":
            check_values(line, reply, example, export_format)


def check_values(line: Any, reply: Any, example: Example, export_format: str) -> None:
    declared = line["tools"] if export_format == "openai" else json.loads(line["tools"])
    assert [declared_name(tool["function"]["name"], export_format) for tool in declared] == [
        t.name for t in example.tools
    ]
    for tool, own in zip(declared, example.tools, strict=True):
        assert tool["function"]["description"] == own.description
        assert exact(tool["function"]["parameters"]) == exact({**own.parameters, "type": "object"})
    calls = [call["function"] for call in reply.get("tool_calls") or []]
    assert [declared_name(call["name"], export_format) for call in calls] == [call.name for call in example.calls]
    for call, own_call in zip(calls, example.calls, strict=True):
        arguments = call["arguments"] if export_format == "trl" else json.loads(call["arguments"])
        assert exact(arguments) == exact(own_call.arguments)


def exact(value: Any) -> str:
    """A text that tells 1 from 1.0 and True, 0.0 from -0.0, and one order of keys from another."""
    return repr(value)


def minimal(*turns: Message, **changes: Any) -> Example:
    example = Example(
        id="x", prompt_id="p", split="train", messages=turns or (Message("user", "go"),), tools=(Tool("f", "", {}),),
        tools_span=None, category="simple", reply="[f()]", calls=(ToolCall("f", {}),), weight=1.0, lineage=None,
    )  # fmt: skip
    return replace(example, **changes)


ASKED = Message("user", "go")
CALLED = Message("assistant", "[f()]")
RESULT = Message("tool", "1")
UNWRITABLE: list[tuple[str, str, str, Example]] = [
    ("openai", "text", "tool_turn", minimal(ASKED, CALLED, RESULT)),
    ("openai", "native", "bad_tool_name", minimal(tools=(Tool("f" * 65, "", {}),))),
    ("openai", "native", "unpaired_tool_result", minimal(ASKED, CALLED, RESULT, RESULT)),
    ("openai", "native", "unpaired_tool_result", minimal(ASKED, CALLED, ASKED)),
    ("axolotl", "native", "unpaired_tool_result", minimal(ASKED, Message("assistant", "f it is"), RESULT)),
    ("trl", "native", "unpaired_tool_result", minimal(ASKED, CALLED)),
    ("openai", "native", "unwritable_value", minimal(calls=(ToolCall("f", {"x": float("inf")}),))),
    ("axolotl", "native", "unwritable_value", minimal(tools=(Tool("f", "", {"default": float("nan")}),))),
    ("trl", "native", "inexact_number", minimal(calls=(ToolCall("f", {"x": 1e-12}),))),
    ("trl", "native", "inexact_number", minimal(calls=(ToolCall("f", {"x": 2**64}),))),
    ("trl", "native", "inexact_number", minimal(calls=(ToolCall("f", {"x": -0.0}),))),
    ("bedrock", "text", "multi_turn", minimal(ASKED, CALLED, RESULT)),
    ("bedrock", "text", "multi_turn", minimal(ASKED, Message("system", "late"))),
    ("bedrock", "text", "no_text", minimal(Message("user", " \n"))),
    ("bedrock", "text", "no_text", minimal(reply="")),
    ("openai", "text", "lone_surrogate", minimal(Message("user", "\ud83d"))),
    ("trl", "text", "lone_surrogate", minimal(reply="\udc00")),
    ("axolotl", "native", "lone_surrogate", minimal(tools=(Tool("f", "\ud83d", {}),))),
    ("bedrock", "text", "lone_surrogate", minimal(Message("user", "\ud83d"))),
]


@pytest.mark.parametrize(("export_format", "tools", "reason", "example"), UNWRITABLE)
def test_what_a_format_cannot_carry_is_a_reject_with_its_reason(
    export_format: str, tools: str, reason: str, example: Example, tmp_path: Path
) -> None:
    good = minimal(id="good")
    (file,) = export_run(write_run(tmp_path, curate=[example, good]), export_format=export_format, tools=tools)
    (reject,) = read_rows(file.path.with_name("curate-train.rejects.jsonl"), Reject)
    assert (reject.id, reject.reason, bool(reject.detail)) == ("x", reason, True)
    assert (file.num_rows, file.rejects) == (1, {reason: 1})


def test_every_reason_has_its_minimal_row() -> None:
    words = re.findall(r"[a-z]+_[a-z_]+", (Unwritable.__doc__ or "").partition("\n\n")[2])
    assert {reason for _, _, reason, _ in UNWRITABLE} == set(words)


def schemas_in(schema: Any) -> Iterator[Any]:
    """A schema and those inside it, by the places where JSON Schema has schemas."""
    yield schema
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            yield from schemas_in(schema[key])
    for inner in schema.get("properties", {}).values():
        yield from schemas_in(inner)
    for key in ("anyOf", "oneOf", "allOf"):
        for inner in schema.get(key, []):
            yield from schemas_in(inner)


JSON_SCHEMA_TYPES = {"object", "array", "string", "number", "integer", "boolean", "null"}


@pytest.mark.parametrize("name", ["live_multiple", "live_irrelevance", "multiple", "parallel_multiple"])
def test_native_tools_of_bfcl_are_json_schema_and_allow_what_they_allowed(name: str) -> None:
    records = [json.loads(line) for line in (BFCL_DATA / f"BFCL_v4_{name}.json").read_text().splitlines()]
    for record in records:
        tools = tuple(Tool(f["name"], f["description"], f["parameters"]) for f in record["function"])
        line = json.loads(convert(minimal(tools=tools), export_format="axolotl", tools="native").line)
        for tool, declared in zip(tools, json.loads(line["tools"] or "[]"), strict=True):
            assert declared["function"]["name"] == tool.name
            parameters = declared["function"]["parameters"]
            for schema in schemas_in(parameters):
                types = schema.get("type", [])
                assert set(types if isinstance(types, list) else [types]) <= JSON_SCHEMA_TYPES, (record["id"], schema)
                assert isinstance(schema.get("required", []), list) and (types != "array" or "items" in schema)


@pytest.mark.parametrize(
    ("declared", "value", "wrong"),
    [("dict", {}, []), ("float", 1.5, "1.5"), ("tuple", [1], 1), ("integer", 1, 1.5), ("any", "x", None), (["string", "null"], None, 1)],
)  # fmt: skip
def test_a_respelled_type_allows_and_refuses_the_same(declared: Any, value: JsonValue, wrong: JsonValue) -> None:
    own = Tool("f", "", {"type": "dict", "properties": {"type": {"type": declared, "required": True}}})
    line = json.loads(convert(minimal(tools=(own,)), export_format="openai", tools="native").line)
    other = Tool("f", "", line["tools"][0]["function"]["parameters"])
    assert list(other.parameters["properties"]) == ["type"]  # type: ignore[arg-type]  # a parameter of that name
    for argument in (value, wrong):
        call = [ToolCall("f", {"type": argument})]
        assert (
            (why_invalid(call, [own]) is None)
            == (why_invalid(call, [other]) is None)
            == (argument == value or declared == "any")
        )


def test_what_is_left_out_is_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [replace(CURATED[0], id="a", weight=0.6), replace(CURATED[1], id="b", tools_span=None), REFUSAL]
    run = write_run(tmp_path / "run", curate=rows)
    assert distill("export", run, "--format", "openai", "--tools", "native") == 0
    (line,) = capsys.readouterr().out.splitlines()
    path = run / "export" / "openai-native" / "curate-train.jsonl"
    assert line == (
        f"{path}: 3 rows; 1 weigh less than 1 in the run, which the format cannot say; "
        "3 have tools under other names, because OpenAI takes letters, digits, _ and - only; "
        "1 keep the tool list in the text as well, because its place is not known exactly"
    )
    kept = lines_of(path)[1]["messages"][0]["content"]
    assert kept == CURATED[1].messages[0].content


def distill(*arguments: str | Path) -> int:
    return call_cleanly(lambda: app([str(argument) for argument in arguments], standalone_mode=False))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_file_that_would_change_needs_force_and_nothing_changes_without_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    first = write_run(
        tmp_path / "first", curate=[minimal()], augment=[minimal(), minimal(ASKED, CALLED, RESULT, id="y")]
    )
    second = write_run(tmp_path / "second", curate=[minimal()], augment=[minimal(id="other", reply="[f(a=1)]")])
    arguments = ("--format", "openai", "--out", out)
    assert distill("export", first, *arguments) == 0
    before = contents(out)
    assert set(before) == {"curate-train.jsonl", "augment-train.jsonl", "augment-train.rejects.jsonl"}
    assert distill("export", first, *arguments) == 0 and contents(out) == before
    capsys.readouterr()
    assert distill("export", second, *arguments) == 2
    out_text, error = capsys.readouterr()
    assert out_text == "" and "augment-train.jsonl: there already with other content; --force replaces it" in error
    assert contents(out) == before
    assert distill("export", second, *arguments, "--force") == 0
    assert set(contents(out)) == {"curate-train.jsonl", "augment-train.jsonl"}
    assert lines_of(out / "augment-train.jsonl")[0]["messages"][-1]["content"] == "[f(a=1)]"
    third = write_run(tmp_path / "third", curate=[minimal()], augment=[minimal(ASKED, CALLED, RESULT)])
    before = contents(out)
    with pytest.raises(ConfigError, match=r"augment-train\.jsonl: there already"):
        export_run(third, export_format="openai", out=out)
    assert contents(out) == before


def test_one_set_can_go_to_a_file(run: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    (file,) = export_run(run, export_format="trl", stage="augment", out=path)
    assert file.path == path and len(lines_of(path)) == file.num_rows == 40
    with pytest.raises(
        ConfigError, match=r"one file for the sets curate-train, curate-validation; add --stage and --split"
    ):
        export_run(run, export_format="trl", stage="curate", out=tmp_path / "other.jsonl")
    assert not list(tmp_path.glob("*other*"))


WRONG: list[tuple[list[str], str]] = [
    (["--format", "csv"], "--format csv: not known; allowed: openai, trl, axolotl, bedrock"),
    (["--format", "trl", "--stage", "train"], "--stage train: not known; allowed: prompts, curate, augment"),
    (["--format", "trl", "--split", "dev"], "--split dev: not known; allowed: train, validation, test"),
    (["--format", "trl", "--tools", "xml"], "--tools xml: not known; allowed: text, native"),
    (["--format", "bedrock", "--tools", "native"], "tools in the text only; use --tools text"),
    (["--format", "trl", "--stage", "augment"], "stage `augment` is not finished; run `distill augment`"),
    (["--format", "trl", "--stage", "curate", "--split", "test"], "curate have no rows in test"),
    (["--format", "trl", "--out", "/dev/null/x"], "/dev/null/x/curate-train.jsonl: cannot write there"),
]


@pytest.mark.parametrize(("arguments", "what"), WRONG)
def test_what_cannot_be_exported_is_refused_in_one_sentence(
    arguments: list[str], what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "run", curate=[minimal()])
    start_stage(run, "augment", {}, redo=False)
    write_stage_rows(run, "augment", [minimal()], [])
    assert distill("export", run, *arguments) == 2
    out, error = capsys.readouterr()
    assert out == "" and what in error and error.startswith("error: ") and "Traceback" not in error
    assert not (run / "export").exists()


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such run folder"):
        export_run(tmp_path / "none", export_format="trl")
    with pytest.raises(ConfigError, match="none of the stages prompts, curate, augment is finished"):
        export_run(tmp_path, export_format="trl")


CALL_TEMPLATE = (
    "{{ bos_token }}{% if tools %}{{ tools | tojson }}{% endif %}{% for message in messages %}"
    "<|start_header_id|>{{ message['role'] }}<|end_header_id|>\n\n"
    "{% if 'tool_calls' in message %}{% for call in message['tool_calls'] %}{{ call['function']['name'] }}"
    "{{ call['function']['arguments'] | tojson }}{% endfor %}{% else %}{{ message['content'] | trim }}{% endif %}<|eot_id|>"
    "{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)


def trained_text(example: Example) -> str:
    """What a template that prints arguments as JSON makes of the reply."""
    calls = [f"{call.name}{json.dumps(call.arguments, ensure_ascii=False)}" for call in example.calls]
    return "".join(calls or [example.reply]) + "<|eot_id|>"


def check_training_rows(
    rows: Sequence[Any], examples: Sequence[Example], tools: str, tokenizer: PreTrainedTokenizerFast
) -> None:
    for row, example in zip(rows, examples, strict=True):
        if tools == "text":
            expected = example_ids(example.messages, example.reply, tokenizer)
            pairs = zip(expected.input_ids, expected.loss_mask, strict=True)
            assert row["input_ids"] == list(expected.input_ids)
            assert row["labels"] == [token if trains else -100 for token, trains in pairs]
        else:
            trained = [label for label in row["labels"] if label != -100]
            assert tokenizer.decode(trained) == trained_text(example)
            assert row["input_ids"][-len(trained) :] == trained


@pytest.mark.parametrize("tools", ["text", "native"])
def test_trl_itself_trains_on_the_students_tokens(
    tools: str, run: Path, tmp_path: Path, llama_tokenizer: PreTrainedTokenizerFast
) -> None:
    trl: Any = pytest.importorskip("trl", reason="TRL is not installed")
    (file,) = export_run(run, export_format="trl", tools=tools, stage="curate", split="train")
    tokenizer = deepcopy(llama_tokenizer)
    tokenizer.chat_template = llama_tokenizer.chat_template if tools == "text" else CALL_TEMPLATE
    features = TRL_FEATURES if tools == "native" else None
    data = load_dataset(
        "json", data_files=str(file.path), split="train", cache_dir=str(tmp_path / "c"), features=features
    )
    shape = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1
    )
    arguments = trl.SFTConfig(output_dir=str(tmp_path / "o"), max_length=None, use_cpu=True, bf16=False, report_to=[])
    trainer = trl.SFTTrainer(
        model=LlamaForCausalLM(shape), processing_class=tokenizer, train_dataset=data, args=arguments
    )
    check_training_rows(list(trainer.train_dataset), [*CURATED[:20], REFUSAL, AFTER_A_RESULT], tools, tokenizer)


@pytest.mark.parametrize("tools", ["text", "native"])
def test_axolotl_itself_trains_on_the_students_tokens(
    tools: str, run: Path, tmp_path: Path, llama_tokenizer: PreTrainedTokenizerFast
) -> None:
    strategies: Any = pytest.importorskip("axolotl.prompt_strategies.chat_template", reason="axolotl is not installed")

    class Settings(dict[str, Any]):
        __getattr__ = dict.get

    (file,) = export_run(run, export_format="axolotl", tools=tools, stage="curate", split="train")
    tokenizer = deepcopy(llama_tokenizer)
    tokenizer.chat_template = llama_tokenizer.chat_template if tools == "text" else CALL_TEMPLATE
    strategy = strategies.load(
        tokenizer,
        Settings(
            sequence_len=8192, train_on_inputs=False, chat_template="tokenizer_default", eot_tokens=["<|eot_id|>"]
        ),
        {"message_field_training": "train"},
    )
    rows = [strategy.tokenize_prompt(row) for row in read_with_datasets(file.path, tmp_path)]
    check_training_rows(rows, [*CURATED[:20], REFUSAL, AFTER_A_RESULT], tools, tokenizer)
