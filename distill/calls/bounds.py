"""Limits under which model text is read, the error for what lies outside them, and arithmetic of literals inside them.

The limits keep every reader linear in time and memory whatever a model wrote. They are, with "nothing is evaluated",
the only differences from BFCL's decoder.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from typing import Any, Literal

MAX_TEXT_CHARS = 100_000
"""Longest completion read; 4,096 tokens are about 20,000 characters."""
MAX_DEPTH = 100
"""Deepest nesting of brackets, and of operators inside one value. CPython's own parser stops at 200 brackets."""
MAX_INT_DIGITS = 4300
"""Longest number literal in characters: CPython's own limit for decimal integers."""
MAX_INT_BITS = 14_284
"""Largest integer, written or computed: the most bits that always print in MAX_INT_DIGITS decimal digits."""

ParseReason = Literal[
    "empty",  # nothing but white space
    "too_long",  # over MAX_TEXT_CHARS; Java and JavaScript: over a bound of distill.calls.syntax
    "too_deep",  # over MAX_DEPTH
    "number_too_large",  # over MAX_INT_DIGITS or MAX_INT_BITS
    "not_text",  # a NUL byte or a lone surrogate
    "not_a_list",  # does not begin with the bracket, brace or tag of its format
    "text_around",  # something before or after the calls
    "unterminated",  # ends inside a call: usually cut off
    "syntax",  # anything else the grammar does not allow
    "not_a_call",  # a list element that is no call
    "positional_argument",  # f(1)
    "duplicate_argument",  # f(a=1, a=2), or a repeated key in an object
    "json_literal",  # true, false, null where Python wants True, False, None
    "bare_name",  # f(a=Paris)
    "nested_call",  # f(a=g(b=1))
    "not_a_literal",  # lambda, comprehension, f-string, comparison, attribute, ...
    "not_json",  # a Python literal without a JSON counterpart: bytes, complex, a key that is no string
    "bad_string",  # an escape that means nothing, two strings side by side
    "arithmetic",  # division by zero, or operands that have no sum
    "wrong_keys",  # an object without exactly the keys of a call
    "wrong_shape",  # a call whose name is no string or whose arguments are no object
]


class ParseError(Exception):
    """Text that holds no readable calls: a fixed `reason`, the character offset `position` in the text, and words for people."""

    def __init__(self, reason: ParseReason, position: int, message: str) -> None:
        super().__init__(f"{reason} at {position}: {message}")
        self.reason: ParseReason = reason
        self.position = position
        self.message = message

    def __reduce__(self) -> tuple[type[ParseError], tuple[ParseReason, int, str]]:
        # Exceptions pickle by their single message, which would lose the three fields on the way between processes.
        return type(self), (self.reason, self.position, self.message)


def check_length(text: str) -> None:
    """Refuse a text over MAX_TEXT_CHARS. Raises ParseError."""
    if len(text) > MAX_TEXT_CHARS:
        raise ParseError("too_long", MAX_TEXT_CHARS, f"{len(text)} characters; at most {MAX_TEXT_CHARS} are read")


def check_characters(text: str) -> None:
    """Refuse what no source file holds: NUL bytes and lone surrogates. Raises ParseError."""
    if (position := text.find("\0")) >= 0:
        raise ParseError("not_text", position, "a NUL byte")
    if not text.isascii() and (surrogate := _SURROGATE.search(text)):
        raise ParseError("not_text", surrogate.start(), f"the lone surrogate {surrogate.group()!r}")


def check_depth(text: str) -> None:
    """Refuse brackets nested deeper than MAX_DEPTH, strings and comments skipped. Raises ParseError."""
    if len(text) <= MAX_DEPTH or text.count("[") + text.count("(") + text.count("{") <= MAX_DEPTH:
        return
    depth = 0
    for token in _BRACKET_OR_STRING.finditer(text):
        if token.group() in _OPENING:
            depth += 1
            if depth > MAX_DEPTH:
                raise too_deep(token.start())
        elif token.group() in _CLOSING:
            depth -= 1


