"""Tool calls against the tools' schemas -> the first thing that is not allowed, or None."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from distill.calls.bounds import MAX_DEPTH
from distill.calls.canonical import canonical_value
from distill.records import DataError, JsonValue, Tool, ToolCall


@dataclass(frozen=True, slots=True)
class SchemaError:
    """What is not allowed in a call: where (`calls[0].days[1]`), what was found, what is allowed, and a sentence of the three."""

    path: str
    found: str
    allowed: str

    @property
    def message(self) -> str:
        return f"{self.path}: found {self.found}; allowed: {self.allowed}"


def why_invalid(calls: Sequence[ToolCall], tools: Sequence[Tool]) -> SchemaError | None:
    """The first difference between the calls and the tools they name, None when there is none.

    Types are BFCL's and JSON Schema's: an integer is fine where a float or number is declared, 3.0 is no integer, a bool is never a
    number, a list is fine for a tuple, `any` and no type allow everything. Keywords: type (also a list of types), enum, const,
    required, properties, additionalProperties, items, anyOf, oneOf, allOf, minimum, maximum, exclusiveMinimum, exclusiveMaximum,
    minLength, maxLength, minItems, maxItems, nullable, and $ref within the same schema. Other keywords are not looked at. Unlike in
    JSON Schema an argument the tool does not list is refused unless its `additionalProperties` says otherwise, and the enum of
    an array may list its items.

    Raises DataError for a schema that cannot be applied: an unknown type name, a $ref that leads nowhere or around in a circle.
    """
    by_name = {tool.name: tool for tool in reversed(tools)}
    for index, call in enumerate(calls):
        tool = by_name.get(call.name)
        if tool is None:
            return SchemaError(f"calls[{index}]", f"the tool {call.name!r}", f"one of {sorted(by_name)}")
        # What is listed nowhere was made up: arguments are closed, unlike nested objects.
        schema = {"additionalProperties": False, **tool.parameters, "type": "object"}
        error = _check(call.arguments, schema, f"calls[{index}]", _Tool(tool.name, schema), 0)
        if error is not None:
            return error
    return None


@dataclass(frozen=True, slots=True)
class _Tool:
    """The tool whose schema is applied, for `$ref` and for messages."""

    name: str
    root: Mapping[str, Any]


def _is_integer(value: JsonValue) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: JsonValue) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


_IS_OF_TYPE: dict[str, Callable[[Any], bool]] = {
    "string": lambda value: isinstance(value, str),
    "integer": _is_integer,
    "float": _is_number,
    "number": _is_number,
    "boolean": lambda value: isinstance(value, bool),
    "array": lambda value: isinstance(value, list),
    "tuple": lambda value: isinstance(value, list | tuple),
    "dict": lambda value: isinstance(value, dict),
    "object": lambda value: isinstance(value, dict),
    "null": lambda value: value is None,
    "any": lambda value: True,
}

# keyword -> (which values it speaks of, what is compared with its bound, whether that is allowed, how the bound reads)
_BOUNDS: dict[str, tuple[Callable[[Any], bool], Callable[[Any], Any], Callable[[Any, Any], bool], str]] = {
    "minimum": (_is_number, lambda value: value, lambda size, bound: size >= bound, "at least {}"),
    "maximum": (_is_number, lambda value: value, lambda size, bound: size <= bound, "at most {}"),
    "exclusiveMinimum": (_is_number, lambda value: value, lambda size, bound: size > bound, "more than {}"),
    "exclusiveMaximum": (_is_number, lambda value: value, lambda size, bound: size < bound, "less than {}"),
    "minLength": (_IS_OF_TYPE["string"], len, lambda size, bound: size >= bound, "at least {} characters"),
    "maxLength": (_IS_OF_TYPE["string"], len, lambda size, bound: size <= bound, "at most {} characters"),
    "minItems": (_IS_OF_TYPE["tuple"], len, lambda size, bound: size >= bound, "at least {} items"),
    "maxItems": (_IS_OF_TYPE["tuple"], len, lambda size, bound: size <= bound, "at most {} items"),
}


def _check(value: Any, schema: Any, path: str, tool: _Tool, depth: int) -> SchemaError | None:
    if depth > MAX_DEPTH:
        raise DataError(
            f"tool {tool.name}, {path}: schemas nest or refer deeper than {MAX_DEPTH}; check its $ref for a circle"
        )
    if schema is True:
        return None
    if schema is False:
        return SchemaError(path, _shown(value), "nothing here")
    if not isinstance(schema, Mapping):
        raise DataError(
            f"tool {tool.name}, {path}: the schema is a {type(schema).__name__}; it is an object, true or false"
        )
    if value is None and schema.get("nullable") is True:
        return None
    return (
        _check_type(value, schema, path, tool)
        or _check_values(value, schema, path, tool)
        or _check_bounds(value, schema, path)
        or _check_object(value, schema, path, tool, depth)
        or _check_items(value, schema, path, tool, depth)
        or _check_combined(value, schema, path, tool, depth)
    )


def _check_type(value: Any, schema: Mapping[str, Any], path: str, tool: _Tool) -> SchemaError | None:
    declared = schema.get("type")
    if declared is None:
        return None
    names = declared if isinstance(declared, list) else [declared]
    for name in names:
        if not isinstance(name, str) or name not in _IS_OF_TYPE:
            allowed = ", ".join(sorted(_IS_OF_TYPE))
            raise DataError(f"tool {tool.name}, {path}: unknown type {name!r}; allowed: {allowed}; correct the tool")
    if any(_IS_OF_TYPE[name](value) for name in names):
        return None
    return SchemaError(path, _shown(value), " or ".join(names))


def _check_values(value: Any, schema: Mapping[str, Any], path: str, tool: _Tool) -> SchemaError | None:
    if "const" in schema and canonical_value(value) != canonical_value(schema["const"]):
        return SchemaError(path, _shown(value), repr(schema["const"]))
    if "enum" not in schema:
        return None
    choices = _list(schema, "enum", path, tool)
    allowed = set(map(canonical_value, choices))
    if canonical_value(value) in allowed:
        return None
    if isinstance(value, list) and not any(isinstance(entry, list) for entry in choices):
        # BFCL's tools write the choices of an array's items on the array itself.
        wrong = [f"{path}[{index}]" for index, item in enumerate(value) if canonical_value(item) not in allowed]
        if not wrong:
            return None
        path = wrong[0]
    return SchemaError(path, _shown(value), f"one of {choices!r}")


def _check_bounds(value: Any, schema: Mapping[str, Any], path: str) -> SchemaError | None:
    for keyword, (speaks_of, size_of, is_allowed, words) in _BOUNDS.items():
        # OpenAPI writes exclusiveMinimum as a bool beside minimum; the bound itself is checked then.
        bound = schema.get(keyword)
        if _is_number(bound) and speaks_of(value) and not is_allowed(size_of(value), bound):
            return SchemaError(path, _shown(value), words.format(bound))
    return None


def _check_object(value: Any, schema: Mapping[str, Any], path: str, tool: _Tool, depth: int) -> SchemaError | None:
    if not isinstance(value, dict):
        return None
    required = schema.get("required", ())
    # Some BFCL properties carry `"required": true`; a list is what speaks of an object's keys.
    for name in required if isinstance(required, list) else ():
        if name not in value:
            return SchemaError(_join(path, name), "nothing", "a value; it is required")
    properties = schema.get("properties") or {}
    if not isinstance(properties, Mapping):
        kind = type(properties).__name__
        raise DataError(f"tool {tool.name}, {path}: properties is a {kind}; it is an object; correct the tool")
    for name, item in value.items():
        if name in properties:
            error = _check(item, properties[name], _join(path, name), tool, depth + 1)
        elif schema.get("additionalProperties", True) is False:
            error = SchemaError(_join(path, name), _shown(item), f"only {', '.join(properties) or 'no arguments'}")
        else:
            error = _check(item, schema.get("additionalProperties", True), _join(path, name), tool, depth + 1)
        if error is not None:
            return error
    return None


def _check_items(value: Any, schema: Mapping[str, Any], path: str, tool: _Tool, depth: int) -> SchemaError | None:
    if not isinstance(value, list | tuple) or "items" not in schema:
        return None
    for index, item in enumerate(value):
        error = _check(item, schema["items"], f"{path}[{index}]", tool, depth + 1)
        if error is not None:
            return error
    return None


def _check_combined(value: Any, schema: Mapping[str, Any], path: str, tool: _Tool, depth: int) -> SchemaError | None:
    if "$ref" in schema:
        error = _check(value, _resolve(schema["$ref"], tool, path), path, tool, depth + 1)
        if error is not None:
            return error
    for part in _list(schema, "allOf", path, tool) if "allOf" in schema else ():
        error = _check(value, part, path, tool, depth + 1)
        if error is not None:
            return error
    for keyword in ("anyOf", "oneOf"):
        if keyword in schema:
            errors = [_check(value, part, path, tool, depth + 1) for part in _list(schema, keyword, path, tool)]
            num_fitting = errors.count(None)
            if num_fitting == 0:
                allowed = " or ".join(dict.fromkeys(error.allowed for error in errors if error is not None))
                # One alternative's deeper difference says more than "none fits".
                deeper = [error for error in errors if error is not None and error.path != path]
                return deeper[0] if len(deeper) == 1 else SchemaError(path, _shown(value), allowed or "nothing")
            if keyword == "oneOf" and num_fitting > 1:
                return SchemaError(path, _shown(value), f"exactly one of {len(errors)} alternatives; {num_fitting} fit")
    return None


def _resolve(reference: Any, tool: _Tool, path: str) -> Any:
    """The schema a `$ref` such as `#/$defs/Place` points to."""
    schema: Any = tool.root
    if isinstance(reference, str) and reference.startswith("#"):
        for key in reference[1:].split("/")[1:]:
            key = key.replace("~1", "/").replace("~0", "~")
            if not isinstance(schema, Mapping) or key not in schema:
                break
            schema = schema[key]
        else:
            return schema
    raise DataError(
        f"tool {tool.name}, {path}: $ref {reference!r} leads nowhere; it points into the tool's own schema, as #/$defs/NAME"
    )


def _list(schema: Mapping[str, Any], keyword: str, path: str, tool: _Tool) -> list[Any]:
    value = schema[keyword]
    if isinstance(value, list):
        return value
    raise DataError(f"tool {tool.name}, {path}: {keyword} is a {type(value).__name__}; it is a list; correct the tool")


def _join(path: str, name: Any) -> str:
    return f"{path}.{name}"


def _shown(value: Any) -> str:
    """The value as Python prints it, cut where it would fill the page."""
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."
