"""Java as BFCL reads it: the text of a call -> its arguments as source text, and an argument's text -> a value of its declared type.

Source: `java_parser.py` and `java_type_converter.py` of bfcl-eval 2026.3.23.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from distill.calls.bounds import ParseError, too_deep
from distill.calls.scanning import Places, enclosed, end_of, line_ends, number_or_text
from distill.calls.syntax import Syntax, parse_syntax
from distill.records import ToolCall

JAVA_TYPES: dict[str, type] = {
    "byte": int,
    "short": int,
    "integer": int,
    "long": int,
    "float": float,
    "double": float,
    "boolean": bool,
    "char": str,
    "String": str,
    "any": str,
    "Array": list,
    "ArrayList": list,
    "Queue": list,
    "Stack": list,
    "Set": set,
    "HashMap": dict,
    "Hashtable": dict,
}
"""BFCL's names of Java types and the Python types their values are compared as."""

MAX_TREE_DEPTH = 300
"""Deepest syntax tree read. BFCL's own decoder recurses and ends at Python's recursion limit, near 480."""


def decode_java(text: str) -> tuple[ToolCall, ...]:
    """The call BFCL would check: the first one in `text`, each argument as source text with the quotes of a whole literal cut.

    An argument without a name stands under None. The source is BFCL's rewriting of the syntax tree: white space between tokens and
    the body after `new A()` are dropped. Raises ParseError where BFCL's decoder raises anything or finds no call, and outside
    the bounds; DataError where the extra `java-js` is not installed.
    """
    syntax = parse_syntax(text, "java")
    call = _first_call(syntax)
    arguments: dict[Any, Any] = {}
    for child in call.child_by_field_name("arguments").children:
        if child.type == "assignment_expression":
            # By place, as BFCL takes them: a comment before the sign makes the sign the value.
            name, value = _cut(syntax, child.children[0]), _value_text(syntax, child.children[2])
        elif child.type in ("identifier", "class_literal"):
            name, value = None, _cut(syntax, child)
        else:
            continue
        if name in arguments:
            raise ParseError("duplicate_argument", syntax.position(child), f"a second argument {name!r}")
        arguments[name] = value
    owner, name = call.child_by_field_name("object"), _cut(syntax, call.child_by_field_name("name"))
    return (ToolCall(name=f"{_cut(syntax, owner)}.{name}" if owner else name, arguments=arguments),)


def convert_java(text: str, declared: str, item_type: str | None = None) -> Any:
    """A value of the type `declared`, and of `item_type` inside an array; `text` itself where it is written as no such value.

    In time linear in the text. Raises ValueError for an integer longer than Python reads, and for a collection that BFCL does
    not convert; KeyError for what is no key of JAVA_TYPES.
    """
    if declared in _LITERALS:
        pattern, read = _LITERALS[declared]
        return read(text) if pattern.match(text) else text
    if declared == "boolean":
        return _BOOLEANS.get(text, text)
    if declared == "Array":
        return _array(text, item_type)
    if declared == "ArrayList":
        return _array_list(text, item_type)
    if declared == "HashMap":
        return _hash_map(text)
    if JAVA_TYPES[declared] is str:
        return text
    raise ValueError(f"BFCL converts no {declared}")


# `$` also matches before a last newline, here and there.
_INTEGER = re.compile(r"-?\d+$")
_LONG = re.compile(r"-?\d+[lL]$")
_FLOAT = re.compile(r"-?\d+(\.\d+)?([eE][+-]?\d+)?[fF]$")
_DOUBLE = re.compile(r"-?\d+(\.\d+)?([eE][+-]?\d+)?$")
_LITERALS: dict[str, tuple[re.Pattern[str], Any]] = {
    "byte": (_INTEGER, int),
    "short": (_INTEGER, int),
    "integer": (_INTEGER, int),
    "long": (_LONG, lambda text: int(text.rstrip("\n")[:-1])),
    "float": (_FLOAT, lambda text: float(text.rstrip("\n")[:-1])),
    "double": (_DOUBLE, float),
}
_BOOLEANS = {"true": True, "false": False}

_ARRAY = re.compile(r"new\s+\w+\[\]\s*\{")
_LIST_OF = re.compile(r"new\s+ArrayList<\w*>\(Arrays\.asList\(")
_LIST_BODY = re.compile(r"new\s+ArrayList<\w*>\(\)\s*\{\{")
_LIST_EMPTY = re.compile(r"new\s+ArrayList<\w*>\(\)")
_LIST_ADD = re.compile(r"add\(")
_MAP = re.compile(r"new\s+HashMap<")
_MAP_BODY = re.compile(r">\s*\(\)\s*\{")
_MAP_BODY_START = re.compile(r"\s*\{?\s*")
_MAP_EMPTY = re.compile(r">\s*\(\)")
_BODY_END = re.compile(r"\}\}")
_KEY_END = re.compile('",')
_KEY_END_OF_LINE = re.compile(r'",[^\S\n]*\n')
_PARENTHESIS = re.compile(r"\)")
_NO_SPACE = re.compile(r"\S")
_SPACE = re.compile(r"\s*")


def _array(text: str, item_type: str | None) -> Any:
    items = next(enclosed(text, _ARRAY, "}"), None)
    if items is None:
        return text
    stripped = [item.strip() for item in items.split(",")]
    return [convert_java(item, item_type) if item_type else _untyped(item) for item in stripped if item]


