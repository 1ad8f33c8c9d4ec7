"""Text a model wrote -> its tool calls, or the reason there are none; nothing in the text is ever evaluated."""

from __future__ import annotations

import re
from typing import Literal, TypeAlias

from distill.calls.bfcl_python import decode_python_calls
from distill.calls.bounds import ParseError, ParseReason, check_characters, check_length, too_deep
from distill.calls.json_forms import (
    decode_function_tags,
    decode_hermes,
    decode_llama_json,
    decode_openai,
    read_function_tags,
    read_hermes,
    read_llama_json,
    read_openai,
)
from distill.calls.strict_python import read_python_calls
from distill.records import ToolCall

__all__ = ["CALL_FORMATS", "CallFormat", "ParseError", "ParseMode", "ParseReason", "looks_like_calls", "parse_calls"]

CallFormat: TypeAlias = Literal["pythonic", "llama_json", "function_tag", "hermes", "openai"]
ParseMode: TypeAlias = Literal["bfcl", "strict"]

CALL_FORMATS: tuple[CallFormat, ...] = ("pythonic", "llama_json", "function_tag", "hermes", "openai")

_ATTEMPT = re.compile(r"^\s*[\[{<]|\w\(|```")

_READERS = {
    ("bfcl", "pythonic"): decode_python_calls,
    ("bfcl", "llama_json"): decode_llama_json,
    ("bfcl", "function_tag"): decode_function_tags,
    ("bfcl", "hermes"): decode_hermes,
    ("bfcl", "openai"): decode_openai,
    ("strict", "pythonic"): read_python_calls,
    ("strict", "llama_json"): read_llama_json,
    ("strict", "function_tag"): read_function_tags,
    ("strict", "hermes"): read_hermes,
    ("strict", "openai"): read_openai,
}


def parse_calls(text: str, *, mode: ParseMode, call_format: CallFormat = "pythonic") -> tuple[ToolCall, ...]:
    """The tool calls in `text`, in the order written. Raises ParseError, and nothing else.

    `strict` is what production accepts: the calls and nothing around them but white space, arguments by name, none twice,
    every value a plain JSON value (a Python tuple becomes a list). `[]` is no calls in every format. The inverse of
    `distill.calls.render.render_calls`.

    `bfcl` reads as the leaderboard's decoders do, leniencies included: a bare name is its text, positional arguments are
    dropped, the last duplicate wins, a nested call with keywords is `{name: arguments}` and without them its source text.
    So values may be what Python literals are and JSON is not (tuple, bytes, complex, keys that are no strings), and the
    argument name of `**something` is None. Such calls are for `distill.calls.match`; they are not written to a file.
    `pythonic` follows `default_decode_ast_prompting`, `llama_json` the Llama 3.1 handler, `hermes` the Qwen one,
    `openai` those of function-calling APIs; `function_tag` has no counterpart there and reads every well-formed tag it finds.

    Time and memory are linear in the text; the limits are the constants of `distill.calls.bounds`.
    """
    check_length(text)
    if mode == "strict":
        check_characters(text)
    try:
        return _READERS[mode, call_format](text)
    except RecursionError:
        # Only where the caller's own stack is nearly used up: MAX_DEPTH leaves room on a fresh one.
        raise too_deep(0) from None


def looks_like_calls(text: str) -> bool:
    """Whether `text` tries to be calls, well-formed or not. A refusal or a question in plain words does not."""
    return _ATTEMPT.search(text) is not None
