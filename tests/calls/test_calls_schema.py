"""Calls against tools: every keyword refuses what it should, names the place, and lets the rest through."""

from __future__ import annotations

from typing import Any

import pytest

from distill.calls.schema import why_invalid
from distill.records import DataError, Tool, ToolCall


def _why(value: Any, schema: Any, **root: Any) -> str | None:
    tool = Tool("f", "", {"type": "object", "properties": {"x": schema}, "required": ["x"], **root})
    error = why_invalid([ToolCall("f", {"x": value})], [tool])
    return None if error is None else error.message


PLACE: Any = {
    "type": "object",
    "required": ["city"],
    "properties": {"city": {"type": "string"}},
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    ("value", "schema"),
    [
        ("a", {"type": "string"}),
        (1, {"type": "integer"}),
        (1, {"type": "number"}),
        (1, {"type": "float"}),
        (1.5, {"type": "float"}),
        (True, {"type": "boolean"}),
        (None, {"type": "null"}),
        (None, {"type": ["string", "null"]}),
        (None, {"type": "string", "nullable": True}),
        ([1], {"type": "array", "items": {"type": "integer"}}),
        ([], {"type": "array", "items": {"type": "integer"}}),
        ([1], {"type": "tuple", "items": {"type": "integer"}}),
        ((1,), {"type": "tuple", "items": {"type": "integer"}}),
        ({"a": 1}, {"type": "dict"}),
        (None, {"type": "any"}),
        ([{}], {"type": "any"}),
        ("a", {}),
        ("a", True),
        ("b", {"enum": ["a", "b"]}),
        (1.0, {"enum": [1]}),
        (["a", "b"], {"type": "array", "items": {"type": "string"}, "enum": ["a", "b", "c"]}),
        (3, {"const": 3}),
        ({"city": "Oslo"}, PLACE),
        ({"city": "Oslo", "more": 1}, {**PLACE, "additionalProperties": True}),
        ({"city": "Oslo", "more": 1}, {**PLACE, "additionalProperties": {"type": "integer"}}),
        (5, {"anyOf": [{"type": "string"}, {"type": "integer"}]}),
        (5, {"oneOf": [{"type": "string"}, {"type": "integer"}]}),
        (5, {"allOf": [{"minimum": 5}, {"maximum": 5}]}),
        (5, {"minimum": 5, "maximum": 5, "exclusiveMinimum": 4, "exclusiveMaximum": 6}),
        ("ab", {"minLength": 2, "maxLength": 2, "minimum": 9}),
        ([1, 2], {"minItems": 2, "maxItems": 2}),
        ({"city": "Oslo"}, {"$ref": "#/$defs/Place"}),
        ("a", {"type": "string", "required": True}),
    ],
)
def test_what_the_schema_allows_is_valid(value: Any, schema: Any) -> None:
    assert _why(value, schema, **{"$defs": {"Place": PLACE}}) is None


