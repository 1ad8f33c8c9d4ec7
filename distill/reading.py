"""A completion in; the calls it makes with the reply to train on, or why it cannot be used, out."""

from __future__ import annotations

from dataclasses import dataclass

from distill.calls.parse import ParseError, looks_like_calls, parse_calls
from distill.calls.render import render_calls
from distill.json_schema import why_not_allowed
from distill.records import Completion, DataError, Prompt, ToolCall


@dataclass(frozen=True, slots=True)
class Reading:
    """What one completion says: calls (none for a refusal) with the text to train on, or why it cannot be used."""

    calls: tuple[ToolCall, ...]
    reply: str
    reason: str | None
    detail: str


def read_completion(completion: Completion, prompt: Prompt) -> Reading:
    """Parse and check one completion. Text without anything like a call is a refusal or a question and is kept as such."""
    text = completion.text.strip()
    if completion.finish_reason == "length":
        return Reading((), text, "truncated", "the completion ended at annotate.max_new_tokens")
    if not text:
        return Reading((), text, "empty", "the completion is empty")
    if not looks_like_calls(text):
        return Reading((), text, None, "")
    try:
        calls = parse_calls(text, mode="strict")
    except ParseError as error:
        return Reading((), text, "malformed_call", f"{error}: {text[:200]}")
    try:
        problem = why_not_allowed(calls, prompt.tools)
    except DataError as error:
        return Reading(calls, text, "bad_tool_schema", str(error))
    if problem is not None:
        return Reading(calls, text, "invalid_call", f"{problem.message}: {text[:200]}")
    return Reading(calls, render_calls(calls), None, "")
