"""Messages and tools in; the same with calls as `tool_calls` objects and tools as JSON Schema out, as OpenAI's API has them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from distill.calls.parse import ParseError, looks_like_calls, parse_calls
from distill.json_schema import TYPES
from distill.records import DataError, JsonObject, JsonValue, Message, Tool, ToolCall, ToolsSpan


class UnpairedToolResult(DataError):
    """A tool's result without the call it answers, or a call without its result: there is no id to tie them together."""


@dataclass(frozen=True, slots=True)
class CallStyle:
    """How the reader writes calls: what becomes of a name and of arguments, and whether a result repeats its tool's name.

    With `unanswered` a call may go without its result, as in a worked example.
    """

    name: Callable[[str], str]
    arguments: Callable[[JsonObject], JsonValue]
    names_results: bool
    unanswered: bool = False


def native_turns(messages: Sequence[Message], style: CallStyle) -> tuple[list[JsonObject], int]:
    """The conversation with calls as objects, each result beside the id of its call; and how many calls there are.

    Raises `UnpairedToolResult`, and what the functions of `style` raise.
    """
    turns: list[JsonObject] = []
    num_calls = 0
    open_calls: list[tuple[str, str]] = []
    for message in messages:
        if message.role == "tool":
            if not open_calls:
                raise UnpairedToolResult(f"a tool's result follows no call; {_WHERE_IDS_ARE_FROM}")
            identity, name = open_calls.pop(0)
            named: JsonObject = {"name": name} if style.names_results else {}
            turns.append({"role": "tool", "tool_call_id": identity, **named, "content": message.content})
            continue
        _check_answered(open_calls, style)
        text, calls = read_calls(message.content) if message.role == "assistant" else (message.content, ())
        content: JsonObject = {"content": text} if text or not calls else {}
        objects = call_objects(calls, style, first=num_calls)
        turns.append({"role": message.role, **content, **({"tool_calls": objects} if objects else {})})
        open_calls = [(call_id(num_calls + index), style.name(call.name)) for index, call in enumerate(calls)]
        num_calls += len(calls)
    _check_answered(open_calls, style)
    return turns, num_calls


def call_objects(calls: Sequence[ToolCall], style: CallStyle, *, first: int) -> list[JsonValue]:
    """`tool_calls` whose ids count on from `first`."""
    return [
        {
            "id": call_id(first + index),
            "type": "function",
            "function": {"name": style.name(call.name), "arguments": style.arguments(call.arguments)},
        }
        for index, call in enumerate(calls)
    ]


def call_id(number: int) -> str:
    """Nine letters and digits, the only form that Mistral's chat templates take."""
    return f"call{number:05d}"


def read_calls(text: str) -> tuple[str, tuple[ToolCall, ...]]:
    """An assistant's turn as its sentence and its calls, which are all of it or its last line."""
    sentence, _, last = text.rstrip().rpartition("\n")
    for before, written in (("", text), (sentence, last)):
        if looks_like_calls(written):
            try:
                calls = parse_calls(written, mode="strict")
            except ParseError:
                continue
            if calls:
                return before, calls
    return text, ()


def without_tool_list(messages: Sequence[Message], tools_span: ToolsSpan | None) -> tuple[Message, ...]:
    """The messages with the tool list cut out where its place is known; a system text that was nothing else goes."""
    if tools_span is None:
        return tuple(messages)
    message = messages[tools_span.message_index]
    rest = Message(message.role, message.content[: tools_span.start] + message.content[tools_span.end :])
    kept = () if message.role == "system" and not rest.content.strip() else (rest,)
    return (*messages[: tools_span.message_index], *kept, *messages[tools_span.message_index + 1 :])


def declared_tools(tools: Sequence[Tool], *, name: Callable[[str], str]) -> list[JsonValue]:
    """The `tools` of a request, each under `name` of its name, its parameters in JSON Schema's own words."""
    return [{"type": "function", "function": _function(tool, name)} for tool in tools]


_WHERE_IDS_ARE_FROM = "ids go with calls that the turn before writes down"


def _check_answered(open_calls: Sequence[tuple[str, str]], style: CallStyle) -> None:
    if open_calls and not style.unanswered:
        raise UnpairedToolResult(f"the call of {open_calls[0][1]} has no result; {_WHERE_IDS_ARE_FROM}")


def _function(tool: Tool, name: Callable[[str], str]) -> JsonObject:
    parameters: JsonObject = {**_json_schema(tool.parameters), "type": "object"}
    parameters.setdefault("properties", {})
    return {"name": name(tool.name), "description": tool.description, "parameters": parameters}


_SCHEMAS_BY_NAME = ("properties", "patternProperties", "$defs", "definitions")


def _json_schema(schema: JsonObject) -> JsonObject:
    """The schema in JSON Schema's own words: BFCL's types by their standard names, `any` as no type, arrays with `items`."""
    result: JsonObject = {}
    for key, value in schema.items():
        if key == "type":
            names = [TYPES.get(str(name), name) for name in (value if isinstance(value, list) else [value])]
            if "any" not in names:
                result[key] = names if isinstance(value, list) else names[0]
        elif key == "required" and not isinstance(value, list):
            continue  # BFCL writes it as a boolean on the parameter at times
        elif key in _SCHEMAS_BY_NAME and isinstance(value, dict):
            result[key] = {name: _json_schema_of(item) for name, item in value.items()}
        elif key in ("items", "additionalProperties", "not", "anyOf", "oneOf", "allOf", "prefixItems"):
            result[key] = (
                [_json_schema_of(item) for item in value] if isinstance(value, list) else _json_schema_of(value)
            )
        else:
            result[key] = value
    if result.get("type") == "array" and not {"items", "prefixItems"} & result.keys():
        result["items"] = {}
    return result


def _json_schema_of(value: JsonValue) -> JsonValue:
    return _json_schema(value) if isinstance(value, dict) else value
