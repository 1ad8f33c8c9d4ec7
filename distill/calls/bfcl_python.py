"""Text -> tool calls as BFCL's decoder of Python calls reads it, its leniencies included, with nothing evaluated.

Source: `default_decode_ast_prompting` and `resolve_ast_by_type` of bfcl-eval 2026.3.23. The grammar is CPython's own parser, as there.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Callable
from typing import Any, cast

from distill.calls.bounds import (
    MAX_DEPTH,
    MAX_INT_BITS,
    ParseError,
    ParseReason,
    check_depth,
    check_int,
    fold_binary,
    fold_unary,
    too_deep,
)
from distill.records import ToolCall


def decode_python_calls(text: str) -> tuple[ToolCall, ...]:
    """The calls BFCL would check. Raises ParseError where BFCL's decoder raises anything, and outside the bounds."""
    source = text.strip("`\n ")
    shift = len(text) - len(text.lstrip("`\n "))
    if not source.startswith("["):
        source, shift = "[" + source, shift - 1
    if not source.endswith("]"):
        source += "]"
    body = _parse(source, shift)
    elements = [body] if isinstance(body, ast.Call) else getattr(body, "elts", None)
    if elements is None:
        raise ParseError("not_a_list", max(shift, 0), f"{_name_of(body)} instead of a list of calls")
    try:
        return tuple(_top_level_call(element) for element in elements)
    except _Refusal as refusal:
        raise refusal.located(source, shift) from None


def decode_python_literal(source: str) -> Any:
    """What `eval(source)` would give, for literals and arithmetic of literals only. Raises ParseError for the rest."""
    # `eval` strips these two before it parses.
    stripped = source.lstrip(" \t")
    shift = len(source) - len(stripped)
    try:
        return _fold(_parse(stripped, shift), 0)
    except _Refusal as refusal:
        raise refusal.located(stripped, shift) from None


# A backslash, or a number with a keyword right behind it: CPython warns of escapes such as "\d" and of numbers such as 1or.
# The pattern begins with one set of characters, through which `re` goes fastest.
_MAY_WARN = re.compile(r"[\\0-9](?:(?<=\\)|(?:\.?[jJ]?|(?<=0)[xX][0-9a-fA-F_]+)(?:and|else|for|i[fns]|not|or))")


class _Refusal(Exception):
    """A ParseError that knows its node and not yet its position, so that only errors pay for finding it."""

    def __init__(self, reason: ParseReason, node: ast.AST, message: str) -> None:
        super().__init__(reason)
        self.reason, self.node, self.message = reason, node, message

    def located(self, source: str, shift: int) -> ParseError:
        line, column = getattr(self.node, "lineno", 1), getattr(self.node, "col_offset", 0)
        start = _line_start(source, line)
        # The parser counts columns in UTF-8 bytes.
        before = source[start : start + column].encode()[:column].decode(errors="ignore")
        return ParseError(self.reason, max(0, start + len(before) + shift), self.message)


def _parse(source: str, shift: int) -> ast.expr:
    """Python source -> its expression, through bounds that CPython's parser bears.

    `shift` is what to add to an offset in `source` to get the offset in the text the caller was given.
    """
    check_depth(source)
    try:
        if not _MAY_WARN.search(source):
            return _expression(source)
        with warnings.catch_warnings():
            # A filter that makes errors of warnings must not change the result.
            warnings.simplefilter("ignore")
            return _expression(source)
    except SyntaxError as error:
        reason: ParseReason = "unterminated" if _was_cut(error) else "syntax"
        position = _line_start(source, error.lineno or 1) + (error.offset or 1) - 1 + shift
        raise ParseError(reason, max(0, position), f"not Python: {error.msg}") from None
    except (MemoryError, RecursionError):
        # Both are how CPython's parser and AST builder say that something nests too deeply.
        raise too_deep(max(shift, 0)) from None
    except (ValueError, OverflowError) as error:
        raise ParseError("syntax", max(shift, 0), f"not Python: {error}") from None


def _expression(source: str) -> ast.expr:
    # As `ast.parse(source, mode="eval")`, which takes its time over arguments.
    return cast(ast.Expression, compile(source, "<unknown>", "eval", ast.PyCF_ONLY_AST, dont_inherit=True)).body


def _top_level_call(node: ast.expr) -> ToolCall:
    if not isinstance(node, ast.Call):
        raise _Refusal("not_a_call", node, f"{_name_of(node)} instead of a call")
    return ToolCall(name=_called_name(node), arguments=_named_arguments(node))


def _called_name(node: ast.Call) -> str:
    """The dotted name of what is called; a base that is no name is left out, as BFCL does."""
    function = node.func
    if isinstance(function, ast.Name):
        return function.id
    parts = []
    while isinstance(function, ast.Attribute):
        parts.append(function.attr)
        function = function.value
    if isinstance(function, ast.Name):
        parts.append(function.id)
    return ".".join(reversed(parts))


def _named_arguments(node: ast.Call) -> dict[Any, Any]:
    # Positional arguments are not looked at: BFCL drops them.
    return {keyword.arg: _value(keyword.value) for keyword in node.keywords}