@pytest.mark.parametrize(
    ("value", "schema", "path", "allowed"),
    [
        (1, {"type": "string"}, "x", "string"),
        (1.0, {"type": "integer"}, "x", "integer"),
        (True, {"type": "integer"}, "x", "integer"),
        (True, {"type": "number"}, "x", "number"),
        (False, {"type": "float"}, "x", "float"),
        (1, {"type": "boolean"}, "x", "boolean"),
        (None, {"type": "string"}, "x", "string"),
        ((1,), {"type": "array"}, "x", "array"),
        ([], {"type": "dict"}, "x", "dict"),
        (1.5, {"type": ["integer", "null"]}, "x", "integer or null"),
        (["a", 1], {"type": "array", "items": {"type": "string"}}, "x[1]", "string"),
        ([[1], ["a"]], {"items": {"items": {"type": "integer"}}}, "x[1][0]", "integer"),
        ("c", {"enum": ["a", "b"]}, "x", "one of ['a', 'b']"),
        (True, {"enum": [1]}, "x", "one of [1]"),
        (["a", "d"], {"type": "array", "enum": ["a", "b"]}, "x[1]", "one of ['a', 'b']"),
        (1, {"const": True}, "x", "True"),
        ({}, PLACE, "x.city", "a value; it is required"),
        ({"city": 1}, PLACE, "x.city", "string"),
        ({"city": "a", "zip": 1}, PLACE, "x.zip", "only city"),
        ({"a": 1, "b": "c"}, {"additionalProperties": {"type": "integer"}}, "x.b", "integer"),
        (1.5, {"anyOf": [{"type": "string"}, {"type": "integer"}]}, "x", "string or integer"),
        ({"city": 1}, {"anyOf": [PLACE, {"type": "null"}]}, "x.city", "string"),
        (5, {"oneOf": [{"type": "integer"}, {"minimum": 0}]}, "x", "exactly one of 2 alternatives; 2 fit"),
        (4, {"allOf": [{"minimum": 5}]}, "x", "at least 5"),
        (6, {"maximum": 5}, "x", "at most 5"),
        (5, {"exclusiveMinimum": 5}, "x", "more than 5"),
        (5, {"exclusiveMaximum": 5}, "x", "less than 5"),
        (float("nan"), {"minimum": 5}, "x", "at least 5"),
        ("a", {"minLength": 2}, "x", "at least 2 characters"),
        ("abc", {"maxLength": 2}, "x", "at most 2 characters"),
        ([], {"minItems": 1}, "x", "at least 1 items"),
        ([1, 2], {"maxItems": 1}, "x", "at most 1 items"),
        (1, False, "x", "nothing here"),
        ({"city": 1}, {"$ref": "#/$defs/Place"}, "x.city", "string"),
    ],
)
def test_what_it_does_not_allow_is_named_with_its_place(value: Any, schema: Any, path: str, allowed: str) -> None:
    tool = Tool("f", "", {"type": "dict", "properties": {"x": schema}, "$defs": {"Place": PLACE}})
    error = why_invalid([ToolCall("f", {}), ToolCall("f", {"x": value})], [tool])
    assert error is not None
    assert (error.path, error.allowed) == (f"calls[1].{path}", allowed)
    assert error.path in error.message and error.found in error.message and error.allowed in error.message


def test_an_unknown_tool_a_missing_and_an_unlisted_argument_are_refused() -> None:
    tool = Tool("f", "", {"type": "object", "properties": {"x": {}}, "required": ["x"]})
    assert why_invalid([], [tool]) is None

    def why(name: str, **arguments: Any) -> str | None:
        error = why_invalid([ToolCall(name, arguments)], [tool])
        return None if error is None else error.message

    assert why("f", x=1) is None
    assert why("g", x=1) == "calls[0]: found the tool 'g'; allowed: one of ['f']"
    assert why("f") == "calls[0].x: found nothing; allowed: a value; it is required"
    assert why("f", x=1, y=2) == "calls[0].y: found 2; allowed: only x"
    open_tool = Tool("f", "", {**tool.parameters, "additionalProperties": True})
    assert why_invalid([ToolCall("f", {"x": 1, "y": 2})], [open_tool]) is None


@pytest.mark.parametrize(
    ("schema", "complaint"),
    [
        ({"type": "strnig"}, "unknown type 'strnig'"),
        ({"type": {}}, "unknown type {}"),
        ({"$ref": "#/$defs/None"}, "leads nowhere"),
        ({"$ref": "http://example.com/schema"}, "leads nowhere"),
        ({"$ref": "#/properties/x"}, "circle"),
        ("string", "the schema is a str"),
        ({"minimum": 1, "anyOf": {"type": "string"}}, "anyOf"),
        ({"enum": "abc"}, "enum"),
        ({"allOf": {}}, "allOf"),
    ],
)
def test_a_schema_that_cannot_be_applied_is_an_error_of_the_data(schema: Any, complaint: str) -> None:
    with pytest.raises(DataError, match=r"tool f, calls\[0\]\.x") as caught:
        _why("a", schema)
    assert complaint in str(caught.value)
