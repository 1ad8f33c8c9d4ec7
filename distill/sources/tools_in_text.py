"""Messages in; the tools that stand in their text, and where and in which layout they stand, out.

Three ways of writing tools are read, in this order: one JSON array (what Meta and BFCL write); JSON objects one after another, a line
each or indented (the Llama 3 chat template, `<tools>` tags, "Use the function ... to ..."); and a list as Python prints it, which is
what an f-string makes of a list and what AWS's own function-calling recipe sends. A tool stands as itself or in OpenAI's
`{"type": "function", "function": {...}}`; its types may be BFCL's (`dict`, `float`) or JSON Schema's.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from json.encoder import encode_basestring, encode_basestring_ascii
from typing import Any, cast

from distill.calls.bfcl_python import decode_python_literal
from distill.calls.bounds import MAX_DEPTH, ParseError
from distill.records import DataError, JsonObject, JsonValue, Message, Tool, ToolsSpan
from distill.sources.problem import RecordProblem
from distill.sources.tools import inner_function, is_too_deep

MAX_CANDIDATES = 100
"""Places in one message where a list may begin that are tried: a text of brackets takes no time."""
MAX_PYTHON_CANDIDATES = 10
"""As many for lists that Python printed, whose end is found more slowly."""
MAX_REMEMBERED_CHARS = 4_000_000
"""Length of all remembered texts together. With the tools in them they take some five times as much memory."""
MAX_MET = 4096
"""Texts of which only is known that they were met."""


@dataclass(frozen=True, slots=True)
class FoundTools:
    """Tools in a text. `span` is None if re-rendering them in no known layout gives back the text as it stands."""

    tools: tuple[Tool, ...]
    span: ToolsSpan | None


def find_tools(messages: Sequence[Message]) -> FoundTools:
    """The tools in the system or user messages: the first array, else all objects of the first message that has any.

    An object of name and parameters may also be a call that the prompt gives as an example. It is a tool if it has a description, if
    its parameters look like a schema, or if it stands in `{"type": "function", ...}`.

    Raises `RecordProblem`: `no_tools` if there are none, `bad_tool_json` if what begins like a tool list breaks off or is too deep.
    """
    readable = [
        (index, message.content) for index, message in enumerate(messages) if message.role in ("system", "user")
    ]
    broken: list[str] = []
    for find in (_find_array, _find_objects, _find_python_list):
        for index, text in readable:
            found = find(text)
            if isinstance(found, str):
                broken.append(found)
            elif found is not None:
                if found.span is None or found.span.message_index == index:
                    return found
                return FoundTools(found.tools, dataclasses.replace(found.span, message_index=index))
    if broken:
        raise RecordProblem("bad_tool_json", broken[0])
    raise RecordProblem(
        "no_tools", "no JSON array of tools, nor objects, with name and parameters in the system or user text"
    )


def render_tools(tools: Sequence[Tool], span: ToolsSpan, *, between: str | None = None) -> str:
    """The tools as text in the layout of `span`: one array, or objects with the text `between` them."""
    values: list[JsonValue] = [_plain(tool, span.wrapped) for tool in tools]
    if between is None:
        return _written(values, span)
    return between.join(_written(value, span) for value in values)


def replace_tools(
    messages: Sequence[Message], tools: Sequence[Tool], span: ToolsSpan
) -> tuple[tuple[Message, ...], ToolsSpan]:
    """The messages with other tools in the span's place, nothing else changed, and the new tools' span.

    Whether the tools are an array or objects, and what stands between objects, is as it is in the text now; after a single object a
    second one follows on a line of its own, after a blank line if they are indented. Raises `DataError` where objects would become none.
    """
    old = messages[span.message_index]
    between = _between(old.content, span)
    if between is not None and not tools:
        raise DataError("tools that stand as single objects cannot become none: their place would be lost; keep one")
    text = render_tools(tools, span, between=between)
    new = Message(old.role, old.content[: span.start] + text + old.content[span.end :])
    changed = (*messages[: span.message_index], new, *messages[span.message_index + 1 :])
    return changed, dataclasses.replace(span, end=span.start + len(text))


class _Remembering:
    """A search whose finds equal texts share: agents send one list of tools with request after request.

    A text is kept when it comes a second time; keeping those that never do made reading them a third slower.
    """

    def __init__(self, find: Callable[[str], FoundTools | str | None]) -> None:
        self._find = find
        self._known: dict[str, FoundTools] = {}
        self._num_chars = 0
        self._met: set[int] = set()

    def __call__(self, text: str) -> FoundTools | str | None:
        if text in self._known:
            return self._known[text]
        found = self._find(text)
        if isinstance(found, FoundTools):
            if hash(text) in self._met:
                self._keep(text, found)
            elif len(self._met) == MAX_MET:
                self._met.clear()
            self._met.add(hash(text))
        return found

    def _keep(self, text: str, found: FoundTools) -> None:
        if self._num_chars + len(text) > MAX_REMEMBERED_CHARS:
            self._known.clear()
            self._num_chars = 0
        self._known[text] = found
        self._num_chars += len(text)


@_Remembering
def _find_array(text: str) -> FoundTools | str | None:
    """The first array of tools in a text, or why what begins like one is none."""
    broken: str | None = None
    for start in _candidates(_ARRAY, text):
        try:
            value, end = _DECODER.raw_decode(text, start)
        except (ValueError, RecursionError) as error:
            if broken is None and '"name"' in text[start : start + 200]:
                broken = _why_broken(error, text, start)
            continue
        if _are_tools(value):
            _check_depth(value, text[start:end])
            tools = tuple(map(_tool, value))
            wrapped = "function" in value[0]
            written = [_plain(tool, wrapped) for tool in tools]
            return FoundTools(tools, _span([(text[start:end], written)], start, end, wrapped=wrapped))
    return broken


@_Remembering
def _find_objects(text: str) -> FoundTools | str | None:
    """All objects in a text that are tools, or why what looks like one is none."""
    found: list[tuple[dict[str, Any], int, int]] = []
    broken: str | None = None
    for start in _candidates(_OBJECT, text):
        if found and start < found[-1][2]:
            continue  # inside the tool before
        try:
            value, end = _DECODER.raw_decode(text, start)
        except (ValueError, RecursionError) as error:
            # A prompt may show the form of a call with words in the place of values; a description stands in tools only.
            if (
                broken is None
                and '"name"' in text[start : start + 200]
                and '"description"' in text[start : start + 2000]
            ):
                broken = _why_broken(error, text, start)
            continue
        if _is_single_tool(value):
            if not found and text[:start].rstrip().endswith("["):
                return broken  # the first item of an array that is broken further on
            found.append((value, start, end))
    if not found:
        return broken
    for value, start, end in found:
        _check_depth(value, text[start:end])
    tools = tuple(_tool(value) for value, _, _ in found)
    gaps = {text[before[2] : after[1]] for before, after in pairwise(found)}
    if len(gaps) > 1 or any(gap.strip() for gap in gaps):
        return FoundTools(tools, None)
    wrapped = "function" in found[0][0]
    pieces = [(text[start:end], _plain(tool, wrapped)) for tool, (_, start, end) in zip(tools, found, strict=True)]
    return FoundTools(tools, _span(pieces, found[0][1], found[-1][2], wrapped=wrapped))


@_Remembering
def _find_python_list(text: str) -> FoundTools | str | None:
    """The first list of tools that Python printed, or why what begins like one is none."""
    broken: str | None = None
    for start in islice(_candidates(_PYTHON_LIST, text), MAX_PYTHON_CANDIDATES):
        end = _python_end(text, start)
        try:
            if end is None:
                raise ValueError(f"it is not closed, or nested deeper than {MAX_DEPTH} levels")
            value = decode_python_literal(text[start:end])
            if _are_tools(value):
                if json.loads(json.dumps(value)) != value:
                    raise ValueError("it holds what JSON does not have, such as a tuple")
                return FoundTools(tuple(map(_tool, value)), None)
        except (ParseError, ValueError, TypeError, RecursionError) as error:
            if broken is None and "'name'" in text[start : start + 200]:
                broken = f"the tool list at character {start} is written as Python and cannot be read: {error}"
    return broken


_DECODER = json.JSONDecoder()
_ARRAY = re.compile(r'\[\s*\{\s*"')
_OBJECT = re.compile(r'\{\s*"(?:name|type|function|description|parameters|strict)"\s*:')
_PYTHON_LIST = re.compile(r"\[\s*\{\s*'")
_STRING = r'"[^"\\]*(?:\\.[^"\\]*)*"'
_HEAD = re.compile(rf'\[?(\n *)?\{{(\n *)?"(?:name|type)"( ?: ?){_STRING}( ?, ?)')
_PYTHON_PIECE = re.compile(r"""'[^'\\\n]*(?:\\.[^'\\\n]*)*'|"[^"\\\n]*(?:\\.[^"\\\n]*)*"|[\[{(\])}]""")


def _candidates(pattern: re.Pattern[str], text: str) -> Iterator[int]:
    for count, found in enumerate(pattern.finditer(text)):
        if count == MAX_CANDIDATES:
            return
        yield found.start()


def _why_broken(error: Exception, text: str, start: int) -> str:
    if isinstance(error, json.JSONDecodeError):
        near = text[max(start, error.pos - 20) : error.pos + 20]
        return f"the tool list is not valid JSON: {error.msg} at character {error.pos}, near {near!r}"
    return f"the tool list at character {start} is nested too deep or holds a number too large"


def _check_depth(value: Any, text: str) -> None:
    if text.count("[") + text.count("{") > MAX_DEPTH and is_too_deep(value):
        raise RecordProblem("bad_tool_json", f"the tool list is nested deeper than {MAX_DEPTH} levels")


def _python_end(text: str, start: int) -> int | None:
    """Where the bracket that opens at `start` is closed, strings skipped; None if it is not, or only after too deep a nesting."""
    depth = 0
    for piece in _PYTHON_PIECE.finditer(text, start):
        character = piece.group()
        if character in ("[", "{", "("):
            depth += 1
            if depth > MAX_DEPTH:
                return None
        elif character in ("]", "}", ")"):
            depth -= 1
            if depth == 0:
                return piece.end()
    return None


def _are_tools(value: Any) -> bool:
    """Whether it is a list of which every item may be a tool, and one certainly is."""
    return isinstance(value, list) and bool(value) and all(map(_may_be_tool, value)) and any(map(_is_tool, value))


def _may_be_tool(item: Any) -> bool:
    if not isinstance(item, dict):
        return False
    inner = inner_function(item)
    parameters = inner.get("parameters")
    if parameters is None:
        has_parameters = "arguments" not in inner and (inner is not item or "description" in inner)
    else:
        has_parameters = isinstance(parameters, dict)
    return isinstance(inner.get("name"), str) and has_parameters


def _is_tool(item: Any) -> bool:
    if not _may_be_tool(item):
        return False
    inner = inner_function(item)
    parameters = inner.get("parameters")
    return inner is not item or (
        isinstance(parameters, dict) and ("description" in inner or not parameters or _looks_like_schema(parameters))
    )


def _is_single_tool(item: Any) -> bool:
    """Stricter than in a list: `{"name": "now", "parameters": {}}` alone is rather a call."""
    return _is_tool(item) and (inner_function(item) is not item or "description" in item or bool(item["parameters"]))


def _looks_like_schema(parameters: JsonObject) -> bool:
    return parameters.get("type") in ("object", "dict") or isinstance(parameters.get("properties"), dict)


def _tool(item: dict[str, Any]) -> Tool:
    inner = inner_function(item)
    return Tool(inner["name"], str(inner.get("description") or ""), inner.get("parameters") or {})


def _plain(tool: Tool, wrapped: bool) -> JsonObject:
    plain: JsonObject = {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
    return {"type": "function", "function": plain} if wrapped else plain


def _between(text: str, span: ToolsSpan) -> str | None:
    """What stands between the objects of a span; None if it is an array."""
    if not text.startswith("{", span.start):
        return None
    _, end = _DECODER.raw_decode(text, span.start)
    if end < span.end:
        return text[end : text.index("{", end)]
    return "\n" if span.indent is None else "\n\n"


def _span(pieces: Sequence[tuple[str, Any]], start: int, end: int, *, wrapped: bool) -> ToolsSpan | None:
    """The span if each piece of text is its value written in one layout."""
    head = _HEAD.match(pieces[0][0])
    if head is None:
        return None
    array_break, object_break, key_separator, item_separator = head.groups()
    first_break = array_break if pieces[0][0].startswith("[") else object_break
    indent = None if first_break is None else len(first_break) - 1
    for ensure_ascii in (False, True):
        span = ToolsSpan(0, start, end, indent, item_separator, key_separator, wrapped, ensure_ascii)
        if all(_written(value, span) == text for text, value in pieces):
            return span
    return None


def _written(value: JsonValue, span: ToolsSpan) -> str:
    """The value as `json.dumps` writes it in the span's layout."""
    if span.indent is None:
        separators = (span.item_separator, span.key_separator)
        return json.dumps(value, separators=separators, ensure_ascii=span.ensure_ascii)
    return _indented(value, "\n", span, encode_basestring_ascii if span.ensure_ascii else encode_basestring)


def _indented(value: JsonValue, line: str, span: ToolsSpan, encode: Callable[[str], str]) -> str:
    """As `json.dumps` with an indent, whose encoder is in Python and twice as slow: half of the time that reading a prompt took."""
    if isinstance(value, str):
        return encode(value)
    if not value or not isinstance(value, dict | list):
        return json.dumps(value)
    inner = line + " " * cast(int, span.indent)
    if isinstance(value, dict):
        items = [encode(key) + span.key_separator + _indented(item, inner, span, encode) for key, item in value.items()]
        return f"{{{inner}{(span.item_separator + inner).join(items)}{line}}}"
    items = [_indented(item, inner, span, encode) for item in value]
    return f"[{inner}{(span.item_separator + inner).join(items)}{line}]"
