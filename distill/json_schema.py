"""Tool calls against the tools' schemas in JSON Schema's whole vocabulary -> the first thing that is not allowed, or None.

`distill.calls.schema` decides first, by BFCL's types and the keywords that tools mostly use. Where a schema says more (patterns,
formats, conditions, ...) the `jsonschema-rs` library decides the rest. It never fetches anything.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import jsonschema_rs

from distill.calls.schema import SchemaError, why_invalid
from distill.records import DataError, Tool, ToolCall

TYPES = {"dict": "object", "float": "number", "tuple": "array"}
ANYTHING = "any"
FURTHER_KEYWORDS = frozenset(
    "pattern format patternProperties propertyNames minProperties maxProperties dependentRequired dependentSchemas dependencies "
    "uniqueItems multipleOf not if then else prefixItems additionalItems contains minContains maxContains unevaluatedProperties "
    "unevaluatedItems".split()
)


def why_not_allowed(calls: Sequence[ToolCall], tools: Sequence[Tool]) -> SchemaError | None:
    """The first difference between the calls and the tools they name, None when there is none.

    As `distill.calls.schema.why_invalid`, whose leniencies hold, and then JSON Schema 2020-12 (or what `$schema` names) with its
    formats asserted (`date`, `email`, `uri`, ...; formats it does not define are not looked at).

    Raises DataError for a schema that cannot be applied: what `why_invalid` refuses, a pattern that is no regular expression, a
    reference to a document elsewhere.
    """
    error = why_invalid(calls, tools)
    if error is not None:
        return error
    by_name = {tool.name: tool for tool in reversed(tools)}
    for index, call in enumerate(calls):
        tool = by_name[call.name]
        if _says_more(tool.parameters):
            error = _first_error(call, tool, f"calls[{index}]")
            if error is not None:
                return error
    return None


def _first_error(call: ToolCall, tool: Tool, path: str) -> SchemaError | None:
    try:
        validator = _validator(json.dumps(tool.parameters))
        error = next(iter(validator.iter_errors(call.arguments)), None)
    except (ValueError, TypeError, RecursionError, jsonschema_rs.ReferencingError) as problem:
        reason = str(problem).splitlines()[0]
        raise DataError(
            f"tool {tool.name}: its parameters are no JSON Schema that can be applied ({reason}); correct the tool"
        ) from None
    if error is None:
        return None
    for step in error.instance_path:
        path += f"[{step}]" if isinstance(step, int) else f".{step}"
    found = json.dumps(error.instance, ensure_ascii=False)
    return SchemaError(path, found if len(found) <= 100 else found[:100] + "...", _allowed(tool.parameters, error))


def _allowed(schema: Any, error: jsonschema_rs.ValidationError) -> str:
    """The keyword that was broken and what it says."""
    value = schema
    for step in error.schema_path:
        try:
            value = value[step]
        except (KeyError, IndexError, TypeError):
            return error.message  # behind a $ref
    keyword = next((step for step in reversed(error.schema_path) if isinstance(step, str)), "schema")
    return f"{keyword} {json.dumps(value, ensure_ascii=False)}"


@lru_cache(maxsize=1024)
def _validator(schema: str) -> jsonschema_rs.Validator:
    translated = _translated(json.loads(schema))
    kind = jsonschema_rs.validator_cls_for(translated)
    return kind(translated, validate_formats=True, retriever=_refuse)


def _refuse(uri: str) -> Any:
    raise ValueError(f"{uri} lies elsewhere, and nothing is fetched")


def _says_more(schema: Any) -> bool:
    if isinstance(schema, dict):
        return not FURTHER_KEYWORDS.isdisjoint(schema) or any(_says_more(value) for value in schema.values())
    return isinstance(schema, list) and any(_says_more(value) for value in schema)


def _translated(schema: Any) -> Any:
    """BFCL's type names as JSON Schema's, and the core's leniency that the enum of a list may hold its items."""
    if isinstance(schema, list):
        return [_translated(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    named = schema.get("type", ANYTHING)
    names = named if isinstance(named, list) else [named]
    result: dict[str, Any] = {}
    for key, value in schema.items():
        if key in ("enum", "const", "default", "examples"):
            result[key] = value
        elif key == "properties" and isinstance(value, dict):
            result[key] = {name: _translated(inner) for name, inner in value.items()}
        elif key != "type":
            result[key] = _translated(value)
    if ANYTHING not in names:
        result["type"] = list(dict.fromkeys(TYPES.get(name, name) for name in names))
    if isinstance(result.get("enum"), list) and not {"array", "tuple", ANYTHING}.isdisjoint(names):
        members = {"enum": result.pop("enum")}
        listed = {"anyOf": [members, {"type": "array", "items": members}]}
        result["allOf"] = [*result.get("allOf", []), listed]
    return {"anyOf": [{"type": "null"}, result]} if schema.get("nullable") is True else result
