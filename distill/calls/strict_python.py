"""Text -> tool calls, read strictly as `[name(argument="value"), other()]`: what production accepts."""

from __future__ import annotations

import keyword
import re
import unicodedata
from typing import cast

from distill.calls.bounds import (
    MAX_DEPTH,
    MAX_INT_DIGITS,
    ParseError,
    ParseReason,
    check_int,
    fold_binary,
    fold_unary,
    too_deep,
)
from distill.records import JsonObject, JsonValue, ToolCall

NAME = r"\w[\w-]*"
"""One part of a tool or argument name: Python's identifiers, and the hyphens, leading digits and reserved words real tools have."""


def read_python_calls(text: str) -> tuple[ToolCall, ...]:
    """The calls of a text that is exactly one Python list of calls with keyword arguments. Raises ParseError.

    Values are literals (strings plain, raw or triple-quoted), numbers joined by + - * / // % **, and None, True, False.
    `**{"odd name": 1}` gives an argument whose name Python cannot write.
    """
    position = _skip(text, 0)
    if position == len(text):
        raise ParseError("empty", position, "no text; a reply without calls is []")
    if text[position] != "[":
        raise ParseError(
            "not_a_list", position, f"the reply begins with {text[position : position + 20]!r}, not with ["
        )
    calls: list[ToolCall] = []
    position = _skip(text, position + 1)
    while not text.startswith("]", position):
        call, position = _call(text, position)
        calls.append(call)
        position = _separator(text, position, "]")
    position = _skip(text, position + 1)
    if position < len(text):
        raise ParseError("text_around", position, f"{text[position : position + 20]!r} after the closing ]")
    return tuple(calls)


_SPACES = " \t\n\r\f"
_SPACE = re.compile(r"[ \t\n\r\f]*")
_CALL_NAME = re.compile(rf"({NAME}(?:\.{NAME})*)[ \t\n\r\f]*\(")
_ARGUMENT_NAME = re.compile(rf"({NAME})[ \t\n\r\f]*=(?!=)")
_CUT_NAME = re.compile(rf"(?:{NAME}(?:\.{NAME})*)?\.?[ \t\n\r\f]*\Z|\*\Z")
_WORD = re.compile(r"[^\W\d]\w*")
_NUMBER = re.compile(
    r"0[xX][0-9a-fA-F_]+|0[bB][01_]+|0[oO][0-7_]+|(?:[0-9][0-9_]*\.?[0-9_]*|\.[0-9][0-9_]*)(?:[eE][+-]?[0-9][0-9_]*)?"
)
_NUMBER_STARTS = frozenset("0123456789.")
_BRACKETS = frozenset("[{(")
_STRING_STARTS = frozenset("\"'bBfFrRuU")
_IS_FLOAT = re.compile(r"(?!0[xX])[^eE.]*[eE.]")
_STRING_START = re.compile(r"""([a-zA-Z]{0,2})(\"\"\"|'''|"|')""")
_STRING_REST = {
    '"': re.compile(r'([^"\\\n\r]*(?:\\.[^"\\\n\r]*)*)"', re.DOTALL),
    "'": re.compile(r"([^'\\\n\r]*(?:\\.[^'\\\n\r]*)*)'", re.DOTALL),
    '"""': re.compile(r'([^"\\]*(?:(?:\\.|"(?!""))[^"\\]*)*)"""', re.DOTALL),
    "'''": re.compile(r"([^'\\]*(?:(?:\\.|'(?!''))[^'\\]*)*)'''", re.DOTALL),
}
_ESCAPE = re.compile(
    r"\\(?:([0-7]{1,3})|x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|N\{([^}\n]+)\}|(.))", re.DOTALL
)
_ESCAPED = {
    "\n": "",
    "\\": "\\",
    "'": "'",
    '"': '"',
    "a": "\a",
    "b": "\b",
    "f": "\f",
    "n": "\n",
    "r": "\r",
    "t": "\t",
    "v": "\v",
}
_CALL_DEPTH = 2  # the list and the call around an argument
_CONSTANTS: dict[str, JsonValue] = {"None": None, "True": True, "False": False}
_JSON_CONSTANTS = {"true": "True", "false": "False", "null": "None"}
_VALUE_ENDS = frozenset(",)]}:")
_OPERATOR = re.compile(r"\*\*|//|[-+*/%]")
_ADDITIVE, _MULTIPLICATIVE, _UNARY, _POWER = 1, 2, 3, 4
_PRECEDENCE = {
    "+": _ADDITIVE,
    "-": _ADDITIVE,
    "*": _MULTIPLICATIVE,
    "/": _MULTIPLICATIVE,
    "//": _MULTIPLICATIVE,
    "%": _MULTIPLICATIVE,
    "**": _POWER,
}


