"""The text of a call in Java or JavaScript -> its syntax tree, by tree-sitter, the optional extra `java-js`.

How tree-sitter repairs a broken text differs between its releases. Of 240,000 mutated texts in each language, the extra's releases
and those that bfcl-eval 2026.3.23 pins read all Java alike and all JavaScript but two broken texts.
"""

from __future__ import annotations

import functools
import importlib
import itertools
import warnings
from dataclasses import dataclass
from typing import Any, Literal

from distill.calls.bounds import ParseError
from distill.records import DataError

MAX_SOURCE_CHARS = 20_000
"""Longest text read: 4,096 tokens, BFCL's most, are about as many characters.

Where the grammar does not allow a text, tree-sitter looks for the smallest repair, for some texts in quadratic time. This bound and
the next two keep the worst texts that a search found to a few seconds.
"""
MAX_ANGLE_BRACKETS = 1_000
"""Most of `<` and `>` together in a Java text; repairs around them are the slowest, and no `progress_callback` interrupts one."""
MAX_STEPS_PER_CHAR = 0.25
"""Most steps of a hundred parser operations for each character, and for a hundred characters more. Right calls take 0.03."""


@dataclass(frozen=True, slots=True)
class Syntax:
    """A text as BFCL's decoders take it, between its outer brackets, and the root of its tree. Offsets in the tree are in bytes."""

    source: str
    encoded: bytes
    shift: int
    root: Any

    def position(self, node: Any) -> int:
        """The node's character offset in the text that was given."""
        return max(0, self.shift + len(self.encoded[: node.start_byte].decode(errors="ignore")))


def parse_syntax(text: str, grammar: Literal["java", "javascript"]) -> Syntax:
    """The syntax tree of what stands between the outer brackets of `text`, one or both of which may be missing.

    Tokens that tree-sitter supplies, such as a last bracket, are no error; neither are they for BFCL. Raises ParseError where
    the grammar does not allow the text, and outside the bounds; DataError where the extra is not installed.
    """
    new_parser = _new_parser(grammar)
    _check_bounds(text, grammar)
    source = text.strip("`\n ")
    shift = len(text) - len(text.lstrip("`\n "))
    if source.startswith("["):
        source, shift = source[1:], shift + 1
    source = source.removesuffix("]")
    try:
        encoded = source.encode()
    except UnicodeEncodeError as error:
        raise ParseError("not_text", shift + error.start, "a lone surrogate") from None
    syntax = Syntax(source, encoded, shift, _parse(new_parser(), encoded))
    _refuse_errors(syntax)
    return syntax


@functools.cache
def _new_parser(grammar: str) -> Any:
    """What makes a parser of the grammar; a parser holds state, so each text gets its own."""
    try:
        tree_sitter: Any = importlib.import_module("tree_sitter")
        language: Any = importlib.import_module(f"tree_sitter_{grammar}")
    except ImportError as error:
        raise DataError(
            f"calls in {grammar}: {error.name} is not installed, and without it their syntax cannot be read; "
            "install the extra: pip install 'distill[java-js]'"
        ) from None
    with warnings.catch_warnings():
        # The JavaScript grammar is of the release that BFCL pins, which hands over its table in the older way.
        warnings.simplefilter("ignore", DeprecationWarning)
        table = tree_sitter.Language(language.language())
    return functools.partial(tree_sitter.Parser, table)


def _check_bounds(text: str, grammar: str) -> None:
    if len(text) > MAX_SOURCE_CHARS:
        raise ParseError("too_long", MAX_SOURCE_CHARS, f"{len(text)} characters; at most {MAX_SOURCE_CHARS} are read")
    num_brackets = text.count("<") + text.count(">")
    if grammar == "java" and num_brackets > MAX_ANGLE_BRACKETS:
        raise ParseError("too_long", 0, f"{num_brackets} angle brackets; at most {MAX_ANGLE_BRACKETS} are read")


def _parse(parser: Any, encoded: bytes) -> Any:
    most_steps = MAX_STEPS_PER_CHAR * (len(encoded) + 100)
    steps = itertools.count()
    try:
        tree = parser.parse(
            # Only a text that is read piece by piece can be given up.
            lambda offset, _: encoded[offset : offset + _PIECE_BYTES],
            progress_callback=lambda offset, has_error: next(steps) > most_steps,
        )
    except ValueError:
        raise ParseError(
            "too_long", 0, f"not parsed in {most_steps:.0f} steps; it is too far from the grammar"
        ) from None
    return tree.root_node


def _refuse_errors(syntax: Syntax) -> None:
    todo = [syntax.root]
    while todo:
        node = todo.pop()
        if node.is_error:
            cut = node.end_byte == len(syntax.encoded)
            raise ParseError(
                "unterminated" if cut else "syntax", syntax.position(node), "the grammar does not allow this"
            )
        # Also set above a token that tree-sitter supplied.
        todo.extend(child for child in reversed(node.children) if child.has_error)


_PIECE_BYTES = 4096
