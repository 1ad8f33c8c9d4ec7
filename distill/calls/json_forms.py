"""Text -> tool calls for the formats that carry JSON: Llama 3.1's, `<function=name>` and Hermes tags, OpenAI's `tool_calls`.

Each has a strict reader (`read_*`: the calls and nothing else) and a lenient one (`decode_*`: as the leaderboard's handlers do).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, cast

from distill.calls.bfcl_python import decode_python_literal
from distill.calls.bounds import MAX_INT_DIGITS, ParseError, ParseReason, check_depth, check_int
from distill.records import JsonObject, JsonValue, ToolCall

PYTHON_TAG = "<|python_tag|>"


def read_llama_json(text: str) -> tuple[ToolCall, ...]:
    """`{"name": ..., "parameters": {...}}`, several joined by `;`, perhaps after `<|python_tag|>`. Raises ParseError."""
    check_depth(text)
    position = _skip(text, 0)
    if text.startswith(PYTHON_TAG, position):
        position = _skip(text, position + len(PYTHON_TAG))
    if _is_no_calls(text, position):
        return ()
    calls: list[ToolCall] = []
    while True:
        call, position = _object_call(text, position, "parameters")
        calls.append(call)
        if position == len(text):
            return tuple(calls)
        if text[position] != ";":
            raise _around(text, position)
        position = _skip(text, position + 1)


def read_function_tags(text: str) -> tuple[ToolCall, ...]:
    """`<function=name>{...}</function>`, any number, white space between. Raises ParseError."""
    check_depth(text)
    position = _skip(text, 0)
    if _is_no_calls(text, position):
        return ()
    calls: list[ToolCall] = []
    while position < len(text):
        head = _FUNCTION_TAG.match(text, position)
        if head is None:
            raise _no_tag(text, position, "<function=", bool(calls))
        arguments, end = _read_json(text, head.end())
        calls.append(ToolCall(name=head.group(1), arguments=_arguments(arguments, head.end())))
        position = _closing_tag(text, end, "</function>")
    return tuple(calls)


def read_hermes(text: str) -> tuple[ToolCall, ...]:
    """`<tool_call>{"name": ..., "arguments": {...}}</tool_call>`, any number, white space between. Raises ParseError."""
    check_depth(text)
    position = _skip(text, 0)
    if _is_no_calls(text, position):
        return ()
    calls: list[ToolCall] = []
    while position < len(text):
        if not text.startswith(_HERMES_OPEN, position):
            raise _no_tag(text, position, _HERMES_OPEN, bool(calls))
        call, end = _object_call(text, _skip(text, position + len(_HERMES_OPEN)), "arguments")
        calls.append(call)
        position = _closing_tag(text, end, _HERMES_CLOSE)
    return tuple(calls)


def read_openai(text: str) -> tuple[ToolCall, ...]:
    """`[{"id": ..., "type": "function", "function": {"name": ..., "arguments": "{...}"}}]`, or the message that holds them.

    Arguments are JSON as text, as the API has it, or an object, as chat templates have it. `id`, `type` and the `index` of a stream may be
    left out. Of a message only `role`, `content`, `refusal` and `tool_calls` are looked at; its text must be empty. Raises ParseError.
    """
    check_depth(text)
    position = _skip(text, 0)
    if _is_no_calls(text, position):
        return ()
    if text.startswith("{", position):
        message, end = _read_json(text, position)
        if (end := _skip(text, end)) < len(text):
            raise _around(text, end)
        return tuple(_openai_call(item, position) for item in _message_calls(cast(JsonObject, message), position))
    if not text.startswith("[", position):
        raise ParseError(
            "not_a_list", position, f"the reply begins with {text[position : position + 20]!r}, not with ["
        )
    calls: list[ToolCall] = []
    separator = "["
    while separator != "]":
        start = _skip(text, position + 1)
        item, end = _read_json(text, start)
        calls.append(_openai_call(item, start))
        position = _skip(text, end)
        separator = text[position : position + 1]
        if separator not in (",", "]") or not separator:
            reason: ParseReason = "syntax" if separator else "unterminated"
            raise ParseError(reason, position, f"{text[position : position + 20]!r} where , or ] should follow")
    if (end := _skip(text, position + 1)) < len(text):
        raise _around(text, end)
    return tuple(calls)


def decode_llama_json(text: str) -> tuple[ToolCall, ...]:
    """As BFCL's Llama 3.1 handler: JSON parts where a `;` stands anywhere, else one Python literal (so `true` fails). Raises ParseError."""
    text = text.replace(PYTHON_TAG, "")
    if ";" in text:
        objects: Any = [_load_json(part) for part in text.split(";")]
    else:
        objects = decode_python_literal(text)
        if isinstance(objects, dict):
            objects = [objects]
    return _bfcl_calls(objects, "parameters")


