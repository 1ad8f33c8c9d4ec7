"""Whatever stands in a line of any format, it is a prompt or a reject: nothing raises, nothing is lost, and every result can be written."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.config import PromptFormat, PromptSource, SplitConfig
from distill.records import Prompt, Reject, Tool
from distill.run_dir import row_line
from distill.sources.bedrock_jsonl import SCHEMA_VERSION
from distill.sources.checks import PromptChecks, TokenLimit
from distill.sources.collect import RoleOfSource, collect
from distill.sources.inputs import open_source, tell_format
from distill.sources.repeats import Repeats
from distill.sources.summary import Summary, table_lines
from distill.validation import validate
from tests.sources.log_tree import OPERATIONS, Call, Turn, log_record
from tests.sources.test_bedrock_jsonl import CALL, LINES, NOVA, RESULT, USER
from tests.sources.test_chat_jsonl import CALLS, TOOLS, calls, function, of
from tests.sources.test_invocation_logs import SEVERAL_TURNS, TEACHER, mutated

NUM_LINES = 25_000
FORMATS: tuple[PromptFormat, ...] = ("bedrock", "logs", "chat", "bfcl")
NAMES: dict[PromptFormat, str] = {
    "bedrock": "prompts.jsonl", "chat": "prompts.jsonl", "logs": "log.json", "bfcl": "BFCL_v4_simple_python.json"
}  # fmt: skip
FIND: dict[str, Any] = {
    "name": "films.find", "description": "Find a film.",
    "parameters": {
        "type": "dict", "required": ["title"],
        "properties": {
            "title": {"type": "string", "minLength": 1, "pattern": "^[A-Z]"},
            "years": {"type": "array", "items": {"type": "integer", "minimum": 1900}, "uniqueItems": True},
            "place": {"anyOf": [{"$ref": "#/$defs/place"}, {"type": "null"}]},
        },
        "$defs": {"place": {"type": "object", "properties": {"city": {"type": "string", "enum": ["Oslo", "Rome"]}}, "required": ["city"]}},
    },
}  # fmt: skip
NOW: dict[str, Any] = {"name": "now", "description": "The time.", "parameters": {"type": "object", "properties": {}}}
REQUESTS = (
    "Find Heat.",
    "Could you please find Heat of 1995 in Oslo?",
    "Find Ran\nand tell the time",
    "Was läuft heute? ☃",
)
REPLIES = (
    '[films.find(title="Heat", years=[1995], place={"city": "Oslo"})]', "[now(), films.find(title='Ran')]", "[]", "None of them fits.",
    '{"name": "now", "parameters": {}}', '[{"films.find": {"title": ["Heat", ""]}}]', '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>',
    "[films.find(title='Heat'",
)  # fmt: skip
CONTRACTS = (
    "", "Write [name1(parameter1=value1, ...)].", 'Answer as {"name": function name, "parameters": {}}.', "Use <tool_call> tags.",
)  # fmt: skip
PIECES = (
    b"", b"", b"0", b'"', b"'", b"\\", b"{}", b"[]", b"null", b"true", b"NaN", b"-1e999", b"\xff", b"\xed\xa0\x80", b"\\ud83d", b"\\\\ud83d", b"\\u0000",
    b"\n", b"\r", b"\\n", b"<|eot_id|>", b"[INST]", b"[" * 200, b'{"a":' * 200, b"9" * 5000, b"text", b"toolUse", b"parameters",
)  # fmt: skip


def tools_text(random: Random) -> str:
    """Tools as they stand in texts, sound or not, in every layout that is read."""
    tools: Any = [FIND, NOW][: random.choice((1, 1, 2))]
    if random.random() < 0.5:
        tools = mutated(tools, random)
    wrapped = [{"type": "function", "function": tool} for tool in tools] if isinstance(tools, list) else tools
    written = (
        json.dumps(tools), json.dumps(wrapped, ensure_ascii=False), json.dumps(tools, indent=4), repr(tools),
        "\n".join(map(json.dumps, tools)) if isinstance(tools, list) else str(tools),
    )  # fmt: skip
    return f"{random.choice(CONTRACTS)}\nTools:\n{random.choice(written)}\n"


def bedrock(random: Random) -> Any:
    turns: list[Any] = [{"role": "user", "content": [{"text": random.choice(REQUESTS)}]}]
    if random.random() < 0.6:
        turns.append({"role": "assistant", "content": [{"text": random.choice(REPLIES)}]})
    if random.random() < 0.3:
        return {**NOVA, "messages": random.choice(([USER, CALL], [USER], [USER, CALL, RESULT], turns))}
    return {"schemaVersion": SCHEMA_VERSION, "system": [{"text": tools_text(random)}], "messages": turns}


def log(random: Random) -> Any:
    operation = random.choice(OPERATIONS)
    tools = (Tool("films.find", "Find a film.", FIND["parameters"]), Tool("now", "", {}))
    call = Call(
        operation,
        random.choice(((Turn(random.choice(REQUESTS)),), SEVERAL_TURNS)),
        Turn(random.choice(REPLIES)),
        system=tools_text(random),
        tools=tools if random.random() < 0.3 and operation.startswith("Converse") else None,
    )
    return log_record(call, random.randrange(1000), random)


def chat(random: Random) -> Any:
    request = {"role": "user", "content": random.choice(REQUESTS)}
    if random.random() < 0.5:
        reply = random.choice((CALLS, calls(function({"title": "Heat"}), function("{}", name="now"))))
        tools = random.choice((TOOLS, json.dumps(TOOLS), [FIND, NOW]))
        return of(request, *random.choice(([], [reply])), tools=tools)
    reply = {"role": "assistant", "content": random.choice(REPLIES)}
    return of({"role": "system", "content": tools_text(random)}, request, *random.choice(([], [reply])))


def bfcl(random: Random) -> Any:
    turns = [[{"role": "user", "content": random.choice(REQUESTS)}]]
    return {"id": f"simple_python_{random.randrange(100)}", "question": turns, "function": [FIND, NOW]}


def bfcl_answer(random: Random) -> Any:
    expected = {"films.find": {"title": ["Heat", "heat"], "years": [[1995], ""]}}
    return {"id": f"simple_python_{random.randrange(100)}", "ground_truth": [expected]}


MAKE = {"bedrock": bedrock, "logs": log, "chat": chat, "bfcl": bfcl, "answers": bfcl_answer}


def mutated_line(kind: str, random: Random) -> bytes:
    """A good record with parts of its JSON swapped, left out or doubled, then bytes flipped, cut, put in or doubled."""
    value = MAKE[kind](random)
    for _ in range(random.choice((0, 0, 1, 1, 2, 3))):
        value = mutated(value, random)
    data = bytearray(json.dumps(value, ensure_ascii=random.random() < 0.5).encode("utf-8", "surrogatepass"))
    for _ in range(random.choice((0, 0, 1, 1, 2, 5))):
        if not data:
            break
        start = random.randrange(len(data))
        end = min(len(data), start + random.choice((0, 1, 1, 2, 8, 40, 1000)))
        if random.random() < 0.3:
            data[start] ^= 1 << random.randrange(8)
        else:
            data[start:end] = random.choice((*PIECES, bytes(data[start:end]) * 2))
    return bytes(data)


def write_lines(path: Path, lines: list[bytes]) -> list[int]:
    """Numbers of the lines that are not blank; a mutated one may have become several."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = b"\n".join(lines)
    path.write_bytes(data)
    return [number for number, line in enumerate(data.split(b"\n"), start=1) if line.strip()]


