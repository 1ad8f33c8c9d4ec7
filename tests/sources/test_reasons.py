"""Every reason for which a record can be rejected is earned by a small record, and code, page and tests know the same ones."""

from __future__ import annotations

import ast
import datetime
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from distill.config import PromptSource, SplitConfig
from distill.records import Message
from distill.sources.bedrock_jsonl import MAX_TURNS, SCHEMA_VERSION
from distill.sources.checks import PromptChecks, TokenLimit
from distill.sources.collect import RoleOfSource, collect
from distill.sources.files import MAX_LINE_BYTES
from distill.sources.inputs import open_source
from distill.sources.repeats import Repeats
from distill.sources.summary import Summary
from distill.validation import validate

ROOT = Path(__file__).parents[2]
MODEL = "meta.llama3-1-70b-instruct-v1:0"
FIND: dict[str, Any] = {
    "name": "find_film",
    "description": "Find a film.",
    "parameters": {"type": "dict", "properties": {"title": {"type": "string"}}, "required": ["title"]},
}
PYTHONIC = "Answer with [name1(parameter1=value1, ...), name2(...)]."
JSON_FORM = 'Answer with {"name": function name, "parameters": dictionary of argument name and its value}.'
DEEP: Any = 1
for _ in range(150):
    DEEP = {"a": DEEP}


@dataclass(frozen=True)
class Case:
    """Lines of which the second is a reject; what is read beside them and how, if a plain `distill validate` would not say it."""

    lines: Sequence[Any]
    file: str = "prompts.jsonl"
    settings: Mapping[str, Any] = field(default_factory=dict)
    beside: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    held_out: Sequence[Any] = ()
    max_tokens: int | None = None
    rejected: tuple[str, int] = ("prompts.jsonl", 2)


def bedrock(request: Any = "Find Heat.", *replies: str, tools: Any = (FIND,), form: str = "", **fields: Any) -> Any:
    texts = [request, *replies]
    turns = [
        {"role": ("user", "assistant")[number % 2], "content": [{"text": text}]} for number, text in enumerate(texts)
    ]
    listed = tools if isinstance(tools, str) else json.dumps(tools)
    return {
        "schemaVersion": SCHEMA_VERSION,
        "system": [{"text": f"{form}Tools: {listed}"}],
        "messages": turns,
        **fields,
    }


def nova(*messages: Any) -> Any:
    """A record whose tools stand in a field of their own."""
    spec = {"name": "find_film", "description": "Find a film.", "inputSchema": {"json": FIND["parameters"]}}
    tools = [{"toolSpec": spec}]
    return {"schemaVersion": SCHEMA_VERSION, "messages": list(messages), "toolConfig": {"tools": tools}}


def turn(role: str, *blocks: Any) -> Any:
    return {"role": role, "content": list(blocks)}


def chat(*more: Any, tools: Any = (FIND,), request: Any = "Find Heat.") -> Any:
    return {"messages": [{"role": "user", "content": request}, *more], "tools": tools}


def call(arguments: Any = "{}", name: str = "find_film") -> Any:
    calls = [{"id": "c", "type": "function", "function": {"name": name, "arguments": arguments}}]
    return {"role": "assistant", "content": None, "tool_calls": calls}


def question(text: Any = "Find Heat.", *, name: str = "q1", **fields: Any) -> Any:
    return {"id": name, "question": [[{"role": "user", "content": text}]], "function": [FIND], **fields}


def answer(name: str, title: str = "Heat") -> Any:
    return {"id": name, "ground_truth": [{"find_film": {"title": [title]}}]}


def header(name: str) -> str:
    return f"<|start_header_id|>{name}<|end_header_id|>\n\n"


def llama(request: str = "Find Heat.", rest: str = "") -> str:
    text = f"{header('system')}Tools: {json.dumps([FIND])}<|eot_id|>{header('user')}{request}<|eot_id|>"
    return f"<|begin_of_text|>{text}{header('assistant')}{rest}"


def log(prompt: Any = None, *, said: Any = None, **fields: Any) -> Any:
    """A log of InvokeModel with a raw prompt; an answer that is not given is a whole one."""
    generated = {"generation": "[find_film(title='Heat')]", "stop_reason": "stop"}
    return {
        "schemaType": "ModelInvocationLog", "schemaVersion": "1.0", "requestId": "r", "operation": "InvokeModel", "modelId": MODEL,
        "input": {"inputBodyJson": {"prompt": llama() if prompt is None else prompt}},
        "output": {"outputBodyJson": generated if said is None else said},
        **fields,
    }  # fmt: skip


def converse(said: Any) -> Any:
    body = {"system": [{"text": json.dumps([FIND])}], "messages": [turn("user", {"text": "Find Heat."})]}
    return {**log(said=said), "operation": "ConverseStream", "input": {"inputBodyJson": body}}