def _array_list(text: str, item_type: str | None) -> Any:
    listed = next(enclosed(text, _LIST_OF, "))", shortest=1), None)
    if listed is not None:
        return [_item(item.strip(), item_type) for item in listed.split(",")]
    body = _body_of_list(text)
    if body is not None:
        return [_item(item.strip(), item_type) for item in enclosed(body, _LIST_ADD, ")", shortest=1)]
    return [] if _LIST_EMPTY.search(text) else text


def _item(text: str, item_type: str | None) -> Any:
    if item_type in ("char", "String"):
        return text[1:-1]
    return convert_java(text, item_type) if item_type else _untyped(text)


def _body_of_list(text: str) -> str | None:
    """What stands in the first double braces after `new ArrayList<>()`, at least one character."""
    ends = Places(text, _BODY_END)
    for opening in _LIST_BODY.finditer(text):
        start = end_of(_SPACE, text, opening.end())
        end = ends.first(start + 1)
        if end < len(text):
            return text[start:end]
        if start > opening.end() and text.startswith("}}", start):
            return ""
    return None


def _hash_map(text: str) -> Any:
    opening = _MAP.search(text)
    if opening is None:
        return text
    body = _MAP_BODY.search(text, opening.end())
    if body is not None and (end := text.find("}", body.end())) >= 0:
        entries = text[end_of(_MAP_BODY_START, text, body.end()) : end]
        return {key: _untyped(value.strip()) for key, value in _puts(entries)}
    ends, empty = line_ends(text), Places(text, _MAP_EMPTY)
    written = any(empty.first(found.end()) < ends.first(found.end()) for found in _MAP.finditer(text, opening.start()))
    return {} if written else text


def _puts(text: str) -> Iterator[tuple[str, str]]:
    """The groups of each match of `put("(.*?)",\\s*(.*?)\\)`, whose value may begin on a later line than its key.

    A key ends at the first `",` of its line, or, where no value follows there, at one that ends its line: for any other `",`
    no value follows either.
    """
    key_line_ends = line_ends(text)
    # One set of places for each way to end a key, as each asks for ever later positions only.
    ways = [
        (Places(text, pattern), Places(text, _PARENTHESIS), line_ends(text), Places(text, _NO_SPACE))
        for pattern in (_KEY_END, _KEY_END_OF_LINE)
    ]
    position = 0
    while (put := text.find('put("', position)) >= 0:
        key, position = put + len('put("'), put + 1
        for key_ends, value_ends, value_line_ends, value_starts in ways:
            key_end = key_ends.first(key)
            if key_end >= key_line_ends.first(key):
                continue
            value = value_starts.first(key_end + len('",'))
            value_end = value_ends.first(value)
            if value_end < value_line_ends.first(value):
                yield text[key:key_end], text[value:value_end]
                position = value_end + 1
                break


def _untyped(text: str) -> Any:
    """A value by its looks, without white space around: boolean, string, long, float, whatever Python reads as a number, or its text."""
    if text in _BOOLEANS:
        return _BOOLEANS[text]
    if text.startswith('"') and text.endswith('"'):
        return text[1:-1]
    if _LONG.match(text):
        return int(text[:-1])
    if _FLOAT.match(text):
        return float(text[:-1])
    return number_or_text(text)


_WHOLE = ("string_literal", "character_literal")
_AS_WRITTEN = (*_WHOLE, "identifier", "class_literal", "type_identifier", "method_invocation")


def _first_call(syntax: Syntax) -> Any:
    """The first node, in the order of the text, that is a call; what encloses another comes first."""
    todo = [(syntax.root, 0)]
    while todo:
        node, depth = todo.pop()
        if depth > MAX_TREE_DEPTH:
            raise too_deep(syntax.position(node))
        if node.type == "method_invocation":
            return node
        todo.extend((child, depth + 1) for child in reversed(node.children))
    raise ParseError("wrong_shape", 0, "there is no call in it")


def _value_text(syntax: Syntax, value: Any) -> str:
    """BFCL's text of a value's syntax tree: its tokens without the white space between them, but for what it takes as written."""
    if value.type in _WHOLE:
        return _cut(syntax, value)[1:-1]
    pieces: list[str] = []
    todo: list[tuple[Any, int]] = [(value, 0)]
    while todo:
        node, depth = todo.pop()
        if depth > MAX_TREE_DEPTH:
            raise too_deep(syntax.position(value))
        if isinstance(node, str):
            pieces.append(node)
        elif node.type in _AS_WRITTEN or not node.children:
            pieces.append(_cut(syntax, node))
        else:
            todo.extend((part, depth + 1) for part in reversed(_parts(syntax, node)))
    return "".join(pieces)


def _parts(syntax: Syntax, node: Any) -> list[Any]:
    """The nodes and texts whose text, one after another, is that of `node`."""
    if node.type == "array_creation_expression":
        value = node.child_by_field_name("value")
        if value is None:
            raise ParseError("not_a_literal", syntax.position(node), "an array without its items")
        return ["new ", node.child_by_field_name("type"), "[]", value]
    if node.type == "object_creation_expression":
        arguments = node.child_by_field_name("arguments")
        given = [child for child in arguments.children if child.type not in ("(", ",", ")")]
        separated = [part for child in given for part in (", ", child)][1:]
        return ["new ", node.child_by_field_name("type"), "(", *separated, ")"]
    return list(node.children)


def _cut(syntax: Syntax, node: Any) -> str:
    # By byte offsets in the characters, as BFCL cuts: after a character that is not ASCII the text is shifted.
    return syntax.source[node.start_byte : node.end_byte]