def decode_hermes(text: str) -> tuple[ToolCall, ...]:
    """As BFCL's Qwen handler: every `<tool_call>` block, its tags on lines of their own, that holds JSON. Raises ParseError."""
    objects = []
    for block in _blocks(text, _HERMES_OPEN + "\n", "\n" + _HERMES_CLOSE):
        try:
            call = _load_json(block)
        except ParseError:
            continue  # BFCL passes over what is not JSON
        if not isinstance(call, dict) or not isinstance(call.get("arguments"), dict):
            raise ParseError("wrong_keys", text.find(block), "a call is an object with name and an object of arguments")
        objects.append(call)
    return _bfcl_calls(objects, "arguments")


def decode_function_tags(text: str) -> tuple[ToolCall, ...]:
    """Every `<function=name>{...}</function>` that holds a JSON object. BFCL has no such format; read like Hermes. Raises ParseError."""
    calls: list[ToolCall] = []
    for block in _blocks(text, "<function=", "</function>"):
        name, found, body = block.partition(">")
        try:
            arguments = _load_json(body) if found else None
        except ParseError:
            continue
        if isinstance(arguments, dict):
            calls.append(ToolCall(name=name, arguments=arguments))
    return tuple(calls)


def decode_openai(text: str) -> tuple[ToolCall, ...]:
    """As BFCL's handlers of function-calling APIs read what they kept of a reply, here as JSON text. Raises ParseError.

    They keep a list of `{name: arguments}`, the arguments as text (OpenAI's, Anthropic's and most others) or as an object (Gemini's), and
    where nothing was called the reply's own text, which fails unless it is empty. `tool_calls` objects and the message that holds them
    are read as what the handlers make of them.
    """
    if not text:
        return ()
    calls = _load_json(text)
    if isinstance(calls, dict):
        found = calls.get("tool_calls")
        calls = [] if found is None and calls.get("content") == "" else found
    if not isinstance(calls, list):
        raise ParseError("not_a_list", 0, "no list of tool calls, and no message that holds one")
    return _bfcl_calls([_api_call(item) for item in calls], "arguments")


_HERMES_OPEN, _HERMES_CLOSE = "<tool_call>", "</tool_call>"
_SPACE = re.compile(r"[ \t\n\r]*")
_FUNCTION_TAG = re.compile(r"<function=([^<>\s]+)>[ \t\n\r]*")


def _skip(text: str, position: int) -> int:
    return cast("re.Match[str]", _SPACE.match(text, position)).end()


def _is_no_calls(text: str, position: int) -> bool:
    if position == len(text):
        raise ParseError("empty", position, "no text; a reply without calls is []")
    return text.startswith("[]", position) and _skip(text, position + 2) == len(text)


def _around(text: str, position: int) -> ParseError:
    return ParseError("text_around", position, f"{text[position : position + 20]!r} after a call")


def _no_tag(text: str, position: int, tag: str, after_a_call: bool) -> ParseError:
    if tag.startswith(text[position:]) or text.startswith(tag, position):
        return ParseError("unterminated", len(text), f"the text ends in the tag {tag}")
    if after_a_call:
        return _around(text, position)
    return ParseError(
        "not_a_list", position, f"the reply begins with {text[position : position + 20]!r}, not with {tag}"
    )