def without(value: Mapping[str, Any], key: str) -> Any:
    return {name: item for name, item in value.items() if name != key}


FIRST, LAST = bedrock("Find Ran."), bedrock("Find Dune.")
FIRST_LOG, LAST_LOG = log(llama("Find Ran.")), log(llama("Find Dune."))
FIRST_CHAT, LAST_CHAT = chat(request="Find Ran."), chat(request="Find Dune.")
FIRST_QUESTION, LAST_QUESTION = question("Find Ran.", name="q0"), question("Find Dune.", name="q2")
BFCL = "BFCL_v4_simple_python.json"
ANSWERS = f"possible_answer/{BFCL}"
IN_LOG = ("log.json", 2)
LONG = "Find a film about " + " ".join(f"thing{number}" for number in range(12))


def record(value: Any, **more: Any) -> Case:
    return Case([FIRST, value, LAST], **more)


def of_chat(value: Any, **more: Any) -> Case:
    return Case([FIRST_CHAT, value, LAST_CHAT], **more)


def of_log(value: Any, *, beside: Mapping[str, Sequence[Any]] | None = None, **settings: Any) -> Case:
    return Case([FIRST_LOG, value, LAST_LOG], "log.json", settings, beside or {}, rejected=IN_LOG)


def of_answer(value: Any) -> Case:
    """A log whose answers are used."""
    return of_log(value, use_prompt_response=True, logged_model=f"us.{MODEL}")


def of_bfcl(value: Any, *answers: Any, rejected: tuple[str, int] = (BFCL, 2)) -> Case:
    beside = {ANSWERS: answers} if answers else {}
    return Case([FIRST_QUESTION, value, LAST_QUESTION], BFCL, beside=beside, rejected=rejected)


def of_dataset(arguments: Any, schema: Any) -> Case:
    """Rows of a struct, so that every one has the members of all."""
    tool = {**FIND, "parameters": {"type": "dict", "properties": {"title": schema}, "required": []}}
    first, last = (chat(call({"title": title}), request=title) for title in ("Ran", "Dune"))
    return Case([first, chat(call(arguments), tools=[tool]), last], "dataset", rejected=("dataset", 2))