def _skip(text: str, position: int) -> int:
    # Most often there is nothing to skip, or one space.
    if text[position : position + 1] not in _SPACES:
        return position
    return cast("re.Match[str]", _SPACE.match(text, position)).end()


def _separator(text: str, position: int, closing: str) -> int:
    """Past the comma after an element and to the next one, or to the closing bracket."""
    position = _skip(text, position)
    if text.startswith(closing, position):
        return position
    if not text.startswith(",", position):
        raise _unexpected(text, position, f", or {closing}")
    return _skip(text, position + 1)


def _unexpected(text: str, position: int, wanted: str) -> ParseError:
    if position >= len(text):
        return ParseError("unterminated", position, f"the text ends where {wanted} should follow")
    return ParseError("syntax", position, f"{text[position : position + 20]!r} where {wanted} should follow")


def _call(text: str, position: int) -> tuple[ToolCall, int]:
    head = _CALL_NAME.match(text, position)
    if head is None:
        if _CUT_NAME.match(text, position):
            raise _unexpected(text, len(text), "the rest of a call")
        raise ParseError("not_a_call", position, f"{text[position : position + 20]!r} is not a call name(...)")
    name = head.group(1)
    arguments: JsonObject = {}
    position = _skip(text, head.end())
    while not text.startswith(")", position):
        start = position
        if text.startswith("**", position):
            position = _skip(text, position + 2)
            if not text.startswith("{", position):
                raise _unexpected(text, position, "a dict of arguments")
            named, position = _dict(text, position, _CALL_DEPTH + 1)
        elif (head := _ARGUMENT_NAME.match(text, position)) is not None:
            value, position = _expression(text, head.end(), _CALL_DEPTH, _ADDITIVE)
            named = {head.group(1): value}
        elif _CUT_NAME.match(text, position):
            raise _unexpected(text, len(text), "the rest of an argument")
        else:
            raise ParseError("positional_argument", position, f"{name} takes arguments by name: name=value")
        for argument, item in named.items():
            if argument in arguments:
                raise ParseError("duplicate_argument", start, f"the argument {argument!r} of {name} stands twice")
            arguments[argument] = item
        position = _separator(text, position, ")")
    return ToolCall(name=name, arguments=arguments), position + 1


def _expression(text: str, position: int, depth: int, floor: int) -> tuple[JsonValue, int]:
    """A value whose operators bind at least as tightly as `floor`, and the position behind it (precedence climbing)."""
    position = _skip(text, position)
    if depth > MAX_DEPTH:
        raise too_deep(position)
    start = position
    value: JsonValue
    if text.startswith(("+", "-"), position):
        operand, position = _expression(text, position + 1, depth + 1, _UNARY)
        value = fold_unary(text[start], _number(operand, start), start)
    else:
        value, position = _atom(text, position, depth)
    while True:
        position = _skip(text, position)
        if text[position : position + 1] in _VALUE_ENDS:
            return value, position
        symbol = _OPERATOR.match(text, position)
        if symbol is None or _PRECEDENCE[symbol.group()] < floor:
            return value, position
        # A right operand binds tighter than its operator, except that ** groups to the right.
        tighter = _POWER if symbol.group() == "**" else _PRECEDENCE[symbol.group()] + 1
        right, position = _expression(text, symbol.end(), depth + 1, tighter)
        value = fold_binary(symbol.group(), _number(value, start), _number(right, symbol.end()), symbol.start())
        if isinstance(value, complex):
            raise ParseError("not_json", start, "a complex number")


def _number(value: JsonValue, position: int) -> JsonValue:
    if isinstance(value, int | float):
        return value
    raise ParseError("arithmetic", position, f"arithmetic is for numbers, not for a {type(value).__name__}")


def _atom(text: str, position: int, depth: int) -> tuple[JsonValue, int]:
    """One literal, list, dict or value in parentheses."""
    character = text[position : position + 1]
    if character in _NUMBER_STARTS:
        return _numeral(text, position)
    if character in _STRING_STARTS and (string := _STRING_START.match(text, position)) is not None:
        return _string(text, string)
    if depth == MAX_DEPTH and character in _BRACKETS:
        raise too_deep(position)
    if character == "[":
        return _items(text, position + 1, depth + 1, "]")
    if character == "{":
        return _dict(text, position, depth + 1)
    if character == "(":
        return _parenthesis(text, position, depth + 1)
    if (word := _WORD.match(text, position)) is not None:
        return _word(text, word)
    raise _unexpected(text, position, "a value")


def _items(text: str, position: int, depth: int, closing: str) -> tuple[list[JsonValue], int]:
    """The values from `position`, behind the opening bracket, to the closing one."""
    items: list[JsonValue] = []
    position = _skip(text, position)
    while not text.startswith(closing, position):
        value, position = _expression(text, position, depth, _ADDITIVE)
        items.append(value)
        position = _separator(text, position, closing)
    return items, position + 1


