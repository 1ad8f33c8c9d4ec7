"""Tools as other formats write them in, `Tool` rows out, and what is wrong with their schemas.

A tool is `{"name", "description", "parameters"}`, alone or inside OpenAI's `{"type": "function", "function": {...}}`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from distill.calls.bounds import MAX_DEPTH
from distill.records import Tool
from distill.sources.problem import RecordProblem

TYPES = frozenset(
    ("string", "integer", "float", "number", "boolean", "array", "tuple", "dict", "object", "null", "any")
)
"""Names of types that calls can be checked against, BFCL's and JSON Schema's."""


def read_tools(value: Any) -> tuple[Tool, ...]:
    """The tools of a structured field: a list, or the JSON text of one as data sets keep it; each item an object or its JSON text.

    No parameters are `{}`, no description is `""`. Raises `RecordProblem`: `bad_tool_json` for text that is no JSON and for nesting
    deeper than can be checked, `bad_tool` for anything else that is no function with a name.
    """
    items = _parsed(value)
    if not isinstance(items, list):
        raise RecordProblem("bad_tool", f"tools are a list, found {type(items).__name__}")
    tools = tuple(_tool(_parsed(item), f"tools[{index}]") for index, item in enumerate(items))
    if is_too_deep([[tool.parameters for tool in tools]]):
        raise RecordProblem("bad_tool_json", f"the tool list is nested deeper than {MAX_DEPTH} levels")
    if not is_encodable([[tool.name, tool.description, tool.parameters] for tool in tools]):
        raise RecordProblem("bad_tool", "a tool holds half of a surrogate pair, which cannot be encoded")
    return tools


def check_tools(tools: Sequence[Tool]) -> None:
    """Raise `RecordProblem` for the first flaw that makes calls of these tools impossible to check.

    `duplicate_tool`: two of one name. `required_not_in_properties`: a parameter is required and not described; inside objects only
    where their properties are listed. `unknown_type`: a type name outside `TYPES`, such as Java's `HashMap`. `bad_tool_schema`: not the
    shape of a schema.
    """
    for name, count in Counter(tool.name for tool in tools).items():
        if count > 1:
            raise RecordProblem("duplicate_tool", f"tool {name} is declared twice")
    for tool in tools:
        _check_parameters(tool)
        pending: list[tuple[str, Any]] = [(f"tool {tool.name}", tool.parameters)]
        while pending:
            where, schema = pending.pop()
            if isinstance(schema, dict):
                pending += _checked_parts(where, schema)
            elif not isinstance(schema, bool):
                raise RecordProblem("bad_tool_schema", f"{where}: a schema is an object, found {type(schema).__name__}")


def is_too_deep(value: Any) -> bool:
    """Whether JSON nests deeper than the readers and writers of this project follow it."""
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            child
            for item in level
            if isinstance(item, dict | list)
            for child in (item.values() if isinstance(item, dict) else item)
        ]
        if not level:
            return False
    return True


def is_encodable(value: Any) -> bool:
    """Whether JSON can be written as UTF-8: no half of a surrogate pair in any of its texts."""
    text = json.dumps(value, ensure_ascii=False)
    if text.isascii():
        return True
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def inner_function(item: Mapping[str, Any]) -> Mapping[str, Any]:
    """What describes the tool: the `function` of OpenAI's wrapping, or the object itself."""
    function = item.get("function")
    return function if item.get("type") == "function" and isinstance(function, dict) else item


_ONE_SCHEMA = frozenset(("items", "additionalProperties", "not"))
_SCHEMA_LISTS = frozenset(("anyOf", "oneOf", "allOf", "prefixItems"))
_SCHEMAS_BY_NAME = frozenset(("properties", "patternProperties", "$defs", "definitions"))
_KEYWORDS = _ONE_SCHEMA | _SCHEMA_LISTS | _SCHEMAS_BY_NAME | {"type", "required", "$ref"}


def _parsed(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise RecordProblem("bad_tool_json", f"the tools are text and not valid JSON: {error}") from None


def _tool(item: Any, where: str) -> Tool:
    if not isinstance(item, dict):
        raise RecordProblem("bad_tool", f"{where} is an object with a name, found {type(item).__name__}")
    if item.get("type", "function") not in ("function", None):
        raise RecordProblem("bad_tool", f"{where} is of type {item['type']!r}; only functions can be distilled"[:200])
    inner = inner_function(item)
    name, description, parameters = inner.get("name"), inner.get("description"), _parsed(inner.get("parameters"))
    if not isinstance(name, str) or not name:
        raise RecordProblem("bad_tool", f"{where} has no name")
    if not isinstance(description, str | None) or not isinstance(parameters, dict | None):
        raise RecordProblem("bad_tool", f"{where} ({name}): a description is text, parameters are an object")
    return Tool(name, description or "", parameters or {})


def _check_parameters(tool: Tool) -> None:
    """What is a flaw in a tool's own schema and not in one inside it: its arguments are closed, so what is required must be listed."""
    properties, required = tool.parameters.get("properties", {}), tool.parameters.get("required", [])
    if not isinstance(properties, dict) or not isinstance(required, list):
        raise RecordProblem("bad_tool_schema", f"tool {tool.name}: properties must be an object and required a list")
    _check_names(f"tool {tool.name}", required, properties)
    values = tool.parameters.values()
    if values and not _KEYWORDS & tool.parameters.keys() and all(isinstance(value, dict) for value in values):
        raise RecordProblem(
            "bad_tool_schema",
            f"tool {tool.name} lists its arguments as parameters.{next(iter(tool.parameters))}; they belong under "
            "parameters.properties",
        )


def _check_names(where: str, required: Sequence[Any], properties: Mapping[str, Any]) -> None:
    missing = [str(name) for name in required if not isinstance(name, str) or name not in properties]
    if missing:
        raise RecordProblem(
            "required_not_in_properties", f"{where} requires {', '.join(missing)}, not among its properties"
        )


def _checked_parts(where: str, schema: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The schemas inside a schema whose own keywords are sound."""
    for keyword, value in schema.items():
        if keyword == "type":
            _check_type(where, value)
        elif keyword == "required":
            properties = schema.get("properties")
            # Some BFCL properties carry `"required": true`; and an alternative may require what only its parent describes.
            if isinstance(value, list) and isinstance(properties, dict):
                _check_names(where, value, properties)
        elif keyword in _SCHEMAS_BY_NAME:
            if not isinstance(value, dict):
                raise RecordProblem("bad_tool_schema", f"{where}: {keyword} is an object of schemas")
            yield from ((f"{where}.{name}", part) for name, part in value.items())
        elif keyword in _SCHEMA_LISTS and not isinstance(value, list):
            raise RecordProblem("bad_tool_schema", f"{where}: {keyword} is a list of schemas")
        elif keyword in _ONE_SCHEMA or keyword in _SCHEMA_LISTS:
            many = value if isinstance(value, list) else [value]
            yield from ((f"{where}.{keyword}", part) for part in many)


def _check_type(where: str, declared: Any) -> None:
    for name in declared if isinstance(declared, list) else (declared,):
        if name is not None and (not isinstance(name, str) or name not in TYPES):
            raise RecordProblem("unknown_type", f"{where}: type {name!r}; allowed: {', '.join(sorted(TYPES))}"[:400])
