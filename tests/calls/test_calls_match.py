"""Verdicts of our checker: BFCL's rules one by one, all categories, decoding included, and comparison of answers for votes."""

from __future__ import annotations

from itertools import permutations
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.calls.match import CORRECT, exactly, match, same_calls, score_text
from distill.records import Category, ExpectedCall, Tool, ToolCall


def _tool(name: str = "f", /, required: tuple[str, ...] = ("x",), **properties: dict[str, Any]) -> Tool:
    return Tool(name, "", {"type": "dict", "properties": dict(properties), "required": list(required)})


def _array(items: str, kind: str = "array") -> dict[str, Any]:
    return {"type": kind, "items": {"type": items}}


# Measured with the original: one parameter x, category simple.
VECTORS = [
    ("float", 3, [3.0], None),
    ("float", True, [1.0], "type_error:simple"),
    ("integer", 3.0, [3], "type_error:simple"),
    ("integer", True, [1], "type_error:simple"),
    ("integer", "abc", ["abc"], None),
    ("integer", "ABC", ["abc"], "value_error:others"),
    ("boolean", 1, [True], "type_error:simple"),
    ("string", "NEW-YORK", ["new york"], None),
    ("string", "-", ["a", ""], None),
    ("string", "  ", ["a", ""], None),
    ("string", "a\tb", ["ab"], "value_error:string"),
    ("string", None, ["a", None, ""], "type_error:simple"),
    ("string", None, [None, "a"], None),
    ("string", "a", [None, "a"], None),
    ("string", "A", [None, "a"], "value_error:others"),
    ("any", 5, ["5"], "type_error:simple"),
    ("any", "5", ["5"], None),
    (_array("string"), [], [["a"], ""], None),
    (_array("string"), [], [["a"]], "value_error:list/tuple"),
    (_array("string"), ["X y"], [["xy"]], None),
    (_array("string"), "lst", ["lst"], None),
    (_array("string"), "LST", ["lst"], "value_error:others"),
    (_array("float"), [1, 2], [[1.0, 2.0]], "type_error:nested"),
    (_array("integer"), (1, 2), [[1, 2]], "type_error:simple"),
    (_array("integer", "tuple"), (1, 2), [[1, 2]], None),
    (_array("integer", "tuple"), [1, 2], [[1, 2]], None),
    (_array("array"), [["X"]], [[["x"]]], "value_error:list/tuple"),
    (_array("dict"), ["a"], [[{"k": ["v"]}], ""], "checker:exception"),
    ("dict", {}, [""], "dict_checker:unclear"),
    ("dict", {"a": 1}, [{"a": [1.0]}], None),
    ("dict", {"a": True}, [{"a": [1]}], None),
    ("dict", {"a": "X y"}, [{"a": ["xy"]}], None),
    ("dict", {"a": (1, 2)}, [{"a": [[1, 2]]}], "value_error:dict_value"),
    ("dict", {"a": ["X"]}, [{"a": [["x"]]}], "value_error:dict_value"),
    ("float", 10**400, [1.0], "checker:exception"),
]


@pytest.mark.parametrize(("declared", "value", "options", "error"), VECTORS)
def test_one_argument_is_judged_as_the_original_does(
    declared: Any, value: Any, options: Any, error: str | None
) -> None:
    schema = declared if isinstance(declared, dict) else {"type": declared}
    result = match(
        [ToolCall("f", {"x": value})], [ExpectedCall("f", {"x": options})], tools=[_tool(x=schema)], category="simple"
    )
    assert result.bfcl_error == error
    assert (result == CORRECT) == (error is None)
    assert bool(result.explanation) == (error is not None)


CITY = _tool("city.find", required=("name",), name={"type": "string"}, limit={"type": "integer"})
FILM = _tool("film.find", required=("title",), title={"type": "string"})
OSLO = ExpectedCall("city.find", {"name": ["Oslo"], "limit": ["", 5]})
ALIEN = ExpectedCall("film.find", {"title": ["Alien"]})