def too_deep(position: int) -> ParseError:
    return ParseError("too_deep", position, f"nested deeper than {MAX_DEPTH}")


def check_int(value: int, position: int) -> None:
    """Refuse an integer over MAX_INT_BITS. Raises ParseError."""
    if value.bit_length() > MAX_INT_BITS:
        raise ParseError(
            "number_too_large", position, f"an integer of {value.bit_length()} bits; at most {MAX_INT_BITS}"
        )


def fold_unary(symbol: str, operand: Any, position: int) -> Any:
    """Sign of a number. Raises ParseError where the operand has none."""
    if not isinstance(operand, _NUMBERS):
        raise ParseError("arithmetic", position, f"{symbol} of a {type(operand).__name__}")
    try:
        return UNARY[symbol](operand)
    except TypeError as error:
        raise ParseError("arithmetic", position, str(error)) from None


def fold_binary(symbol: str, left: Any, right: Any, position: int) -> Any:
    """Arithmetic of two literals: numbers under any operator, and `+` of two strings, lists or tuples. Raises ParseError.

    Repetition (`"ab" * 9`) and string formatting (`"%9d" % 1`) are refused: their results are not linear in the text.
    """
    if not (isinstance(left, _NUMBERS) and isinstance(right, _NUMBERS)):
        if not (symbol == "+" and type(left) is type(right) and isinstance(left, str | bytes | list | tuple)):
            kinds = f"{type(left).__name__} {symbol} {type(right).__name__}"
            raise ParseError("arithmetic", position, f"{kinds} is not arithmetic of literals")
    elif isinstance(left, int) and isinstance(right, int):
        _check_result_bits(symbol, left, right, position)
    try:
        value = BINARY[symbol](left, right)
    except (ArithmeticError, TypeError, ValueError) as error:
        raise ParseError("arithmetic", position, str(error)) from None
    if type(value) is int:
        check_int(value, position)
    return value


UNARY: dict[str, Callable[[Any], Any]] = {"+": operator.pos, "-": operator.neg, "~": operator.invert}
BINARY: dict[str, Callable[[Any, Any], Any]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "//": operator.floordiv,
    "@": operator.matmul,
    "%": operator.mod,
    "**": operator.pow,
    "<<": operator.lshift,
    ">>": operator.rshift,
    "&": operator.and_,
    "|": operator.or_,
    "^": operator.xor,
}

# A tuple, as `isinstance` takes longer over a union.
_NUMBERS = (int, float, complex)
_OPENING = frozenset("[({")
_CLOSING = frozenset("])}")
_SURROGATE = re.compile("[\ud800-\udfff]")
# The closing quote is optional so that an unterminated string is skipped once instead of being tried at each of its characters.
_BRACKET_OR_STRING = re.compile(
    r'"""[^"\\]*(?:(?:\\.|"(?!""))[^"\\]*)*(?:""")?'
    r"|'''[^'\\]*(?:(?:\\.|'(?!''))[^'\\]*)*(?:''')?"
    r'|"[^"\\\n]*(?:\\.[^"\\\n]*)*"?'
    r"|'[^'\\\n]*(?:\\.[^'\\\n]*)*'?"
    r"|#[^\n]*"
    r"|[\[({\])}]",
    re.DOTALL,
)


def _check_result_bits(symbol: str, left: int, right: int, position: int) -> None:
    """Refuse a power or shift by its operands, before computing what would not fit."""
    if symbol == "**" and abs(left) > 1 and right > 0:
        bits = (abs(left).bit_length() - 1) * right
    elif symbol == "<<" and left:
        bits = right
    else:
        return
    if bits > MAX_INT_BITS:
        raise ParseError("number_too_large", position, f"{symbol} gives more than {MAX_INT_BITS} bits")
