"""Tool calls -> their canonical text in each call format; `parse_calls` in strict mode is the inverse."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence

from distill.calls.parse import CallFormat
from distill.calls.strict_python import NAME
from distill.records import DataError, JsonObject, JsonValue, ToolCall


def render_calls(calls: Sequence[ToolCall], call_format: CallFormat = "pythonic") -> str:
    """The canonical text of `calls`; no calls are `[]` in every format. Raises DataError for a name the format cannot carry.

    pythonic       [name(a="x", b=1, c=True, d=["p", "q"], e={"k": None})]
    llama_json     {"name": "name", "parameters": {...}}; {"name": ...}
    function_tag   <function=name>{...}</function>, one per line
    hermes         <tool_call>, {"name": "name", "arguments": {...}} and </tool_call> on lines of their own
    openai         [{"id": "call_0", "type": "function", "function": {"name": "name", "arguments": "{...}"}}]

    Strings stand in double quotes; those, backslashes, control characters and surrogates are escaped, the rest is kept. An
    argument name that is no name stands in `**{"odd name": 1}`. Infinity is `1e999` and not-a-number `1e999 - 1e999`, which BFCL
    reads alike.
    """
    return _RENDERERS[call_format](calls) if calls else "[]"


def render_value(value: JsonValue) -> str:
    """One value as a Python literal."""
    if value is None or isinstance(value, bool | int):
        return repr(value)
    if isinstance(value, float):
        return _float(value)
    if isinstance(value, str):
        return _string(value)
    if isinstance(value, list):
        return f"[{', '.join(map(render_value, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_string(key)}: {render_value(item)}' for key, item in value.items())}}}"
    raise DataError(f"a {type(value).__name__} ({value!r}) in a tool call; arguments are JSON values")


_TOOL_NAME = re.compile(rf"{NAME}(?:\.{NAME})*")
_ARGUMENT_NAME = re.compile(NAME)
_TAG_NAME = re.compile(r"[^<>\s]+")
_SHORT_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"}
_PLAIN = re.compile(r'[^"\\\x00-\x1f\x7f\ud800-\udfff]*')
_SURROGATE = re.compile("[\ud800-\udfff]")


def _pythonic(calls: Sequence[ToolCall]) -> str:
    return f"[{', '.join(map(_python_call, calls))}]"


def _python_call(call: ToolCall) -> str:
    _check_name(call.name, _TOOL_NAME, "pythonic")
    arguments = (
        f"{name}={render_value(value)}"
        if _ARGUMENT_NAME.fullmatch(name)
        else f"**{{{_string(name)}: {render_value(value)}}}"
        for name, value in call.arguments.items()
    )
    return f"{call.name}({', '.join(arguments)})"


def _llama_json(calls: Sequence[ToolCall]) -> str:
    return "; ".join(_json({"name": call.name, "parameters": call.arguments}) for call in calls)


def _function_tags(calls: Sequence[ToolCall]) -> str:
    for call in calls:
        _check_name(call.name, _TAG_NAME, "function_tag")
    return "\n".join(f"<function={call.name}>{_tagged_json(call.arguments)}</function>" for call in calls)


def _hermes(calls: Sequence[ToolCall]) -> str:
    objects = (_tagged_json({"name": call.name, "arguments": call.arguments}) for call in calls)
    return "\n".join(f"<tool_call>\n{text}\n</tool_call>" for text in objects)


def _openai(calls: Sequence[ToolCall]) -> str:
    objects: list[JsonValue] = [
        {
            "id": f"call_{index}",
            "type": "function",
            "function": {"name": call.name, "arguments": _json(call.arguments)},
        }
        for index, call in enumerate(calls)
    ]
    return _json(objects)


_RENDERERS: dict[CallFormat, Callable[[Sequence[ToolCall]], str]] = {
    "pythonic": _pythonic,
    "llama_json": _llama_json,
    "function_tag": _function_tags,
    "hermes": _hermes,
    "openai": _openai,
}


def _check_name(name: str, pattern: re.Pattern[str], call_format: str) -> None:
    if not pattern.fullmatch(name):
        raise DataError(
            f"the tool name {name!r} cannot be written as {call_format}, which allows {pattern.pattern}; rename the tool or use llama_json"
        )


def _float(value: float) -> str:
    if math.isnan(value):
        return "1e999 - 1e999"
    if math.isinf(value):
        return "1e999" if value > 0 else "-1e999"
    return repr(value)


def _string(value: str) -> str:
    if _PLAIN.fullmatch(value):
        return f'"{value}"'
    return f'"{"".join(map(_escaped, value))}"'


def _escaped(character: str) -> str:
    if character in _SHORT_ESCAPES:
        return _SHORT_ESCAPES[character]
    if _PLAIN.fullmatch(character):
        return character
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def _json(value: JsonValue) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return _SURROGATE.sub(lambda surrogate: f"\\u{ord(surrogate.group()):04x}", text)


def _tagged_json(value: JsonObject) -> str:
    # Readers of tags look for the closing one without reading JSON; `<\/` is the same string and no tag.
    return _json(value).replace("</", "<\\/")