@pytest.mark.parametrize(
    ("text", "expected", "category", "verdict", "error"),
    [
        ('[city.find(name="oslo")]', [OSLO], "simple", "correct", None),
        ('city.find(name="oslo", limit=5)', [OSLO], "multiple", "correct", None),
        ("[]", [OSLO], "simple", "wrong_count", "simple_function_checker:wrong_count"),
        ("[]", [OSLO], "multiple", "wrong_count", "multiple_function_checker:wrong_count"),
        ('[film.find(title="Oslo")]', [OSLO], "multiple", "wrong_tool", "simple_function_checker:wrong_func_name"),
        ("[city.find()]", [OSLO], "simple", "wrong_arguments", "simple_function_checker:missing_required"),
        (
            '[city.find(name="Oslo", x=1)]',
            [OSLO],
            "simple",
            "wrong_arguments",
            "simple_function_checker:unexpected_param",
        ),
        ('[city.find(name="Oslo", limit=6)]', [OSLO], "simple", "wrong_arguments", "value_error:others"),
        ('[film.find(title="alien"), city.find(name="oslo")]', [OSLO, ALIEN], "parallel_multiple", "correct", None),
        (
            '[city.find(name="oslo")]',
            [OSLO, ALIEN],
            "parallel",
            "wrong_count",
            "parallel_function_checker_no_order:wrong_count",
        ),
        (
            '[film.find(title="Alien"), film.find(title="Oslo")]',
            [OSLO, ALIEN],
            "parallel_multiple",
            "wrong_tool",
            "parallel_function_checker_no_order:cannot_find_match",
        ),
        (
            '[film.find(title="Aliens"), city.find(name="Oslo")]',
            [OSLO, ALIEN],
            "parallel_multiple",
            "wrong_arguments",
            "parallel_function_checker_no_order:cannot_find_match",
        ),
        ("I would call city.find.", [OSLO], "simple", "malformed", "ast_decoder:decoder_failed"),
        ("There is no tool for this.", [], "irrelevance", "correct", None),
        ("[]", [], "irrelevance", "correct", None),
        ("", [], "irrelevance", "correct", None),
        ('[city.find(name="Oslo")]', [], "irrelevance", "wrong_count", "irrelevance_error:decoder_success"),
        ('[city.find(name="Oslo")]', [], "relevance", "correct", None),
        ("[no_such_tool()]", [], "relevance", "correct", None),
        ("[]", [], "relevance", "wrong_count", "relevance_error:decoder_failed"),
        ("", [], "relevance", "wrong_count", "relevance_error:decoder_failed"),
        ("There is no tool for this.", [], "relevance", "malformed", "relevance_error:decoder_failed"),
        ('[city.find(name="Oslo")]', [], "simple", "error", "checker:exception"),
    ],
)
def test_a_completion_gets_its_verdict(
    text: str, expected: list[ExpectedCall], category: Category, verdict: str, error: str | None
) -> None:
    result = score_text(text, expected, tools=[CITY, FILM], category=category, finish_reason="stop")
    assert (result.verdict, result.bfcl_error) == (verdict, error)


def test_a_cut_off_text_is_truncated_only_where_it_cannot_be_decoded() -> None:
    def score(text: str, category: Category) -> str:
        return score_text(text, [OSLO], tools=[CITY], category=category, finish_reason="length").verdict

    assert score('[city.find(name="Os', "simple") == "truncated"
    assert score('[city.find(name="Oslo")', "simple") == "correct"
    assert score("I cannot help, because", "irrelevance") == "correct"


def test_a_failed_completion_is_an_error_even_where_silence_is_right() -> None:
    result = score_text("", [], tools=[CITY], category="irrelevance", finish_reason="error")
    assert result.verdict == "error" and result.bfcl_error is not None


def test_arguments_that_are_no_object_have_the_wrong_shape() -> None:
    result = score_text(
        '{"name": "city.find", "parameters": ["Oslo"]}',
        [OSLO],
        tools=[CITY],
        category="simple",
        finish_reason="stop",
        call_format="llama_json",
    )
    assert (result.verdict, result.bfcl_error) == ("malformed", "ast_decoder:decoder_wrong_output_format")


