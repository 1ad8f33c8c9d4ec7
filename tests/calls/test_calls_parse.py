"""Reading model text: what is accepted, what each refusal is called and where it stands, and that no text does any harm."""

from __future__ import annotations

import json
import math
import pickle
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import distill.calls
from distill.calls.bounds import MAX_DEPTH, MAX_INT_BITS, MAX_TEXT_CHARS
from distill.calls.canonical import canonical_value
from distill.calls.match import score_text
from distill.calls.parse import CALL_FORMATS, CallFormat, ParseError, ParseMode, parse_calls
from distill.calls.render import render_calls, render_value
from distill.records import DataError, ExpectedCall, Tool, ToolCall

MODES = get_args(ParseMode)


def _strict(text: str, call_format: CallFormat = "pythonic") -> tuple[ToolCall, ...]:
    return parse_calls(text, mode="strict", call_format=call_format)


def _error(text: str, mode: ParseMode = "strict", call_format: CallFormat = "pythonic") -> ParseError:
    with pytest.raises(ParseError) as caught:
        parse_calls(text, mode=mode, call_format=call_format)
    assert 0 <= caught.value.position <= len(text)
    assert caught.value.message
    return caught.value


# --- strict, pythonic


@pytest.mark.parametrize(
    ("literal", "value"),
    [
        ("1", 1),
        ("-1", -1),
        ("+1", 1),
        ("- -1", 1),
        ("1_000", 1000),
        ("0x1F", 31),
        ("0b11", 3),
        ("0o17", 15),
        ("0", 0),
        ("1.5", 1.5),
        (".5", 0.5),
        ("5.", 5.0),
        ("1e3", 1000.0),
        ("1E-3", 0.001),
        ("-1e999", -math.inf),
        ("1 + 2*3", 7),
        ("2*3 + 1", 7),
        ("(1+2)*3", 9),
        ("10 - 3 - 2", 5),
        ("2**3**2", 512),
        ("-2**2", -4),
        ("2**-1", 0.5),
        ("7//2%2", 1),
        ("1/4", 0.25),
        ("60*60*24", 86400),
        ("None", None),
        ("True", True),
        ("False", False),
        ("'a'", "a"),
        ('"it\'s"', "it's"),
        (r'"a\"b\\c\n\t\x41\u00e9\U0001F600\N{BULLET}\101\q"', 'a"b\\c\n\tAé😀•A\\q'),
        ('"a\\\nb"', "ab"),
        ('"""a"b\nc"""', 'a"b\nc'),
        ("'''a'''", "a"),
        (r'r"\d+"', r"\d+"),
        ('u"é"', "é"),
        ("[]", []),
        ("[1, [2, []],]", [1, [2, []]]),
        ("(1, 2)", [1, 2]),
        ("(1,)", [1]),
        ("()", []),
        ("(1)", 1),
        ("{}", {}),
        ("{'a': {'b': [None]}, \"c\": -1,}", {"a": {"b": [None]}, "c": -1}),
    ],
)
def test_a_literal_is_read_as_python_does(literal: str, value: Any) -> None:
    ((name, arguments),) = [(call.name, call.arguments) for call in _strict(f"[f(x={literal})]")]
    assert (name, repr(arguments)) == ("f", repr({"x": value}))


@pytest.mark.parametrize(
    ("text", "calls"),
    [
        ("[]", []),
        (" [ ]\n", []),
        ("[f()]", [("f", {})]),
        ("[f(a=1), a.b.c(x='y', z=[1])]", [("f", {"a": 1}), ("a.b.c", {"x": "y", "z": [1]})]),
        ("\n[\n f( a = 1 ,\n b = 2, ) ,\n]\n", [("f", {"a": 1, "b": 2})]),
        ("[get-weather(from='x', user-id=2)]", [("get-weather", {"from": "x", "user-id": 2})]),
        ("[f(a=1, **{'b c': 2, 'd': 3}, e=4)]", [("f", {"a": 1, "b c": 2, "d": 3, "e": 4})]),
    ],
)
def test_a_list_of_calls_is_read(text: str, calls: Any) -> None:
    assert [(call.name, call.arguments) for call in _strict(text)] == calls
    assert [list(call.arguments) for call in _strict(text)] == [list(arguments) for _, arguments in calls]


