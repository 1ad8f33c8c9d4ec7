"""JavaScript as BFCL reads it: the text of a call -> its arguments as source text, and an argument's text -> a value of its declared type.

Source: `js_parser.py` and `js_type_converter.py` of bfcl-eval 2026.3.23.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from distill.calls.bounds import ParseError
from distill.calls.scanning import Places, enclosed, enclosed_at_start, end_of, number_or_text
from distill.calls.syntax import Syntax, parse_syntax
from distill.records import ToolCall

JAVASCRIPT_TYPES: dict[str, type] = {
    "String": str,
    "any": str,
    "integer": int,
    "Bigint": int,
    "float": float,
    "Boolean": bool,
    "array": list,
    "dict": dict,
}
"""BFCL's names of JavaScript types and the Python types their values are compared as."""


def decode_javascript(text: str) -> tuple[ToolCall, ...]:
    """The call BFCL would check: the first statement of `text` that is one, each argument as source text, quotes around it cut.

    A bare name or `true` among the arguments stands under None; what else has no name is dropped. Raises ParseError where BFCL's
    decoder raises anything or finds no call, and outside the bounds; DataError where the extra `java-js` is not installed.
    """
    syntax = parse_syntax(text, "javascript")
    call = _first_call(syntax)
    # By place, as BFCL takes them: of `f?.(x=1)` and `f /* so */ (x=1)` the second part is not the arguments.
    name, given = call.children[:2]
    arguments: dict[Any, Any] = {}
    for child in given.children:
        if child.type == "assignment_expression":
            key, value = _cut(syntax, child.children[0]), _unquoted(_cut(syntax, child.children[2]))
        elif child.type in ("identifier", "true"):
            key, value = None, _cut(syntax, child)
        else:
            continue
        if key in arguments:
            raise ParseError("duplicate_argument", syntax.position(child), f"a second argument {key!r}")
        arguments[key] = value
    return (ToolCall(name=_cut(syntax, name), arguments=arguments),)


def convert_javascript(text: str, declared: str, item_type: str | None = None) -> Any:
    """A value of the type `declared`, and of `item_type` inside an array; the text itself where it is written as no such value.

    In time linear in the text. Raises ValueError for an integer longer than Python reads outside an array; KeyError for what is
    no key of JAVASCRIPT_TYPES.
    """
    if declared in _LITERALS:
        pattern, read = _LITERALS[declared]
        return read(text) if pattern.match(text) else text
    if declared == "String":
        return _unquoted(text)
    if declared == "Boolean":
        return _BOOLEANS.get(text, text)
    if declared == "array":
        return _array(text.strip(), item_type)
    if declared == "dict":
        return _dictionary(text.strip())
    if declared == "any":
        return text
    raise KeyError(declared)


# `$` also matches before a last newline, here and there.
_LITERALS: dict[str, tuple[re.Pattern[str], Any]] = {
    "integer": (re.compile(r"-?\d+$"), int),
    "float": (re.compile(r"-?\d+(\.\d+)?$"), float),
    # With a newline after it the last character is not the `n`, and what remains is no integer.
    "Bigint": (re.compile(r"-?\d+n$"), lambda text: int(text[:-1])),
}
_BOOLEANS = {"true": True, "false": False}

_LIST = re.compile(r"\[|new\s+Array\(")
_LIST_OF_LISTS = re.compile(r"(?:\[|new\s+Array\()\s*(?=\[)")
_ROW = re.compile(r"\[")
# The end of a row and what follows it: the end of all rows, or another row. And the ends of lines.
_ROW_ENDS = {
    "[": re.compile(r"\](?=\s*(?:(\])|,\s*(\[)))|\n"),
    "n": re.compile(r"\](?=\s*(?:(\))|,\s*(\[)))|\n"),
}
_COLON = re.compile(":")
_COMMA = re.compile(",")
_SPACE = re.compile(r"\s*")


def _array(code: str, item_type: str | None) -> Any:
    rows = _list_of_lists(code)
    if rows is not None:
        return rows
    opening = _LIST.match(code)
    content = enclosed_at_start(code, opening.end(), ")" if opening.group().endswith("(") else "]") if opening else None
    if content is None:
        return code
    items = [item.strip() for item in content.split(",")] if content.strip() else []
    try:
        return [convert_javascript(item, item_type) if item_type else _untyped(item) for item in items]
    except ValueError:
        return code