@pytest.mark.parametrize(
    ("schema", "value", "verdict"),
    [
        ({"type": "number"}, 2, "correct"),
        ({"type": "object"}, {"a": 1, "b": {"c": [2]}}, "correct"),
        ({"type": ["string", "null"]}, "Oslo", "correct"),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, "Oslo", "correct"),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, None, "correct"),
        ({}, [{"a": 1}], "correct"),
        ({"type": "array"}, [1, 2], "correct"),
        ({"type": "array", "items": {"type": "object"}}, [{"a": 1}], "correct"),
        ({"type": "array", "items": {"$ref": "#/$defs/A"}}, [{"a": 1}], "correct"),
        ({"type": "array", "items": {"type": "number"}}, [1.5], "correct"),
        ({"type": "blob"}, 1, "error"),
    ],
)
def test_tools_in_json_schema_are_judged_too(schema: Any, value: Any, verdict: str) -> None:
    call, tool = ToolCall("f", {"x": value}), _tool(x=schema)
    if verdict == "error":
        expected = ExpectedCall("f", {"x": [value]})
    else:
        expected = exactly(call, tool=tool)
        other = ToolCall("f", {"x": "something else"})
        assert match([other], [expected], tools=[tool], category="simple").verdict == "wrong_arguments"
    assert match([call], [expected], tools=[tool], category="simple").verdict == verdict
    no_lists = Tool("f", "", {"properties": {"x": schema}})
    assert match([call], [expected], tools=[no_lists], category="simple").verdict == verdict


def _calls(*arguments: dict[str, Any]) -> list[ToolCall]:
    return [ToolCall("f", values) for values in arguments]


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        (_calls({"x": 2, "y": "a"}), _calls({"y": "a", "x": 2.0}), True),
        (_calls({"x": 1}, {"x": 2}), _calls({"x": 2}, {"x": 1}), True),
        (_calls({"x": 1}, {"x": 1}), _calls({"x": 1}), False),
        (_calls({"x": 1}), _calls({"x": True}), False),
        (_calls({"x": 1.0}), _calls({"x": True}), False),
        (_calls({"x": 0}), _calls({"x": False}), False),
        (_calls({"x": 0}), _calls({"x": None}), False),
        (_calls({"x": "1"}), _calls({"x": 1}), False),
        (_calls({"x": "a"}), _calls({"x": "A"}), False),
        (_calls({"x": [1, 2]}), _calls({"x": [2, 1]}), False),
        (_calls({"x": {"a": 1, "b": [True]}}), _calls({"x": {"b": [True], "a": 1}}), True),
        (_calls({"x": float("nan")}), _calls({"x": float("nan")}), True),
        (_calls({"x": 10**20}), _calls({"x": 1e20}), True),
        (_calls({"x": 2**53 + 1}), _calls({"x": float(2**53)}), False),
        (_calls({"x": 10**5000}), _calls({"x": 10**5000}), True),
        (_calls({"x": 'a","y":"b'}), _calls({"x": "a", "y": "b"}), False),
        (_calls({}), [ToolCall("g", {})], False),
        ([], _calls({}), False),
        ([], [], True),
    ],
)
def test_votes_compare_calls_exactly_but_for_order_and_number_type(
    a: list[ToolCall], b: list[ToolCall], same: bool
) -> None:
    assert same_calls(a, b) == same


ANSWERS = st.lists(
    st.builds(
        ToolCall,
        st.sampled_from("fg"),
        st.dictionaries(
            st.sampled_from("xy"), st.sampled_from([1, 1.0, True, "1", [1, 2], [2, 1], {"a": 1}]), max_size=2
        ),
    ),
    max_size=4,
)


@given(a=ANSWERS, others=ANSWERS, random=st.randoms(use_true_random=False))
@settings(max_examples=100, deadline=None)
def test_votes_find_the_best_assignment(a: list[ToolCall], others: list[ToolCall], random: Random) -> None:
    """Against every assignment there is: two answers are the same exactly where one of them pairs like with like."""
    b = list(a)
    random.shuffle(b)
    b = [random.choice(others) if others and random.random() < 0.15 else call for call in b]
    paired = len(a) == len(b) and any(
        all(same_calls([one], [other]) for one, other in zip(a, order, strict=True)) for order in permutations(b)
    )
    assert same_calls(a, b) == paired