@pytest.mark.parametrize(
    ("text", "reason", "position"),
    [
        ("", "empty", 0),
        (" \n", "empty", 2),
        ("I would call f.", "not_a_list", 0),
        ("f(a=1)", "not_a_list", 0),
        ("```[f(a=1)]```", "not_a_list", 0),
        ("[f(a=1)] Done.", "text_around", 9),
        ("[f()], [g()]", "text_around", 5),
        ("[f()]]", "text_around", 5),
        ("[", "unterminated", 1),
        ("[f", "unterminated", 2),
        ("[f(", "unterminated", 3),
        ("[f(a", "unterminated", 4),
        ("[f(a=", "unterminated", 5),
        ("[f(a=Tru", "unterminated", 5),
        ("[f(a='x", "unterminated", 5),
        ("[f(a='''x'", "unterminated", 5),
        ("[f(a=[1, ", "unterminated", 9),
        ("[f(a={'x'", "unterminated", 9),
        ("[f(a={'x': ", "unterminated", 11),
        ("[f(a=1)", "unterminated", 7),
        ("[f(a=1), ", "unterminated", 9),
        ("[f(a=1 +", "unterminated", 8),
        ("[f(**", "unterminated", 5),
        ("[f(*", "unterminated", 4),
        ("[1]", "not_a_call", 1),
        ("['f(a=1)']", "not_a_call", 1),
        ("[f]", "not_a_call", 1),
        ("[f.g[0]()]", "not_a_call", 1),
        ("[,]", "not_a_call", 1),
        ("[f(1)]", "positional_argument", 3),
        ("[f(a=1, 'x')]", "positional_argument", 8),
        ("[f(a==1)]", "positional_argument", 3),
        ("[f(*x)]", "positional_argument", 3),
        ("[f(a=1, a=2)]", "duplicate_argument", 8),
        ("[f(a=1, **{'a': 2})]", "duplicate_argument", 8),
        ("[f(a={'k': 1, 'k': 2})]", "duplicate_argument", 14),
        ("[f(a=true)]", "json_literal", 5),
        ("[f(a=[1, false])]", "json_literal", 9),
        ("[f(a={'k': null})]", "json_literal", 11),
        ("[f(a=Paris)]", "bare_name", 5),
        ("[f(a=nan)]", "bare_name", 5),
        ("[f(a=g(b=1))]", "nested_call", 5),
        ("[f(a=__import__('os'))]", "nested_call", 5),
        ("[f(a=Color.RED)]", "not_a_literal", 5),
        ("[f(a=lambda: 1)]", "not_a_literal", 5),
        ("[f(a=f'{x}')]", "not_a_literal", 5),
        ("[f(a=not True)]", "not_a_literal", 5),
        ("[f(a=b'x')]", "not_json", 5),
        ("[f(a=2j)]", "not_json", 5),
        ("[f(a=(-1)**0.5)]", "not_json", 5),
        ("[f(a={1: 2})]", "not_json", 6),
        ("[f(a='x' 'y')]", "bad_string", 8),
        (r"[f(a='\x1')]", "bad_string", 6),
        (r"[f(a='\N{NO SUCH}')]", "bad_string", 6),
        (r"[f(a='\U00110000')]", "bad_string", 6),
        ("[f(a=1/0)]", "arithmetic", 6),
        ("[f(a='x' + 'y')]", "arithmetic", 5),
        ("[f(a=-'x')]", "arithmetic", 5),
        ("[f(a=1.5 % 0)]", "arithmetic", 9),
        ("[f(a=10.0**400)]", "arithmetic", 9),
        ("[f(a=9**9**9)]", "number_too_large", 6),
        (f"[f(a={'9' * 4301})]", "number_too_large", 5),
        (f"[f(a={hex(2**MAX_INT_BITS)})]", "number_too_large", 5),
        ("[f(a=1 b=2)]", "syntax", 7),
        ("[f(a=1) g()]", "syntax", 8),
        ("[f(a=007)]", "syntax", 5),
        ("[f(a=1__0)]", "syntax", 5),
        ("[f(a=1.2.3)]", "syntax", 8),
        ("[f(a=1x)]", "syntax", 6),
        ("[f(a=)]", "syntax", 5),
        ("[f(a={'x', 'y'})]", "syntax", 9),
        ("[f(a=[1)]", "syntax", 7),
        ("[f(a='x\ny')]", "unterminated", 5),
        ("[f(a='\0')]", "not_text", 6),
        ("[f(a='\ud800')]", "not_text", 6),
    ],
)
def test_what_strict_refuses_has_a_name_and_a_place(text: str, reason: str, position: int) -> None:
    error = _error(text)
    assert (error.reason, error.position) == (reason, position)


def test_a_parse_error_survives_the_way_between_processes() -> None:
    error = _error("[f(a=true)]")
    copy = pickle.loads(pickle.dumps(error))
    assert (copy.reason, copy.position, copy.message) == (error.reason, error.position, error.message)
    assert "json_literal at 5" in str(copy)


# --- bfcl, pythonic (its agreement with the original is shown in test_calls_reference.py)