def _dict(text: str, position: int, depth: int) -> tuple[JsonObject, int]:
    values: JsonObject = {}
    position = _skip(text, position + 1)
    while not text.startswith("}", position):
        start = position
        key, position = _expression(text, position, depth, _ADDITIVE)
        if not isinstance(key, str):
            raise ParseError("not_json", start, f"the key {key!r}; keys are strings")
        if key in values:
            raise ParseError("duplicate_argument", start, f"the key {key!r} stands twice")
        if not text.startswith(":", position):
            raise _unexpected(text, position, ":")
        values[key], position = _expression(text, position + 1, depth, _ADDITIVE)
        position = _separator(text, position, "}")
    return values, position + 1


def _parenthesis(text: str, position: int, depth: int) -> tuple[JsonValue, int]:
    """A value in parentheses, or a tuple, which is a list here as JSON has no other."""
    start = _skip(text, position + 1)
    if text.startswith(")", start):
        return [], start + 1
    value, end = _expression(text, start, depth, _ADDITIVE)
    if text.startswith(")", end):
        return value, end + 1
    items, end = _items(text, _separator(text, end, ")"), depth, ")")
    return [value, *items], end


def _word(text: str, word: re.Match[str]) -> tuple[JsonValue, int]:
    name, position = word.group(), word.start()
    if name in _CONSTANTS:
        return _CONSTANTS[name], word.end()
    if name in _JSON_CONSTANTS:
        raise ParseError("json_literal", position, f"{name} is JSON; Python writes {_JSON_CONSTANTS[name]}")
    if word.end() == len(text):
        raise ParseError("unterminated", position, f"the text ends in {name!r}")
    follower = text[_skip(text, word.end()) :][:1]
    if follower == "(":
        raise ParseError("nested_call", position, f"a call of {name} as a value; values are literals")
    if not keyword.iskeyword(name) and follower in (",", ")", "]", "}", ":"):
        raise ParseError("bare_name", position, f"the name {name} without quotes; text stands in quotes")
    raise ParseError("not_a_literal", position, f"{text[position : position + 20]!r} is not a literal")


def _numeral(text: str, position: int) -> tuple[JsonValue, int]:
    token = _NUMBER.match(text, position)
    end = position if token is None else token.end()
    digits = text[position:end]
    if len(digits) > MAX_INT_DIGITS:
        raise ParseError(
            "number_too_large", position, f"a number of {len(digits)} characters; at most {MAX_INT_DIGITS}"
        )
    if text[end : end + 1] in ("j", "J"):
        raise ParseError("not_json", position, "a complex number")
    try:
        # int(x, 0) and float(x) know where underscores may stand and that 007 is no number.
        value: int | float = float(digits) if _IS_FLOAT.match(digits) else int(digits, 0)
    except ValueError:
        raise ParseError("syntax", position, f"{text[position : position + 20]!r} is not a number") from None
    if isinstance(value, int):
        check_int(value, position)
    return value, end


def _string(text: str, start: re.Match[str]) -> tuple[str, int]:
    prefix, quote = start.group(1).lower(), start.group(2)
    if prefix not in ("", "r", "u"):
        reason: ParseReason = "not_json" if "b" in prefix else "not_a_literal"
        raise ParseError(reason, start.start(), f"a string with the prefix {start.group(1)}")
    rest = _STRING_REST[quote].match(text, start.end())
    if rest is None:
        raise ParseError("unterminated", start.start(), "a string without its closing quote")
    value, end = rest.group(1).replace("\r\n", "\n").replace("\r", "\n"), rest.end()
    if "\\" in value and prefix != "r":
        value = _ESCAPE.sub(lambda escape: _unescape(escape, rest.start()), value)
    if _STRING_START.match(text, _skip(text, end)):
        raise ParseError("bad_string", end, "two strings side by side: a comma is missing")
    return value, end


def _unescape(escape: re.Match[str], start: int) -> str:
    octal, byte, short, long, name, other = escape.groups()
    try:
        if octal:
            return chr(int(octal, 8))
        if byte or short or long:
            return chr(int(byte or short or long, 16))
        if name:
            return unicodedata.lookup(name)
    except (ValueError, KeyError, OverflowError):
        raise ParseError("bad_string", start + escape.start(), f"{escape.group()!r} means no character") from None
    if other in ("x", "u", "U", "N"):
        raise ParseError("bad_string", start + escape.start(), f"{escape.group()!r} means no character")
    # As Python does: an escape it does not know stays as written.
    return _ESCAPED.get(other, escape.group())
