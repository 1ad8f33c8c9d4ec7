"""JSON Schema's whole vocabulary: what the pure core does not read is decided by the library, what it does read stays as it decides."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.calls.schema import why_invalid
from distill.json_schema import why_not_allowed
from distill.records import DataError, Tool, ToolCall

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3)
)
TYPES = ("string", "integer", "float", "number", "boolean", "array", "tuple", "dict", "object", "any")


def tools(**properties: Any) -> list[Tool]:
    return [Tool("f", "", {"type": "dict", "properties": properties, "required": []})]


def call(**arguments: Any) -> list[ToolCall]:
    return [ToolCall("f", arguments)]


@pytest.mark.parametrize(
    ("schema", "right", "wrong", "path", "allowed"),
    [
        ({"type": "string", "pattern": "^[A-Z]{2}$"}, "AB", "abc", "calls[0].x", 'pattern "^[A-Z]{2}$"'),
        ({"type": "string", "format": "date"}, "2024-02-29", "2023-02-29", "calls[0].x", 'format "date"'),
        ({"type": "float", "multipleOf": 0.5}, 1, 0.7, "calls[0].x", "multipleOf 0.5"),
        ({"type": "array", "uniqueItems": True}, [1, 2], [1, 1], "calls[0].x", "uniqueItems true"),
        ({"type": "array", "items": {"type": "string", "pattern": "^a"}}, ["a"], ["a", "b"], "calls[0].x[1]", 'pattern "^a"'),
        ({"type": "dict", "properties": {"y": {"type": "integer", "not": {"const": 3}}}}, {"y": 2}, {"y": 3}, "calls[0].x.y", 'not {"const": 3}'),
        ({"type": "dict", "dependentRequired": {"a": ["b"]}}, {"a": 1, "b": 2}, {"a": 1}, "calls[0].x", 'dependentRequired {"a": ["b"]}'),
        ({"type": "tuple", "prefixItems": [{"type": "float"}, {"type": "dict"}]}, [1, {}], [1, 2], "calls[0].x[1]", 'type "dict"'),
    ],
)  # fmt: skip
def test_further_keywords_are_decided_and_explained(
    schema: dict[str, Any], right: Any, wrong: Any, path: str, allowed: str
) -> None:
    assert why_invalid(call(x=wrong), tools(x=schema)) is None
    assert why_not_allowed(call(x=right), tools(x=schema)) is None
    error = why_not_allowed(call(x=wrong), tools(x=schema))
    assert error is not None and (error.path, error.allowed) == (path, allowed)


@settings(max_examples=400)
@given(
    value=VALUES,
    names=st.sampled_from(TYPES) | st.lists(st.sampled_from(TYPES[:-1]), min_size=1, max_size=3, unique=True),
    nullable=st.booleans(),
    enum=st.none() | st.lists(SCALARS, min_size=1, max_size=3),
)
def test_what_the_core_decides_stays_decided(value: Any, names: Any, nullable: bool, enum: Any) -> None:
    """A keyword that allows everything brings the library in; its verdict on the rest is the core's, on every value."""
    schema = {"type": names, "nullable": nullable, **({} if enum is None else {"enum": enum})}
    found = why_invalid(call(x=value), tools(x=schema))
    assert why_not_allowed(call(x=value), tools(x={**schema, "minProperties": 0})) == found


@pytest.mark.parametrize(
    "schema",
    [{"type": "string", "pattern": "("}, {"not": {"type": [{}]}}, {"not": {"$ref": "http://localhost/none"}}, {"minProperties": "two"}, {"if": 3}],
)  # fmt: skip
def test_a_schema_that_cannot_be_applied_is_named(schema: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=r"tool f: .*correct the tool"):
        why_not_allowed(call(x="a"), tools(x=schema))