@pytest.mark.parametrize(
    ("text", "decoded"),
    [
        ("", []),
        ("[]", []),
        ("f(a=1), g(b=2)", [("f", {"a": 1}), ("g", {"b": 2})]),
        ("```\n[f(a=1)\n```", [("f", {"a": 1})]),
        ("[f(a=true, b=null)]", [("f", {"a": "true", "b": "null"})]),
        ("[f(1, x, a=2)]", [("f", {"a": 2})]),
        ("[f(a=1, a=2)]", [("f", {"a": 2})]),
        ("[f(a=g( 1 ), b=g(x=1), c=d[ 0 ])]", [("f", {"a": "g(1)", "b": {"g": {"x": 1}}, "c": "d[0]"})]),
        ("[f(a=(1, 2), b=+5, c=..., d=1+2*3)]", [("f", {"a": (1, 2), "b": -5, "c": "...", "d": 7})]),
        ("[f(**k, a={1: 2j})]", [("f", {None: "k", "a": {1: 2j}})]),
        ("[a().b(x='y')]", [("b", {"x": "y"})]),
        ("[f()(a=1)]", [("", {"a": 1})]),
    ],
)
def test_bfcl_mode_keeps_the_leaderboards_leniencies(text: str, decoded: Any) -> None:
    assert [(call.name, call.arguments) for call in parse_calls(text, mode="bfcl")] == decoded


@pytest.mark.parametrize(
    ("text", "reason", "position"),
    [
        ("Sure! [f(a=1)]", "syntax", 4),
        ("[f(a='é', b=Color.RED)]", "not_a_literal", 12),
        ("  f(a='é',\n b={1, 2})", "not_a_literal", 14),
        ("[f(a='x)]", "unterminated", 5),
        ("[f(a=-'x')]", "arithmetic", 5),
        ("[f(a=x + 1)]", "not_a_literal", 5),
        ("[f(a={[1]: 2})]", "not_json", 5),
        ("[f]", "not_a_call", 1),
        ("[f()] + [g()]", "not_a_list", 0),
    ],
)
def test_what_bfcl_mode_refuses_has_a_name_and_a_place(text: str, reason: str, position: int) -> None:
    error = _error(text, "bfcl")
    assert error.reason == reason
    assert abs(error.position - position) <= 1  # CPython places some errors at the token, some behind it


EXPRESSIONS = st.lists(
    st.sampled_from(
        "0 1 9 . e j J 0x 0b _ a f and\\t else\\t for\\t if\\t in\\t is\\t or\\t not\\t + ( ) [ ] x '\\d' '\\400'".split(
            " "
        )
    ),
    min_size=1,
    max_size=8,
).map("".join)


@settings(max_examples=400, deadline=None)
@given(expression=EXPRESSIONS)
@example("1if\t2else\t3")
@example("1.or\t2")
@example("0xfor\t2")
def test_what_cpython_warns_of_is_read_in_silence(expression: str) -> None:
    text = f"[f(a={expression})]"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        outcome = _outcome(text, "bfcl", "pythonic")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert repr(_outcome(text, "bfcl", "pythonic")) == repr(outcome)


# --- formats that carry JSON


TWO = (ToolCall("f.g", {"a": [1, None, True], "b": "x;y"}), ToolCall("h", {}))


@pytest.mark.parametrize(
    ("call_format", "text"),
    [
        (
            "llama_json",
            '{"name": "f.g", "parameters": {"a": [1, null, true], "b": "x;y"}}; {"name": "h", "parameters": {}}',
        ),
        (
            "llama_json",
            '<|python_tag|>{"parameters":{"a":[1,null,true],"b":"x;y"},"name":"f.g"};\n{"name":"h","parameters":{}}\n',
        ),
        ("function_tag", '<function=f.g>{"a": [1, null, true], "b": "x;y"}</function>\n<function=h>{}</function>'),
        (
            "hermes",
            '<tool_call>\n{"name": "f.g", "arguments": {"a": [1, null, true], "b": "x;y"}}\n</tool_call>'
            '\n<tool_call>{"name": "h", "arguments": {}}</tool_call>',
        ),
        (
            "openai",
            r'[{"id": "call_0", "type": "function", "function": {"name": "f.g", "arguments": "{\"a\": [1, null, true], \"b\": \"x;y\"}"}},'
            '\n {"index": 1, "function": {"arguments": {}, "name": "h"}}]\n',
        ),
        (
            "openai",
            r'{"role": "assistant", "content": null, "refusal": null, "tool_calls": [{"id": "a", "type": "function", "function": '
            r'{"name": "f.g", "arguments": {"a": [1, null, true], "b": "x;y"}}}, {"function": {"name": "h", "arguments": " {}\n"}}]}',
        ),
    ],
)
def test_each_json_format_is_read(call_format: CallFormat, text: str) -> None:
    assert _strict(text, call_format) == TWO
    assert _strict(render_calls(TWO, call_format), call_format) == TWO


