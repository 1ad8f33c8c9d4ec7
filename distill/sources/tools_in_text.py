"""Messages in; the tools that stand in their text as JSON, and where and in which layout they stand, out."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from distill.calls.bounds import MAX_DEPTH
from distill.records import JsonObject, Message, Tool, ToolsSpan

CANDIDATE = re.compile(r'\[\s*\{\s*"')
MAX_CANDIDATES = 100
LAYOUTS: tuple[tuple[int | None, str, str], ...] = (
    (None, ", ", ": "),
    (None, ",", ":"),
    (4, ",", ": "),
    (2, ",", ": "),
    (1, ",", ": "),
    (None, ", ", ":"),
    (None, ",", ": "),
)


@dataclass(frozen=True, slots=True)
class FoundTools:
    """Tools in a text. `span` is None if re-rendering them in no known layout gives back the text as it stands."""

    tools: tuple[Tool, ...]
    span: ToolsSpan | None


class ToolsProblem(Exception):
    """The text holds no usable tools; `reason` is the reject's fixed word."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason, self.detail = reason, detail


def find_tools(messages: Sequence[Message]) -> FoundTools:
    """The first JSON array of tools in the system or user messages. Raises `ToolsProblem` if there is none or it is broken."""
    broken = False
    for index, message in enumerate(messages):
        if message.role not in ("system", "user"):
            continue
        for start in _candidates(message.content):
            try:
                value, length = json.JSONDecoder().raw_decode(message.content[start:])
            except (ValueError, RecursionError):
                broken = broken or '"name"' in message.content[start : start + 200]
                continue
            if _looks_like_tools(value):
                if _is_too_deep(value):
                    raise ToolsProblem("bad_tool_json", f"the tool list is nested deeper than {MAX_DEPTH} levels")
                tools = tuple(_tool(item) for item in value)
                return FoundTools(
                    tools=tools, span=_span(tools, value, message.content[start : start + length], index, start)
                )
    if broken:
        raise ToolsProblem("bad_tool_json", "the tool list is not valid JSON")
    raise ToolsProblem("no_tools", "no JSON array of tools with name and parameters in the system or user text")


def render_tools(tools: Sequence[Tool], span: ToolsSpan) -> str:
    """The tool list as text in the layout of `span`."""
    plain: list[JsonObject] = [
        {"name": tool.name, "description": tool.description, "parameters": tool.parameters} for tool in tools
    ]
    wrapped: Any = [{"type": "function", "function": item} for item in plain] if span.wrapped else plain
    return json.dumps(
        wrapped,
        indent=span.indent,
        separators=(span.item_separator, span.key_separator),
        ensure_ascii=span.ensure_ascii,
    )


def replace_tools(
    messages: Sequence[Message], tools: Sequence[Tool], span: ToolsSpan
) -> tuple[tuple[Message, ...], ToolsSpan]:
    """The messages with another tool list in the span's place, nothing else changed, and the new list's span."""
    text = render_tools(tools, span)
    old = messages[span.message_index]
    new = Message(old.role, old.content[: span.start] + text + old.content[span.end :])
    changed = (*messages[: span.message_index], new, *messages[span.message_index + 1 :])
    return changed, dataclasses.replace(span, end=span.start + len(text))


def why_bad_schema(tools: Sequence[Tool]) -> str | None:
    """A sentence if a tool is declared twice or requires a parameter that it does not have."""
    names = [tool.name for tool in tools]
    for name in names:
        if names.count(name) > 1:
            return f"tool {name} is declared twice"
    for tool in tools:
        properties, required = tool.parameters.get("properties", {}), tool.parameters.get("required", [])
        if not isinstance(properties, dict) or not isinstance(required, list):
            return f"tool {tool.name}: properties must be an object and required a list"
        missing = [str(name) for name in required if not isinstance(name, str) or name not in properties]
        if missing:
            return f"tool {tool.name} requires {', '.join(missing)}, not among its properties"
    return None


def _candidates(text: str) -> Iterator[int]:
    for count, found in enumerate(CANDIDATE.finditer(text)):
        if count == MAX_CANDIDATES:
            return
        yield found.start()


def _looks_like_tools(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(item, dict) and _is_tool(_unwrapped(item)) for item in value)
    )


def _is_too_deep(value: Any) -> bool:
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


def _unwrapped(item: dict[str, Any]) -> Any:
    return item["function"] if item.get("type") == "function" and isinstance(item.get("function"), dict) else item


def _is_tool(item: Any) -> bool:
    return isinstance(item.get("name"), str) and isinstance(item.get("parameters"), dict)


def _tool(item: dict[str, Any]) -> Tool:
    inner = _unwrapped(item)
    return Tool(name=inner["name"], description=str(inner.get("description") or ""), parameters=inner["parameters"])


def _span(tools: Sequence[Tool], value: list[dict[str, Any]], text: str, index: int, start: int) -> ToolsSpan | None:
    wrapped = "function" in value[0]
    for indent, item_separator, key_separator in LAYOUTS:
        for ensure_ascii in (False, True):
            span = ToolsSpan(
                message_index=index, start=start, end=start + len(text), indent=indent, item_separator=item_separator,
                key_separator=key_separator, wrapped=wrapped, ensure_ascii=ensure_ascii,
            )  # fmt: skip
            if render_tools(tools, span) == text:
                return span
    return None