def _list_of_lists(code: str) -> list[list[Any]] | None:
    """Rows of a list that begins with a list; their items are read by their looks, and nothing nests deeper."""
    opening = _LIST_OF_LISTS.match(code)
    end = _end_of_rows(code, opening.end()) if opening else None
    if end is None:
        return None
    rows = []
    for index, row in enumerate(enclosed(code[:end], _ROW, "]")):
        content = row.strip()
        if index == 0:
            content = content.removeprefix("[")
        rows.append([_untyped(item.strip()) for item in content.split(",")])
    return rows


def _end_of_rows(code: str, start: int) -> int | None:
    """The end of what BFCL's pattern of rows matches, the first row's bracket at `start`: `[.*?] (, [.*?])* ]`, white space anywhere.

    A row may hold closing brackets, but no newline: it ends at its first one after which the rest can match. As that depends on
    the bracket alone, going backwards finds it for each in one step, where `re` tries all combinations.
    """
    line_start, brackets = 0, []
    for found in _ROW_ENDS[code[0]].finditer(code, start):
        if found.group() == "\n":
            line_start = found.end()
        else:
            brackets.append((line_start, found.end(1), found.start(2)))
    # The line and the end of the match of the nearest bracket after which the rest matches.
    nearest: tuple[int, int] | None = None
    for line_start, end, next_row in reversed(brackets):
        if end >= 0:
            nearest = (line_start, end)
        elif nearest is not None and nearest[0] <= next_row:
            nearest = (line_start, nearest[1])
    return nearest[1] if nearest is not None and nearest[0] <= start else None


def _dictionary(code: str) -> Any:
    if code == "{}":
        return {}
    content = enclosed_at_start(code, 1, "}") if code.startswith("{") else None
    if content is None:
        return code
    values = {}
    for key, text in _pairs(content):
        value = text.strip()
        is_list = value.startswith("[") and value.endswith("]")
        values[key.strip().strip("'\"")] = _array(value, None) if is_list else _untyped(value.strip("'\""))
    return values


def _pairs(content: str) -> Iterator[tuple[str, str]]:
    """The groups of each match of `([^:]+):\\s*(.*?)(?:,\\s*(?=[^,]+:)|$)`: a value ends at a comma before the next key, or at the end."""
    key_ends, value_ends = Places(content, _COLON), Places(content, _COMMA)
    colons, commas = Places(content, _COLON), Places(content, _COMMA)
    position = 0
    while True:
        while content.startswith(":", position):
            position += 1
        key, key_end = position, key_ends.first(position)
        if key_end == len(content):
            return
        value = end_of(_SPACE, content, key_end + 1)
        value_end = value_ends.first(value)
        while (next_comma := commas.first(value_end + 1)) <= colons.first(value_end + 2) and value_end < len(content):
            value_end = next_comma
        yield content[key:key_end], content[value:value_end]
        position = end_of(_SPACE, content, value_end + 1)
        if content.startswith(":", position) and colons.first(position + 1) >= next_comma:
            # The colon must have something before it, if only the last of the white space.
            position -= 1


def _is_quoted(text: str) -> bool:
    return text[:1] in ('"', "'") and text.endswith(text[0])


def _unquoted(text: str) -> str:
    return text[1:-1] if _is_quoted(text) else text


def _untyped(text: str) -> Any:
    """A value by its looks: boolean, quoted string, whatever Python reads as a number, or its text."""
    text = text.strip()
    if text in _BOOLEANS:
        return _BOOLEANS[text]
    if _is_quoted(text):
        return text[1:-1]
    return number_or_text(text)


def _first_call(syntax: Syntax) -> Any:
    for statement in syntax.root.children:
        if statement.type == "expression_statement":
            for child in statement.children:
                if child.type == "call_expression":
                    return child
    raise ParseError("wrong_shape", 0, "no statement of it is a call")


def _cut(syntax: Syntax, node: Any) -> str:
    return syntax.encoded[node.start_byte : node.end_byte].decode()
