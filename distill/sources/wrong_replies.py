"""A prompt and the reply that came with it in; why the reply would teach the wrong thing out.

A user's own replies are golden examples: the teacher imitates them and the student learns them. So a reply in a form that its own
prompt forbids is named before anything is spent on it. The form that AWS's function-calling recipe writes is known by name: its
labels are BFCL's answer sets, `[{"f": {"a": [10, ""]}}]`, under a prompt that asks for `{"name": ..., "parameters": ...}`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from distill.calls.bfcl_python import decode_python_literal
from distill.calls.parse import CALL_FORMATS, CallFormat, ParseError, looks_like_calls, parse_calls
from distill.records import Message, Tool, ToolCall

WrongReplyReason = Literal[
    "reply_is_an_answer_set",  # BFCL's lists of acceptable values instead of a call
    "answer_unparseable",  # tries to be calls and is none in any format
    "reply_in_another_format",  # calls, in a format other than the one the prompt asks for
    "calls_unknown_function",  # a call of a tool that the prompt does not offer
]


@dataclass(frozen=True, slots=True)
class WrongReply:
    """A reply not to be learnt: the reject's fixed word, and what was found in words for people."""

    reason: WrongReplyReason
    detail: str


def why_wrong_reply(text: str, *, messages: Sequence[Message], tools: Sequence[Tool]) -> WrongReply | None:
    """The first thing wrong with a reply's form, None if it can be learnt. A reply in plain words calls nothing and is fine.

    Arguments are not looked at: `distill.calls.schema.why_invalid` checks them.
    """
    if _is_answer_set(text, tools):
        return WrongReply(
            "reply_is_an_answer_set",
            f"the reply is a set of acceptable answers as BFCL keeps them, not a call: {text.strip()[:120]!r}; choose one value "
            "for each parameter and write the call",
        )
    try:
        calls, call_format = read_reply(text)
    except ParseError as error:
        return WrongReply("answer_unparseable", f"the reply looks like calls and is none: {error}")
    demanded = demanded_format(messages)
    if calls and demanded is not None and call_format != demanded:
        return WrongReply(
            "reply_in_another_format",
            f"the prompt asks for calls in the form {demanded}, the reply is written as {call_format}",
        )
    return why_wrong_calls(calls, tools=tools)


def why_wrong_calls(calls: Sequence[ToolCall], *, tools: Sequence[Tool]) -> WrongReply | None:
    """As `why_wrong_reply`, for a reply whose source keeps the calls apart."""
    names = {tool.name for tool in tools}
    unknown = next((call.name for call in calls if call.name not in names), None)
    if unknown is None:
        return None
    offered = ", ".join(sorted(names)) or "none"
    return WrongReply("calls_unknown_function", f"the reply calls {unknown!r}; the prompt's tools are {offered}"[:400])


def read_reply(text: str) -> tuple[tuple[ToolCall, ...], CallFormat | None]:
    """A reply's calls and the format they are written in, whichever it is; no calls and None for plain words and `[]`.

    Raises `ParseError`, that of the format which reads furthest, for what looks like calls and is none.
    """
    if not looks_like_calls(text):
        return (), None
    errors: list[ParseError] = []
    for call_format in CALL_FORMATS:
        try:
            calls = parse_calls(text, mode="strict", call_format=call_format)
        except ParseError as error:
            errors.append(error)
        else:
            return calls, call_format if calls else None
    raise max(errors, key=lambda error: error.position)


def demanded_format(messages: Sequence[Message]) -> CallFormat | None:
    """The format of calls that the system and user texts ask for; None if they name none, or several."""
    texts = [message.content for message in messages if message.role in ("system", "user")]
    named = [call_format for call_format, form in _CONTRACTS.items() if any(map(form.search, texts))]
    return named[0] if len(named) == 1 else None


# What contracts write in the place of a name or value tells them from tools and calls: words without quotes, or nothing.
_CONTRACTS: dict[CallFormat, re.Pattern[str]] = {
    "pythonic": re.compile(r"\[\s*[A-Za-z_]\w*\(\s*[A-Za-z_]\w*\s*=\s*[A-Za-z_]"),
    "llama_json": re.compile(r'\{\s*"name"\s*:\s*(?:[^"\s{}\[\],][^",{}]{0,80}|"\.\.\.")\s*,\s*"parameters"\s*:'),
    "function_tag": re.compile(r"<function="),
    "hermes": re.compile(r"<tool_call>"),
}


def _is_answer_set(text: str, tools: Sequence[Tool]) -> bool:
    """Whether the reply is `[{name: {parameter: [values]}}]` for a tool of the prompt, as JSON or as Python prints it."""
    if not text.lstrip().startswith(("[", "{")):
        return False
    value = _literal(text)
    calls = value if isinstance(value, list) else [value]
    names = {tool.name for tool in tools}
    return bool(calls) and all(map(_is_options, calls)) and any(name in names for call in calls for name in call)


def _literal(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    try:
        return decode_python_literal(text.strip())
    except ParseError:
        return None


def _is_options(call: Any) -> bool:
    if not isinstance(call, dict) or len(call) != 1:
        return False
    (options,) = call.values()
    return isinstance(options, dict) and all(isinstance(values, list) for values in options.values())