ANSWER, FIRST_ANSWER, LAST_ANSWER = answer("q1"), answer("q0", "Ran"), answer("q2", "Dune")
CASES: dict[str, Case] = {
    # A line that is no record.
    "invalid_json": record(b'{"schemaVersion": '),
    "line_too_long": record(b" " * MAX_LINE_BYTES + b"{}"),
    "repeated_key": record(b'{"schemaVersion": "a", "schemaVersion": "b"}'),
    "extra_field": record(bedrock(id=1)),
    "bad_schema_version": record(bedrock(schemaVersion="bedrock-conversion-2024")),
    # The conversation.
    "missing_messages": record(bedrock(messages=[])),
    "bad_system": record(bedrock(system="You call tools.")),
    "bad_role": record(bedrock(messages=[turn("human", {"text": "Find Heat."})])),
    "not_alternating": record(bedrock(messages=[turn("user", {"text": "Hi"}), turn("user", {"text": "Find Heat."})])),
    "multi_turn": record(bedrock("Find a film.", "Which one?", "Heat.")),
    "too_many_turns": record(bedrock(*["Yes."] * (MAX_TURNS + 1)), settings={"multi_turn": True}),
    "no_text": record(bedrock(" ")),
    "multimodal": record(bedrock(messages=[turn("user", {"image": {"format": "png"}})])),
    "several_texts": record(nova(turn("user", {"text": "Find"}, {"text": "Heat."}))),
    "unknown_block": record(nova(turn("user", {"guardContent": {}}))),
    "assistant_prefill": of_log(log(llama(rest="["))),
    "no_trained_turn": of_chat(chat({"role": "assistant", "content": "[]", "weight": 0})),
    "invalid_tags": record(bedrock("Find <|eot_id|> Heat.")),
    "too_long": record(bedrock("Find Heat. " * 99), max_tokens=500),
    # Its tools.
    "no_tools": record(bedrock(tools="none")),
    "bad_tool": of_chat(chat(tools=[{"type": "web_search"}])),
    "bad_tool_json": record(bedrock(tools='[{"name": "find_film", "parameters": {')),
    "duplicate_tool": record(bedrock(tools=[FIND, FIND])),
    "bad_tool_schema": record(bedrock(tools=[{**FIND, "parameters": {"properties": {"title": "string"}}}])),
    "required_not_in_properties": record(bedrock(tools=[{**FIND, "parameters": {"type": "dict", "properties": {}, "required": ["title"]}}])),
    "unknown_type": record(bedrock(tools=[{**FIND, "parameters": {"properties": {"title": {"type": "HashMap"}}}}])),
    # Its calls, their results and replies.
    "bad_tool_call": of_chat(chat(call("{"))),
    "bad_tool_use": record(nova(turn("user", {"text": "Find Heat."}), turn("assistant", {"toolUse": {"name": "find_film", "input": {}}}))),
    "bad_tool_result": of_chat(chat(call('{"title": "Heat"}'), {"role": "tool", "tool_call_id": "d", "content": "1995"})),
    "too_deep": of_chat(chat(call(DEEP))),
    "unwritable_call": of_chat(chat(call(name="find film"), tools=[{**FIND, "name": "find film", "parameters": {}}])),
    "answer_unparseable": record(bedrock("Find Heat.", "[find_film(title=Heat)]")),
    "calls_unknown_function": record(bedrock("Find Heat.", "[seek_film(title='Heat')]")),
    "invalid_answer": record(bedrock("Find Heat.", "[find_film(title=1995)]")),
    # What AWS's own recipe for function calling writes: BFCL's answers under a prompt that asks for a call.
    "reply_is_an_answer_set": record(bedrock("Find Heat.", '[{"find_film": {"title": ["Heat", ""]}}]', form=JSON_FORM)),
    "reply_in_another_format": record(bedrock("Find Heat.", '{"name": "find_film", "parameters": {"title": "Heat"}}', form=PYTHONIC)),
    # Logs.
    "not_an_invocation_log": of_log(log(schemaType="Other")),
    "bad_metadata": of_log(log(requestMetadata=["project"])),
    "metadata_filtered": of_log(log(requestMetadata={"hide": "yes"}), filters={"notEquals": {"hide": "yes"}}),
    "failed_call": of_log(without(log(errorCode="ThrottlingException"), "output")),
    "missing_model_id": of_log(without(log(), "modelId")),
    "model_mismatch": of_answer(log(modelId="amazon.nova-pro-v1:0")),
    "unknown_operation": of_log(log(operation="StartAsyncInvoke")),
    "missing_input": of_log(log(input={})),
    "missing_output": of_log(log(output={})),
    "missing_body": of_log(log(input={"inputBodyS3Path": "s3://bucket/data/none_input.json.gz"})),
    "bad_body": of_log(
        log(input={"inputBodyS3Path": "s3://bucket/data/broken_input.json"}), beside={"data/broken_input.json": [b'{"messages": ']}
    ),
    "unsupported_body": of_log(log(input={"inputBodyJson": {"inputText": "Find Heat."}})),
    "not_llama_prompt": of_log(log("\n\nHuman: Find Heat.\n\nAssistant:")),
    "broken_llama_prompt": of_log(log(f"{header('user')}Find Heat.{header('assistant')}")),
    "bad_output": of_answer(log(said={"outputText": "Heat"})),
    "broken_stream": of_answer(converse([{"modelStreamErrorException": {}}])),
    "truncated_reply": of_answer(log(said={"generation": "[find_film(", "stop_reason": "length"})),
    "unfinished_reply": of_answer(log(said={"generation": "Heat", "stop_reason": None})),
    "empty_reply": of_answer(log(said={"generation": " ", "stop_reason": "stop"})),
    # Data sets.
    "ambiguous_null": of_dataset({"title": None}, {}),
    "not_json": of_dataset({"title": "Heat", "day": datetime.datetime(1995, 12, 15)}, {"type": "string"}),
    # BFCL.
    "bad_question": of_bfcl(without(question(), "function")),
    "no_answer": of_bfcl(question(), FIRST_ANSWER, LAST_ANSWER),
    "bad_bfcl_answer": of_bfcl(question(), FIRST_ANSWER, {"id": "q3", "ground_truth": {}}, ANSWER, LAST_ANSWER, rejected=(ANSWERS, 2)),
    "answer_without_question": of_bfcl(question(), FIRST_ANSWER, answer("q3"), ANSWER, LAST_ANSWER, rejected=(ANSWERS, 2)),
    "other_language": Case([question()], "BFCL_v4_simple_java.json", rejected=("BFCL_v4_simple_java.json", 1)),
    # Prompts that repeat others.
    "duplicate": record(FIRST),
    "near_duplicate": record(bedrock("Could you please find Ran?")),
    "contaminated": record(bedrock(f"I am bored. {LONG}, please."), held_out=[bedrock(LONG)]),
}  # fmt: skip


@pytest.mark.parametrize("reason", CASES)
def test_each_reason_is_earned_and_the_other_records_are_accepted(reason: str, tmp_path: Path) -> None:
    case = CASES[reason]
    summary = summary_of(case, tmp_path)
    assert summary.reasons == {reason: 1}, summary.examples
    (reject,) = summary.examples[reason]
    assert reject.source is not None
    assert (str(Path(reject.source.path).relative_to(tmp_path)), reject.source.line) == case.rejected
    assert 0 < len(reject.detail) < 500
    num_read = len(case.lines) + len(case.held_out)
    assert summary.accepted == num_read - (case.rejected[0] == case.file)