def nothing(num_bytes: int) -> None:
    """No progress is shown."""


@pytest.mark.slow
@pytest.mark.parametrize("prompt_format", FORMATS)
def test_100_000_mutated_lines_are_prompts_or_rejects(prompt_format: PromptFormat, tmp_path: Path) -> None:
    random = Random(f"lines {prompt_format}")
    path = tmp_path / NAMES[prompt_format]
    numbers = write_lines(path, [mutated_line(prompt_format, random) for _ in range(NUM_LINES)])
    as_bedrock = prompt_format == "bedrock"
    summary = validate([str(path)], prompt_format=prompt_format, as_bedrock=as_bedrock, advance=nothing)
    assert summary.accepted + summary.rejected == len(numbers) >= NUM_LINES * 0.99
    # Mutations that break everything or nothing would show nothing.
    assert summary.accepted > 20 and len(summary.reasons) > 15, summary.reasons
    "\n".join(table_lines(summary)).encode()


@pytest.mark.slow
@pytest.mark.parametrize("prompt_format", FORMATS)
def test_every_result_of_mutated_lines_can_be_written_and_names_its_line(
    prompt_format: PromptFormat, tmp_path: Path
) -> None:
    random = Random(f"written {prompt_format}")
    roles: list[tuple[RoleOfSource, list[int]]] = []
    num_answers = 0
    for split in (None, "test", "validation", "train"):
        path = tmp_path / str(split) / NAMES[prompt_format]
        numbers = write_lines(path, [mutated_line(prompt_format, random) for _ in range(2_500)])
        if prompt_format == "bfcl":
            answers = [mutated_line("answers", random) for _ in range(2_500)]
            num_answers += len(write_lines(path.parent / "possible_answer" / path.name, answers)) * (split is not None)
        source = PromptSource(
            path=str(path), format=prompt_format, use_prompt_response=prompt_format == "logs" and split == "train"
        )
        roles.append((RoleOfSource(open_source(source, where="fuzz", teacher=TEACHER), split), numbers))
    checks = PromptChecks(
        group_by="request",
        token_limit=TokenLimit(lambda messages: sum(len(m.content.encode()) for m in messages) // 4, 300),
    )
    repeats = Repeats(drop_near_duplicates=True, drop_contaminated=True)
    summary = Summary()
    found: Counter[tuple[str, int]] = Counter()
    for result in collect([role for role, _ in roles], checks, repeats, SplitConfig(group_by="request"), summary):
        line = row_line(result)
        if isinstance(result, Prompt):
            "".join(message.content for message in result.messages).encode()  # a tokenizer takes nothing else
        again = Reject if isinstance(result, Reject) else Prompt
        assert row_line(again.from_json(json.loads(line))) == line
        assert result.source is not None
        found[result.source.path, result.source.line] += 1
    of_answers = sum(count for (path, _), count in found.items() if "possible_answer" in path)
    lines = {(role.opened.source.path, number) for role, numbers in roles if role.split for number in numbers}
    assert {place: count for place, count in found.items() if "possible_answer" not in place[0]} == dict.fromkeys(
        lines, 1
    )
    assert of_answers <= num_answers and (of_answers > 0) == (prompt_format == "bfcl")
    assert summary.accepted + summary.rejected == len(lines) + of_answers
    assert summary.accepted > 20 and len(summary.reasons) > 15, summary.reasons


@settings(max_examples=60, deadline=None)
@given(
    lines=st.lists(
        LINES | st.randoms(use_true_random=False).map(lambda random: mutated_line("bedrock", random)), max_size=5
    ),
    prompt_format=st.sampled_from(FORMATS),
    near_duplicates=st.booleans(),
)
def test_no_lines_of_another_format_raise(
    lines: list[bytes], prompt_format: PromptFormat, near_duplicates: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / NAMES[prompt_format]
    numbers = write_lines(path, lines)
    summary = validate([str(path)], prompt_format=prompt_format, near_duplicates=near_duplicates, advance=nothing)
    assert summary.accepted + summary.rejected == len(numbers)
    assert isinstance(
        tell_format(list(open_source(PromptSource(path=str(path), format="bedrock"), where="x", teacher="").files)), str
    )