@pytest.mark.parametrize(
    ("call_format", "text", "reason"),
    [
        ("llama_json", "", "empty"),
        ("llama_json", "No tool fits.", "not_a_list"),
        ("llama_json", '[{"name": "f", "parameters": {}}]', "not_a_list"),
        ("llama_json", '{"name": "f", "parameters": {}} ok', "text_around"),
        ("llama_json", '{"name": "f", "parameters": {}};', "unterminated"),
        ("llama_json", '{"name": "f", "param', "unterminated"),
        ("llama_json", '{"name": "f"}', "wrong_keys"),
        ("llama_json", '{"name": "f", "arguments": {}}', "wrong_keys"),
        ("llama_json", '{"name": 1, "parameters": {}}', "wrong_shape"),
        ("llama_json", '{"name": "f", "parameters": [1]}', "wrong_shape"),
        ("llama_json", '{"name": "f", "parameters": {"a": 1, "a": 2}}', "duplicate_argument"),
        ("llama_json", '{"name": "f", "parameters": {"a": True}}', "syntax"),
        ("llama_json", '{"name": "f", "parameters": {"a": %s}}' % ("9" * 4301), "number_too_large"),
        ("function_tag", "<function=f>{}", "unterminated"),
        ("function_tag", "<function=f", "unterminated"),
        ("function_tag", "<func", "unterminated"),
        ("function_tag", "<function=f>{}</function> ok", "text_around"),
        ("function_tag", "<function=f>{}{}</function>", "syntax"),
        ("function_tag", "<function=f>[1]</function>", "wrong_shape"),
        ("function_tag", "Sure <function=f>{}</function>", "not_a_list"),
        ("hermes", '<tool_call>{"name": "f", "arguments": {}}', "unterminated"),
        ("hermes", '<tool_call>{"name": "f", "parameters": {}}</tool_call>', "wrong_keys"),
        ("hermes", "<tool_call>f()</tool_call>", "not_a_list"),
        ("hermes", "<tool_call>", "unterminated"),
        ("openai", "", "empty"),
        ("openai", "No tool fits.", "not_a_list"),
        ("openai", '{"role": "assistant", "content": "No tool fits."}', "not_a_list"),
        ("openai", '{"content": "Sure.", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}', "text_around"),
        ("openai", '[{"function": {"name": "f", "arguments": {}}}] ok', "text_around"),
        ("openai", '{"tool_calls": []} ok', "text_around"),
        ("openai", '[{"function": {"name": "f", "arguments": "{}{}"}}]', "text_around"),
        ("openai", "[", "unterminated"),
        ("openai", '[{"function": {"name": "f", "arguments": {}}}', "unterminated"),
        ("openai", '[{"function": {"name": "f", "arguments": {}}},', "unterminated"),
        ("openai", '[{"function": {"name": "f", "arguments": "{"}}]', "unterminated"),
        ("openai", '[{"function": {"name": "f", "arguments": {}}} {}]', "syntax"),
        ("openai", '[{"function": {"name": "f", "arguments": "f(a=1)"}}]', "syntax"),
        ("openai", '[{"name": "f", "arguments": {}}]', "wrong_keys"),
        ("openai", '{"name": "f", "arguments": {}}', "wrong_keys"),
        ("openai", '{"role": "user", "content": ""}', "wrong_keys"),
        ("openai", '[{"function": {"name": "f"}}]', "wrong_keys"),
        ("openai", '[{"function": {"name": 1, "arguments": {}}}]', "wrong_keys"),
        ("openai", '[{"type": "custom", "function": {"name": "f", "arguments": {}}}]', "wrong_shape"),
        ("openai", '{"tool_calls": {"function": {"name": "f", "arguments": {}}}}', "wrong_shape"),
        ("openai", '[{"function": {"name": "f", "arguments": "[1]"}}]', "wrong_shape"),
        ("openai", r'[{"function": {"name": "f", "arguments": "{\"a\": 1, \"a\": 2}"}}]', "duplicate_argument"),
        ("openai", r'[{"function": {"name": "f", "arguments": "{\"a\": %s}"}}]' % ("9" * 4301), "number_too_large"),
        ("openai", '[{"function": {"name": "f", "arguments": "%s"}}]' % ("[" * 101 + "]" * 101), "too_deep"),
    ],
)
def test_what_a_json_format_refuses_has_a_name(call_format: CallFormat, text: str, reason: str) -> None:
    assert _error(text, "strict", call_format).reason == reason


