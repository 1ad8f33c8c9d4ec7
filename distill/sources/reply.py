"""What an assistant answered, as the readers of foreign formats hand it on: apart, or as the text of an earlier turn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from distill.calls.render import render_calls
from distill.records import DataError, ToolCall
from distill.sources.problem import RecordProblem


@dataclass(frozen=True, slots=True)
class Reply:
    """What a model answered: its text, or calls (text is then ""), and why it stopped, None where that is not said."""

    text: str
    calls: tuple[ToolCall, ...]
    stop_reason: str | None


def text_with_calls(text: str, calls: Sequence[ToolCall]) -> str:
    """An earlier turn: its calls as one pythonic list, on a line of its own after the turn's text if it has any.

    Raises `RecordProblem` (`unwritable_call`) where a call has no pythonic form.
    """
    try:
        rendered = render_calls(calls)
    except DataError as error:
        raise RecordProblem("unwritable_call", str(error)) from None
    return f"{text}\n{rendered}" if text.strip() else rendered