def _closing_tag(text: str, position: int, tag: str) -> int:
    position = _skip(text, position)
    if text.startswith(tag, position):
        return _skip(text, position + len(tag))
    if tag.startswith(text[position:]):
        raise ParseError("unterminated", len(text), f"no closing {tag}")
    raise ParseError("syntax", position, f"{text[position : position + 20]!r} where {tag} should follow")


def _object_call(text: str, position: int, arguments_key: str) -> tuple[ToolCall, int]:
    if position < len(text) and text[position] != "{":
        raise ParseError("not_a_list", position, f"{text[position : position + 20]!r} is not a JSON object")
    call, end = _read_json(text, position)
    if not isinstance(call, dict) or set(call) != {"name", arguments_key}:
        found = ", ".join(map(repr, call)) if isinstance(call, dict) else type(call).__name__
        raise ParseError(
            "wrong_keys", position, f"a call has the keys name and {arguments_key}; found {found or 'none'}"
        )
    name = call["name"]
    if not isinstance(name, str):
        raise ParseError("wrong_shape", position, f"the name of a call is a string; found {name!r}")
    return ToolCall(name=name, arguments=_arguments(call[arguments_key], position)), _skip(text, end)


def _message_calls(message: JsonObject, position: int) -> list[JsonValue]:
    """The `tool_calls` of an assistant message that says nothing besides."""
    role, calls = message.get("role", "assistant"), message.get("tool_calls") or []
    if role != "assistant" or not message.keys() & {"role", "tool_calls"}:
        found = (
            f"the role {role!r}" if "role" in message else f"an object with the keys {', '.join(map(repr, message))}"
        )
        raise ParseError(
            "wrong_keys", position, f"{found}; calls are a list, or the tool_calls of an assistant message"
        )
    for key in ("content", "refusal"):
        if message.get(key):
            reason: ParseReason = "text_around" if calls else "not_a_list"
            raise ParseError(
                reason, position, f"the message holds text in {key!r}{' besides calls' if calls else ' and no calls'}"
            )
    if not isinstance(calls, list):
        raise ParseError("wrong_shape", position, f"tool_calls are a list; found {type(calls).__name__}")
    return calls


def _openai_call(item: JsonValue, position: int) -> ToolCall:
    """One entry of `tool_calls`, read strictly; `position` is where it stands, as text inside a JSON string has no offset of its own."""
    keys = item.keys() if isinstance(item, dict) else set()
    if not isinstance(item, dict) or "function" not in keys or keys - {"id", "type", "index", "function"}:
        found = ", ".join(map(repr, item)) if isinstance(item, dict) else type(item).__name__
        raise ParseError(
            "wrong_keys", position, f"a tool call has the keys id, type and function; found {found or 'none'}"
        )
    function = item["function"]
    if item.get("type", "function") != "function" or not isinstance(function, dict):
        raise ParseError("wrong_shape", position, "a tool call is of type function, and its function an object")
    if function.keys() != {"name", "arguments"} or not isinstance(function["name"], str):
        raise ParseError("wrong_keys", position, "a function has the keys name, a string, and arguments")
    arguments = function["arguments"]
    if isinstance(arguments, str):
        arguments = _read_whole_json(arguments, position)
    return ToolCall(name=function["name"], arguments=_arguments(arguments, position))


def _read_whole_json(text: str, position: int) -> JsonValue:
    """JSON that stands as text at `position` of another."""
    try:
        check_depth(text)
        value, end = _read_json(text, _skip(text, 0))
        if (end := _skip(text, end)) < len(text):
            raise _around(text, end)
    except ParseError as error:
        raise ParseError(error.reason, position, f"in the arguments, at {error.position}: {error.message}") from None
    return value