@pytest.mark.parametrize(
    ("call_format", "text", "decoded"),
    [
        # As BFCL's Llama 3.1 handler: a Python literal, or JSON parts where a semicolon stands anywhere.
        ("llama_json", '{"name": "f", "parameters": {"a": 1}}', [("f", {"a": 1})]),
        ("llama_json", '[{"name": "f", "parameters": {"a": None}}, {"name": "g", "parameters": {}}]', [("f", {"a": None}), ("g", {})]),
        ("llama_json", '<|python_tag|>{"name": "f", "parameters": {}}; {"name": "g", "parameters": {"a": true}}',
         [("f", {}), ("g", {"a": True})]),
        ("llama_json", '{"name": "f", "parameters": {"a": true}}', "not_a_literal"),
        ("llama_json", '{"name": "f", "parameters": {"a": "x;y"}}', "syntax"),
        ("llama_json", '{"name": "f"}', "wrong_keys"),
        ("llama_json", '{"name": "f", "parameters": [1]}', "wrong_shape"),
        ("llama_json", "f(a=1)", "not_a_literal"),
        ("llama_json", "[]", []),
        # As BFCL's Qwen handler: blocks with tags on lines of their own; what is not JSON is passed over.
        ("hermes", 'Sure\n<tool_call>\n{"name": "f", "arguments": {"a": true}}\n</tool_call>\nDone', [("f", {"a": True})]),
        ("hermes", '<tool_call>\nf(a=1)\n</tool_call>\n<tool_call>\n{"name": "g", "arguments": {}}\n</tool_call>', [("g", {})]),
        ("hermes", '<tool_call>{"name": "f", "arguments": {}}</tool_call>', []),
        ("hermes", '<tool_call>\n{"name": "f", "arguments": [1]}\n</tool_call>', "wrong_keys"),
        ("hermes", "no call", []),
        ("function_tag", 'Sure <function=f>{"a": true}</function> <function=g>oops</function>', [("f", {"a": True})]),
        # As BFCL's handlers of APIs: what they keep of a reply, or the reply's own objects, from which they make it.
        ("openai", r'[{"f": "{\"a\": true, \"a\": 2}"}, {"g": {"a": null}}]', [("f", {"a": 2}), ("g", {"a": None})]),
        ("openai", '[{"f": "{}", "g": "{}"}]', [("f", {})]),
        ("openai", '[{"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}]', [("f", {})]),
        ("openai", '{"content": "Sure", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}', [("f", {})]),
        ("openai", '[{"function": "{}"}]', [("function", {})]),
        ("openai", "", []),
        ("openai", "[]", []),
        ("openai", '{"role": "assistant", "content": "", "tool_calls": null}', []),
        ("openai", '{"role": "assistant", "content": "No", "tool_calls": []}', []),
        ("openai", '{"role": "assistant", "content": "No"}', "not_a_list"),
        ("openai", "null", "not_a_list"),
        ("openai", "No tool fits.", "syntax"),
        ("openai", '["f"]', "wrong_keys"),
        ("openai", "[{}]", "wrong_keys"),
        ("openai", '[{"f": 1}]', "wrong_keys"),
        ("openai", '[{"f": "x"}]', "syntax"),
        ("openai", '[{"f": "[1]"}]', "wrong_shape"),
        ("openai", '[{"f": "[1]"}, {"g": "x"}]', "syntax"),
    ],
)  # fmt: skip
def test_bfcl_mode_reads_json_formats_as_the_leaderboards_handlers_do(
    call_format: CallFormat, text: str, decoded: Any
) -> None:
    if isinstance(decoded, str):
        assert _error(text, "bfcl", call_format).reason == decoded
    else:
        calls = parse_calls(text, mode="bfcl", call_format=call_format)
        assert [(call.name, call.arguments) for call in calls] == decoded


# --- parse is the inverse of render

NAMES = st.builds(
    "{}{}{}".format,
    st.sampled_from("aZ_é"),
    st.text("b0_", max_size=4),
    st.sampled_from(("", ".c", "-c", ".c.d", "-1")),
)
ODD_TEXTS = (
    '"',
    "'",
    "\\",
    "a\nb\r\n\tc",
    "\x00\x7f\u2028\ufeff",
    "\ud800",
    "\udfffx",
    "</tool_call>",
    "</function>",
    ";",
    '"""',
    "{}",
    "\\u0041",
)
TEXTS = st.text(max_size=20) | st.sampled_from(ODD_TEXTS)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda children: st.lists(children, max_size=4) | st.dictionaries(TEXTS, children, max_size=4),
    max_leaves=12,
)
CALLS = st.lists(st.builds(ToolCall, NAMES, st.dictionaries(NAMES | TEXTS, VALUES, max_size=4)), max_size=3).map(tuple)


@pytest.mark.parametrize("call_format", CALL_FORMATS)
@settings(max_examples=100, deadline=None)
@given(calls=CALLS)
def test_parsing_a_rendered_call_gives_the_call(calls: Any, call_format: CallFormat) -> None:
    text = render_calls(calls, call_format)
    text.encode()  # every canonical text can be written to a file
    # repr tells apart what == does not: 1, 1.0 and True, and the order of arguments; and nan is nan.
    assert repr(_strict(text, call_format)) == repr(calls)