def summary_of(case: Case, folder: Path) -> Summary:
    """What `distill validate` finds, or the stage where a reason needs settings that only a configuration has."""
    path = written(folder / case.file, case.lines)
    for name, lines in case.beside.items():
        written(folder / name, lines)
    if not case.held_out and case.max_tokens is None and case.settings.keys() <= {"multi_turn"}:
        return validate(
            [path],
            prompt_format=None,
            multi_turn=case.settings.get("multi_turn", False),
            near_duplicates=True,
            as_bedrock=False,
            advance=lambda num_bytes: None,
        )
    roles = [RoleOfSource(open_source(PromptSource(path=path, **case.settings), where="x", teacher=MODEL), "train")]
    if case.held_out:
        held_out = written(folder / "test.jsonl", case.held_out)
        roles.append(RoleOfSource(open_source(PromptSource(path=held_out), where="x", teacher=MODEL), "test", "own"))
    limit = None if case.max_tokens is None else TokenLimit(num_characters, case.max_tokens)
    checks = PromptChecks(group_by="request", token_limit=limit)
    repeats = Repeats(drop_near_duplicates=True, drop_contaminated=True)
    summary = Summary()
    for _ in collect(roles, checks, repeats, SplitConfig(validation_share=0.0), summary):
        pass
    return summary


def written(path: Path, lines: Sequence[Any]) -> str:
    """A file of lines, or a data set of rows where the name has no ending."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix:
        path.write_bytes(b"\n".join(line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines))
    else:
        Dataset.from_list(list(lines)).save_to_disk(str(path))
    return str(path)


def num_characters(messages: Sequence[Message]) -> int:
    return sum(len(message.content) for message in messages)


def test_code_page_and_tests_know_the_same_reasons() -> None:
    in_code = reasons_in_code()
    page = (ROOT / "docs" / "prompts.md").read_text(encoding="utf-8").partition("\n## Reasons\n")[2]
    on_page = re.findall(r"^\| `(\w+)` \| \S.*\S \|$", page, flags=re.MULTILINE)
    assert len(on_page) == len(set(on_page))
    assert in_code == set(on_page) == set(CASES)


MAKERS = ("RecordProblem", "WrongReply", "Repeat")
MODULES = [*sorted((ROOT / "distill" / "sources").glob("*.py")), ROOT / "distill" / "validation.py", ROOT / "distill" / "stages" / "prompts.py"]  # fmt: skip


def reasons_in_code() -> set[str]:
    """The words that stand in the first place wherever a problem is made, however they get there."""
    found: set[str] = set()
    for path in MODULES:
        module = ast.parse(path.read_text(encoding="utf-8"))
        functions = [node for node in ast.walk(module) if isinstance(node, ast.FunctionDef)]
        for function in functions:
            for node in calls_in(function, MAKERS):
                found |= words_of(node.args[0], function, module)
            for node in calls_in(function, ("Reject",)):
                reason = next(keyword.value for keyword in node.keywords if keyword.arg == "reason")
                found |= words_of(reason, function, module)
        assert len(list(calls_in(module, MAKERS))) == sum(len(list(calls_in(node, MAKERS))) for node in functions), path
    return found


def calls_in(tree: ast.AST, names: Sequence[str]) -> Iterator[ast.Call]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names:
            yield node


def words_of(value: ast.expr, function: ast.FunctionDef, module: ast.Module) -> set[str]:
    """The texts that an expression can be; none for a reason that is handed on from where another problem was made."""
    if isinstance(value, ast.Constant):
        return {str(value.value)}
    if isinstance(value, ast.IfExp):
        return words_of(value.body, function, module) | words_of(value.orelse, function, module)
    if isinstance(value, ast.JoinedStr):
        parts = [part.value if isinstance(part, ast.FormattedValue) else part for part in value.values]
        return {"".join(texts) for texts in product(*(words_of(part, function, module) for part in parts))}
    if isinstance(value, ast.Name):
        names = [argument.arg for argument in function.args.args]
        if value.id in names:
            place = names.index(value.id)
            given = [node.args[place] for node in calls_in(module, (function.name,))]
        else:
            given = [
                node.value for node in ast.walk(function) if isinstance(node, ast.Assign) and is_target(node, value.id)
            ]
        assert given, f"{function.name}: nothing says what {value.id} is"
        return {word for expression in given for word in words_of(expression, function, module)}
    handed_on = value.value if isinstance(value, ast.Starred) else value
    assert isinstance(handed_on, ast.Attribute) and handed_on.attr in ("reason", "problem"), ast.dump(value)
    return set()


def is_target(node: ast.Assign, name: str) -> bool:
    return any(isinstance(target, ast.Name) and target.id == name for target in node.targets)