def _value(node: ast.expr | None) -> Any:
    """A value as BFCL resolves it."""
    resolve = _RESOLVERS.get(type(node))
    if resolve is None:
        raise _Refusal("not_a_literal", node or ast.Pass(), f"{_name_of(node)} is not a literal")
    return resolve(node)


def _negative(node: ast.UnaryOp) -> Any:
    # Whatever the operator, BFCL takes the negative: +5 is -5 and not True is -1.
    if isinstance(node.operand, ast.Constant):
        return _folded(node, fold_unary, "-", node.operand.value)
    raise _Refusal("arithmetic", node, f"an operator before {_name_of(node.operand)}")


def _constant(node: ast.Constant) -> Any:
    value = node.value
    if type(value) is int and value.bit_length() > MAX_INT_BITS:
        _folded(node, check_int, value)
    return "..." if value is Ellipsis else value


_RESOLVERS: dict[type, Callable[[Any], Any]] = {
    ast.Constant: _constant,
    ast.List: lambda node: [_value(item) for item in node.elts],
    ast.Tuple: lambda node: tuple([_value(item) for item in node.elts]),
    ast.Dict: lambda node: _dictionary(node, _value),
    ast.Name: lambda node: node.id,
    ast.UnaryOp: _negative,
    ast.BinOp: lambda node: _fold(node, 0),
    ast.Call: lambda node: {_called_name(node): _named_arguments(node)} if node.keywords else _source_text(node),
    ast.Subscript: lambda node: f"{_source_text(node.value)}[{_source_text(node.slice)}]",
}


def _fold(node: ast.expr | None, depth: int) -> Any:
    """A value as `eval` computes it, which is as Python means it and not always as `_value` resolves it."""
    if node is None or depth > MAX_DEPTH:
        raise _Refusal("too_deep" if node else "not_a_literal", node or ast.Pass(), f"deeper than {MAX_DEPTH}")
    if isinstance(node, ast.Constant):
        return Ellipsis if node.value is Ellipsis else _constant(node)
    if isinstance(node, ast.BinOp):
        left, right = _fold(node.left, depth + 1), _fold(node.right, depth + 1)
        return _folded(node, fold_binary, _SYMBOLS[type(node.op)], left, right)
    if isinstance(node, ast.UnaryOp):
        operand = _fold(node.operand, depth + 1)
        return (
            not operand if isinstance(node.op, ast.Not) else _folded(node, fold_unary, _SYMBOLS[type(node.op)], operand)
        )
    if isinstance(node, ast.List):
        return [_fold(item, depth + 1) for item in node.elts]
    if isinstance(node, ast.Tuple):
        return tuple(_fold(item, depth + 1) for item in node.elts)
    if isinstance(node, ast.Dict):
        return _dictionary(node, lambda item: _fold(item, depth + 1))
    raise _Refusal("not_a_literal", node, f"{_name_of(node)} where only literals are computed with")


def _dictionary(node: ast.Dict, resolve: Callable[[ast.expr | None], Any]) -> dict[Any, Any]:
    pairs = [(resolve(key), resolve(value)) for key, value in zip(node.keys, node.values, strict=True)]
    try:
        return dict(pairs)
    except TypeError as error:
        raise _Refusal("not_json", node, f"a dict key: {error}") from None


def _folded(node: ast.AST, operation: Callable[..., Any], *operands: Any) -> Any:
    """The operation's result, its error located at `node`."""
    try:
        return operation(*operands, 0)
    except ParseError as error:
        raise _Refusal(error.reason, node, error.message) from None


def _source_text(node: ast.expr) -> str:
    """Source normalised by `ast.unparse`, which recurses and so is given bounded depth only."""
    level: list[ast.AST] = [node]
    for _ in range(MAX_DEPTH):
        level = [child for parent in level for child in ast.iter_child_nodes(parent)]
        if not level:
            break
    else:
        raise _Refusal("too_deep", node, f"nested deeper than {MAX_DEPTH}")
    try:
        return ast.unparse(node)
    except ValueError as error:
        raise _Refusal("not_a_literal", node, f"{_name_of(node)} cannot be written back: {error}") from None


_LINE_END = re.compile(r"\r\n|\r|\n")
_SYMBOLS: dict[type[ast.operator | ast.unaryop], str] = {
    ast.Add: "+",
    ast.Sub: "-",
    ast.Mult: "*",
    ast.Div: "/",
    ast.FloorDiv: "//",
    ast.Mod: "%",
    ast.Pow: "**",
    ast.LShift: "<<",
    ast.RShift: ">>",
    ast.BitAnd: "&",
    ast.BitOr: "|",
    ast.BitXor: "^",
    ast.MatMult: "@",
    ast.UAdd: "+",
    ast.USub: "-",
    ast.Invert: "~",
}


def _name_of(node: ast.AST | None) -> str:
    return "**" if node is None else type(node).__name__


def _was_cut(error: SyntaxError) -> bool:
    message = error.msg or ""
    return "was never closed" in message or "unterminated" in message or "unexpected EOF" in message


def _line_start(source: str, line: int) -> int:
    """Offset of a 1-based line; CPython ends lines at a carriage return, too."""
    starts = [0, *(end.end() for end in _LINE_END.finditer(source))]
    return starts[min(line, len(starts)) - 1]