def _api_call(item: JsonValue) -> JsonObject:
    """Name and arguments of one call as an API or BFCL's result files hold it; a tool may itself be called `function`."""
    if isinstance(item, dict) and isinstance(function := item.get("function"), dict) and "arguments" in function:
        name, arguments = function.get("name"), function["arguments"]
    elif isinstance(item, dict) and item:
        name, arguments = next(iter(item.items()))
    else:
        raise ParseError(
            "wrong_keys", 0, f"a call is an object of a name and its arguments; found {type(item).__name__}"
        )
    if isinstance(arguments, str):
        arguments = _load_json(arguments)
    elif not isinstance(arguments, dict):
        raise ParseError("wrong_keys", 0, f"arguments are JSON text or an object; found {type(arguments).__name__}")
    return {"name": name, "arguments": arguments}


def _arguments(value: JsonValue, position: int) -> JsonObject:
    if isinstance(value, dict):
        return value
    raise ParseError("wrong_shape", position, f"arguments are a JSON object; found {type(value).__name__}")


def _read_json(text: str, position: int) -> tuple[JsonValue, int]:
    """One JSON value at `position` and where it ends; repeated keys and numbers beyond the bounds are errors."""
    try:
        return cast("tuple[JsonValue, int]", _STRICT_JSON.raw_decode(text, position))
    except ParseError as error:
        raise ParseError(error.reason, position, error.message) from None
    except json.JSONDecodeError as error:
        cut = error.pos >= len(text) or error.msg.startswith("Unterminated string")
        raise ParseError("unterminated" if cut else "syntax", error.pos, f"not JSON: {error.msg}") from None


def _unique(pairs: list[tuple[str, JsonValue]]) -> JsonObject:
    values: JsonObject = {}
    for name, value in pairs:
        if name in values:
            raise ParseError("duplicate_argument", 0, f"the key {name!r} stands twice in one object")
        values[name] = value
    return values


def _integer(digits: str) -> int:
    if len(digits) > MAX_INT_DIGITS:
        raise ParseError("number_too_large", 0, f"a number of {len(digits)} characters; at most {MAX_INT_DIGITS}")
    value = int(digits)
    check_int(value, 0)
    return value


_STRICT_JSON = json.JSONDecoder(object_pairs_hook=_unique, parse_int=_integer)
_LENIENT_JSON: Callable[[str], JsonValue] = json.JSONDecoder(parse_int=_integer).decode


def _load_json(text: str) -> JsonValue:
    """As `json.loads`, within the bounds."""
    check_depth(text)
    try:
        return _LENIENT_JSON(text)
    except json.JSONDecodeError as error:
        raise ParseError("syntax", error.pos, f"not JSON: {error.msg}") from None


def _blocks(text: str, opening: str, closing: str) -> list[str]:
    """What stands between each opening and the next closing: `re.findall(opening + "(.*?)" + closing)` in linear time."""
    blocks: list[str] = []
    position = 0
    while (start := text.find(opening, position)) >= 0:
        end = text.find(closing, start + len(opening))
        if end < 0:
            break
        blocks.append(text[start + len(opening) : end])
        position = end + len(closing)
    return blocks


def _bfcl_calls(objects: Any, arguments_key: str) -> tuple[ToolCall, ...]:
    """Objects as BFCL's handlers turn them into calls: a missing key fails, arguments that are no object have the wrong shape."""
    try:
        pairs = [(call["name"], call[arguments_key]) for call in objects]
        for name, _ in pairs:
            hash(name)  # BFCL makes the name, whatever it is, the key of a dict
    except (KeyError, TypeError, IndexError) as error:
        raise ParseError("wrong_keys", 0, f"not objects with name and {arguments_key}: {error!r}") from None
    for _, arguments in pairs:
        if type(arguments) is not dict:
            raise ParseError("wrong_shape", 0, f"{arguments_key} are an object; found {type(arguments).__name__}")
    return tuple(ToolCall(name=name, arguments=arguments) for name, arguments in pairs)