@settings(max_examples=100, deadline=None)
@given(calls=CALLS)
def test_bfcl_reads_canonical_text_as_strict_mode_does(calls: Any) -> None:
    def is_python(name: str) -> bool:
        return name.isidentifier() and name.isascii() and name not in ("None", "True", "False")

    calls = tuple(call for call in calls if all(map(is_python, (*call.name.split("."), *call.arguments))))
    text = render_calls(calls)
    try:
        compile(text, "", "eval")
    except SyntaxError:
        return  # a name that is one of Python's reserved words
    assert repr(parse_calls(text, mode="bfcl")) == repr(calls)


@settings(max_examples=100, deadline=None)
@given(value=VALUES)
def test_a_rendered_value_is_python(value: Any) -> None:
    text = render_value(value)
    assert canonical_value(eval(text, {"__builtins__": {}})) == canonical_value(value)


def test_canonical_text_is_as_documented() -> None:
    call = ToolCall("a.b", {"a": "x", "b": 1, "c": True, "d": ["p", "q"], "e": {"k": None}, "f g": 2.0, "h": 'ä "\n\\'})
    assert render_calls([call]) == (
        r'[a.b(a="x", b=1, c=True, d=["p", "q"], e={"k": None}, **{"f g": 2.0}, h="ä \"\n\\")]'
    )
    assert [render_calls([], call_format) for call_format in CALL_FORMATS] == ["[]"] * len(CALL_FORMATS)
    assert all(_strict("[]", call_format) == () for call_format in CALL_FORMATS)
    two = (ToolCall("f", {"a": None}), ToolCall("g", {}))
    assert (
        render_calls(two, "llama_json") == '{"name": "f", "parameters": {"a": null}}; {"name": "g", "parameters": {}}'
    )
    assert render_calls(two, "function_tag") == '<function=f>{"a": null}</function>\n<function=g>{}</function>'
    assert render_calls(two[1:], "hermes") == '<tool_call>\n{"name": "g", "arguments": {}}\n</tool_call>'
    assert render_calls([*two[1:], ToolCall("f", {"a": "é"})], "openai") == (
        '[{"id": "call_0", "type": "function", "function": {"name": "g", "arguments": "{}"}}, '
        r'{"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{\"a\": \"é\"}"}}]'
    )


@pytest.mark.parametrize(
    ("call", "call_format"),
    [
        (ToolCall("a b", {}), "pythonic"),
        (ToolCall("", {}), "pythonic"),
        (ToolCall("f(x)", {}), "pythonic"),
        (ToolCall("a>b", {}), "function_tag"),
        (ToolCall("f", {"x": (1, 2)}), "pythonic"),  # type: ignore[dict-item]
    ],
)
def test_what_a_format_cannot_carry_is_an_error(call: ToolCall, call_format: CallFormat) -> None:
    with pytest.raises(DataError):
        render_calls([call], call_format)


# --- no text does any harm


@settings(max_examples=400, deadline=None)
@given(
    text=st.text(max_size=60) | st.text(st.sampled_from("[](){}=,.:*-+/'\"\\ \n\tfxg01e_<>;#tool_callfunction\x00\ud800é"), max_size=80),
    mode=st.sampled_from(MODES),
    call_format=st.sampled_from(CALL_FORMATS),
)  # fmt: skip
def test_any_text_gives_calls_or_a_parse_error(text: str, mode: ParseMode, call_format: CallFormat) -> None:
    outcome = _outcome(text, mode, call_format)
    assert isinstance(outcome, str) or all(isinstance(call, ToolCall) for call in outcome)


@settings(max_examples=100, deadline=None)
@given(calls=CALLS, cut=st.integers(0, 200), call_format=st.sampled_from(CALL_FORMATS))
def test_a_cut_off_answer_is_never_read_as_another_one(calls: Any, cut: int, call_format: CallFormat) -> None:
    whole = render_calls(calls, call_format)
    try:
        read = _strict(whole[:cut], call_format)
    except ParseError:
        return
    # Where the format has no closing bracket around the calls, whole calls can go missing, but none is changed.
    assert repr(read) == repr(calls[: len(read)])


