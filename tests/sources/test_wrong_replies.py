"""A reply that its own prompt forbids is named; the labels of AWS's function-calling recipe above all."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from distill.calls.parse import CALL_FORMATS, CallFormat, ParseError
from distill.calls.render import render_calls
from distill.embedded.conventions import CONTRACTS
from distill.records import Message, Tool, ToolCall
from distill.sources.tools_in_text import find_tools
from distill.sources.wrong_replies import demanded_format, read_reply, why_wrong_calls, why_wrong_reply

BFCL = Path(__file__).parents[3] / "shared" / "data" / "bfcl"
FIND = {
    "name": "find_film",
    "description": "Find a film.",
    "parameters": {"type": "dict", "properties": {"title": {"type": "string"}, "year": {"type": "integer"}}},
}
TOOLS = (Tool("find_film", "Find a film.", {}), Tool("now", "", {}))
CALLS = (ToolCall("find_film", {"title": "Heat", "years": [1995], "exact": True}),)


def recipe_messages(functions: Any, question: str) -> list[Message]:
    """A prompt as AWS's recipe lays it out: an f-string puts the list there as Python prints it, inside brackets of its own."""
    system = (
        "You help users with the tools available to you.\n    Answer with a JSON for a function call.\n\n    Functions:\n"
        f"    <tools>\n    [\n    {functions}\n    ]\n    </tools>\n\n    Instructions:\n    - Respond in the format "
        '{"name": function name, "parameters": dictionary of argument name and its value}.\n    - ONLY output the JSON.'
    )
    return [Message("system", system), Message("user", question)]


def why(reply: str, messages: list[Message] | None = None) -> str | None:
    wrong = why_wrong_reply(reply, messages=messages or [Message("user", "Find Heat.")], tools=TOOLS)
    return None if wrong is None else wrong.reason


def test_the_label_of_awss_recipe_is_named() -> None:
    messages = recipe_messages([FIND], "Find Heat of 1995.")
    tools = find_tools(messages).tools
    label = json.dumps([{"find_film": {"title": ["Heat"], "year": [1995, ""]}}])
    wrong = why_wrong_reply(label, messages=messages, tools=tools)
    assert wrong is not None and wrong.reason == "reply_is_an_answer_set"
    assert "acceptable answers" in wrong.detail and label in wrong.detail
    right = '{"name": "find_film", "parameters": {"title": "Heat", "year": 1995}}'
    assert why_wrong_reply(right, messages=messages, tools=tools) is None
    assert why_wrong_reply("[]", messages=messages, tools=tools) is None  # its label where nothing is to be called
    pythonic = why_wrong_reply('[find_film(title="Heat")]', messages=messages, tools=tools)
    assert pythonic is not None and pythonic.reason == "reply_in_another_format"


@pytest.mark.skipif(not BFCL.is_dir(), reason="BFCL's data is not beside the repository")
def test_every_label_that_the_recipe_makes_of_bfcl_is_named() -> None:
    reasons: Counter[str] = Counter()
    for name in ("simple_python", "multiple"):
        questions = (BFCL / f"BFCL_v4_{name}.json").read_text().splitlines()
        answers = (BFCL / "possible_answer" / f"BFCL_v4_{name}.json").read_text().splitlines()
        for question, answer in zip(map(json.loads, questions), map(json.loads, answers), strict=True):
            messages = recipe_messages(question["function"], question["question"][0][0]["content"])
            tools = find_tools(messages).tools
            assert [tool.name for tool in tools] == [function["name"] for function in question["function"]]
            wrong = why_wrong_reply(json.dumps(answer["ground_truth"]), messages=messages, tools=tools)
            reasons["none" if wrong is None else wrong.reason] += 1
    assert reasons == {"reply_is_an_answer_set": 600}


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (str([{"find_film": {"title": ["Heat"], "year": [None, ""]}}]), "reply_is_an_answer_set"),
        ('{"find_film": {"title": ["Heat"]}}', "reply_is_an_answer_set"),
        ('[{"now": {}}]', "reply_is_an_answer_set"),
        ('[{"find_book": {"title": ["Heat"]}}]', "answer_unparseable"),
        ('[{"find_film": {"title": "Heat"}}]', "answer_unparseable"),
        ('[find_film(title="Heat")', "answer_unparseable"),
        ("[find_film('Heat')]", "answer_unparseable"),
        ('Sure: find_film(title="Heat")', "answer_unparseable"),
        ('{"name": "find_film"}', "answer_unparseable"),
        ("[" * 1000, "answer_unparseable"),
        ("[find_book(title='Heat'), find_film()]", "calls_unknown_function"),
        ('{"name": "find_book", "parameters": {}}', "calls_unknown_function"),
        ("[find_film(title='Heat'), now()]", None),
        ("[]", None),
        ("No film is called so.", None),
        ("", None),
    ],
)
def test_each_wrong_reply_has_its_word(reply: str, reason: str | None) -> None:
    assert why(reply) == reason


@pytest.mark.parametrize("written", CALL_FORMATS)
def test_calls_are_read_in_every_format_and_only_the_demanded_one_may_be_taught(written: CallFormat) -> None:
    reply = render_calls(CALLS, written)
    assert read_reply(reply) == (CALLS, written)
    assert why(reply) is None
    for demanded, contracts in CONTRACTS.items():
        for contract in contracts:
            messages = [
                Message("system", f"You call tools. {contract}\n{json.dumps([FIND], indent=4)}"),
                Message("user", "Heat?"),
            ]
            named = demanded_format(messages)
            assert named in (demanded, None)
            expected = "reply_in_another_format" if named is not None and written != demanded else None
            assert why(reply, messages) == expected
            assert why("[]", messages) is None


def test_metas_and_bfcls_contract_lines_are_known() -> None:
    lines: dict[CallFormat, str] = {
        "pythonic": "you MUST put it in the format of [func_name1(params_name1=params_value1, params_name2=params_value2...), func_name2(params)]",
        "llama_json": 'Respond in the format {"name": function name, "parameters": dictionary of argument name and its value}.Do not use variables.',
        "function_tag": '<function=example_function_name>{"example_name": "example_value"}</function>',
        "hermes": '<tool_call>\n{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>',
    }
    for demanded, line in lines.items():
        assert demanded_format([Message("system", line), Message("user", json.dumps(FIND))]) == demanded
    assert demanded_format([Message("system", " or ".join(lines.values()))]) is None
    assert demanded_format([Message("system", json.dumps([FIND, {"name": "now", "parameters": {}}]))]) is None


def test_calls_that_a_source_keeps_apart_are_checked_alike() -> None:
    assert why_wrong_calls(CALLS, tools=TOOLS) is None
    wrong = why_wrong_calls([*CALLS, ToolCall("find_book", {})], tools=TOOLS)
    assert wrong is not None and wrong.reason == "calls_unknown_function" and "'find_book'" in wrong.detail
    with pytest.raises(ParseError):
        read_reply("[find_film(")