def _adversarial() -> tuple[list[str], list[str]]:
    """The two parts of `adversarial.txt`: refused by every reader, and refused by the strict one alone."""
    parts: list[list[str]] = []
    for line in (Path(__file__).parent / "adversarial.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            parts.append([])
        else:
            parts[-1].append(line)
    refused, kept_as_text = parts
    return [*refused, f"[f(a={'9' * 100_000})]", f"[f(a=0x{'f' * 100_000})]"], kept_as_text


EVALUATING, KEPT_AS_TEXT = _adversarial()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("text", EVALUATING, ids=lambda text: text[:60])
def test_text_that_would_run_code_is_a_parse_error_at_once(text: str, mode: ParseMode) -> None:
    assert len(EVALUATING) >= 60
    assert _takes_at_most(0.01, lambda: _error(text, mode))


@pytest.mark.parametrize("text", KEPT_AS_TEXT)
def test_a_call_as_a_value_is_refused_or_is_its_source(text: str) -> None:
    assert _takes_at_most(0.01, lambda: _error(text))
    for call in parse_calls(text, mode="bfcl"):
        assert all(part in text.replace(" ", "") for part in _texts(call.arguments)), call


def _texts(value: Any) -> Iterator[str]:
    """The strings of a value without their spaces and with the quotes of the source."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _texts(item)
    elif isinstance(value, str):
        yield value.replace(" ", "")


@pytest.mark.parametrize("text", [*EVALUATING, *KEPT_AS_TEXT], ids=lambda text: text[:60])
def test_nor_does_it_run_where_json_is_expected(text: str) -> None:
    value = text.removeprefix("[f(a=").removesuffix(")]")
    for body in (text, f'{{"name": "f", "parameters": {{"a": {value}}}}}'):
        assert _takes_at_most(0.01, partial(_error, body, "bfcl", "llama_json"))
    for body in (text, f'[{{"f": {{"a": {value}}}}}]', f'[{{"f": {json.dumps(value)}}}]'):
        assert _takes_at_most(0.01, partial(_error, body, "bfcl", "openai"))


def test_no_reader_runs_anything() -> None:
    """CPython reports what programs do to audit hooks; reading reports that the parser was used and nothing else."""
    code = """
import json, sys
from distill.calls.parse import CALL_FORMATS, ParseError, parse_calls
texts, seen = json.load(sys.stdin), set()
def read_all():
    for text in texts:
        for mode in ("bfcl", "strict"):
            for call_format in CALL_FORMATS:
                try:
                    parse_calls(text, mode=mode, call_format=call_format)
                except ParseError:
                    pass
read_all()  # what is imported late is imported now
sys.addaudithook(lambda event, arguments: seen.add(event))
read_all()
print(*sorted(seen))
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps([*EVALUATING, *KEPT_AS_TEXT]), capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert set(done.stdout.split()) <= {"compile"}


MEGABYTE = 1_000_000
LONG: dict[str, str] = {
    "[": "[" * MEGABYTE,
    "(": "(" * MEGABYTE,
    "{": "{" * MEGABYTE,
    "f(a=": "f(a=" * (MEGABYTE // 4),
    "[ within the bounds": "[" * MAX_TEXT_CHARS,
    "( within the bounds": "f(" * (MAX_TEXT_CHARS // 2),
    "nested": "[f(a=" + "[" * 1000 + "]" * 1000 + ")]",
    "nested dict": "[f(a=" + "{'a':" * 1000 + "1" + "}" * 1000 + ")]",
    "nested calls": "f(a=" * 1000 + ")" * 1000,
    "minus": "[f(a=" + "-" * 50_000 + "1)]",
    "not": "[f(a=" + "not " * 20_000 + "1)]",
    "plus": "[f(a=" + "1+" * 45_000 + "1)]",
    "power": "[f(a=" + "2**" * 30_000 + "1)]",
    "attribute": "[f" + ".f" * 45_000 + "(a=1)]",
    "subscript": "[f(a=b" + "[0]" * 30_000 + ")]",
    "calls": "[f" + "()" * 45_000 + "]",
    "lambda": "[f(a=" + "lambda:" * 12_500 + "1)]",
    "conditional": "[f(a=" + "1 if 1 else " * 7_500 + "1)]",
    "words": "the cat sat " * 8_000,
    "quotes": '"' * 99_999,
    "escapes": '["' + '\\"' * 49_500,
    "alternating quotes": "\"'" * 49_999,
    "backslashes": "\\" * 99_999,
    "triple": "'''\\" * 24_500,
    "spaces": "[f(a=1)" + " " * 95_000 + "x",
    "spaces in a name": "[f" + " " * 95_000 + "x",
    "digits": "[f(a=" + "1" * 95_000 + ")]",
    "digit letters": "[f(a=" + "1a" * 45_000 + ")]",
    "fraction": "[f(a=0." + "1" * 95_000 + ")]",
    "underscores": "[f(a=" + "1_" * 45_000 + ")]",
    "dots": "[" + "a." * 45_000,
    "hyphens": "[" + "a-" * 45_000,
    "names": "[f(" + "a=" * 45_000,
    "semicolons": ";" * 99_500,
    "tool_call": "<tool_call>\n" * 8_000,
    "function tag": "<function=" * 9_500,
    "function body": "<function=f>" * 8_000,
    "function name": "<function=" + "f" * 95_000,
    "closed tags": "<tool_call>\n{\n</tool_call>" * 3_500,
    "json": '{"name": "f", "parameters": ' + '{"a": ' * 15_000,
    "json list": "[{}," * 20_000,
    "openai": '[{"function":{"name":"f","arguments":"{}"}},' + '{"function":{"name":"f","arguments":"{}"}},' * 2_000,
    "openai arguments": '[{"function":{"name":"f","arguments":"' + "[" * 90_000 + '"}}]',
    "message": '{"tool_calls":[' + "[" * 90_000,
    "NUL": "[f(a='" + "\0" * 95_000,
    "surrogates": "\ud800" * 99_500,
    "accents": "[f(a=x.y, b='" + "é" * 95_000 + "')]",
    "newlines": "[f(a=x.y," + "\n" * 95_000 + ")]",
    "carriage returns": "[" + "\r" * 95_000 + "x.y]",
    "comments": "[#" + "\n#" * 45_000,
    "brackets in a string": "[f(a=x.y, b='" + "[" * 95_000 + "')]",
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", LONG)
def test_no_long_text_hangs_or_crashes(name: str, mode: ParseMode) -> None:
    for call_format in CALL_FORMATS:
        assert _takes_at_most(1.0, partial(_outcome, LONG[name], mode, call_format))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "text",
    [
        "[f(" + ", ".join(f"a{n}=1" for n in range(7_500)) + ")]",
        "[f(a=[" + "1," * 40_000 + "])]",
        "[f(a={" + ", ".join(f"'{n}': 1" for n in range(6_500)) + "})]",
        "[" + "f(a=1)," * 12_500 + "]",
        "[f(a='" + "\\n" * 45_000 + "')]",
        "[f(a='" + "x" * 95_000 + "')]",
        "[f(a=[" + "1-2," * 20_000 + "])]",
    ],
    ids=lambda text: text[:20],
)
def test_a_long_answer_is_read_in_time(text: str, mode: ParseMode) -> None:
    assert len(text) <= MAX_TEXT_CHARS
    assert _takes_at_most(1.0, lambda: parse_calls(text, mode=mode))


def test_the_bounds_are_where_they_are_said_to_be() -> None:
    for mode in MODES:
        deep = "[" * (MAX_DEPTH - 2) + "]" * (MAX_DEPTH - 2)
        assert parse_calls(f"[f(a={deep})]", mode=mode)
        assert _error(f"[f(a=[[[{deep}]]])]", mode).reason == "too_deep"
        assert parse_calls(f"[f(a='{'(' * 1000}')]", mode=mode)  # brackets in a string nest nothing
        assert parse_calls(f"[f(a={2**MAX_INT_BITS - 1})]", mode=mode)
        assert _error(f"[f(a=2**{MAX_INT_BITS + 1})]", mode).reason == "number_too_large"
        long = "[f(a='" + "x" * (MAX_TEXT_CHARS - 9) + "')]"
        assert len(long) == MAX_TEXT_CHARS and parse_calls(long, mode=mode)
        assert _error(long + " ", mode).reason == "too_long"


def test_scoring_survives_whatever_a_model_writes() -> None:
    tool = Tool("f", "", {"type": "dict", "properties": {"a": {"type": "string"}}, "required": ["a"]})
    for text in (*LONG.values(), *EVALUATING):
        result = score_text(
            text, [ExpectedCall("f", {"a": ["x"]})], tools=[tool], category="simple", finish_reason="stop"
        )
        assert result.verdict in ("malformed", "wrong_arguments", "wrong_tool", "wrong_count")


def test_nothing_outside_the_standard_library_is_imported_and_quickly() -> None:
    folder = Path(distill.calls.__path__[0])
    modules = ", ".join(["distill.calls", *(f"distill.calls.{path.stem}" for path in sorted(folder.glob("[!_]*.py")))])
    code = (
        "import sys, time; start = time.process_time(); before = set(sys.modules)\n"
        f"import {modules}\n"
        "names = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "print(time.process_time() - start, *sorted(names - sys.stdlib_module_names - {'distill'}))"
    )
    runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True) for _ in range(5)]
    seconds, foreign = zip(*((float(out[0]), out[1:]) for out in (run.stdout.split() for run in runs)), strict=True)
    assert foreign == ([],) * 5
    assert min(seconds) < 0.15  # under 50 ms on an idle machine; a busy one gets three times that


def _outcome(text: str, mode: ParseMode, call_format: CallFormat) -> Any:
    try:
        return parse_calls(text, mode=mode, call_format=call_format)
    except ParseError as error:
        return error.reason if 0 <= error.position <= len(text) else error


def _takes_at_most(seconds: float, work: Callable[[], object]) -> bool:
    """Whether one of three runs stays within this processor time: what the work costs, not what else the machine does."""
    for _ in range(3):
        start = time.process_time()
        work()
        if time.process_time() - start <= seconds:
            return True
    return False
