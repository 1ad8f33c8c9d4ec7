"""The answer of a logged call, as the readers of Converse and Llama bodies hand it back."""

from __future__ import annotations

from dataclasses import dataclass

from distill.records import ToolCall


@dataclass(frozen=True, slots=True)
class Reply:
    """What a model answered: its text, or calls (text is then ""), and why it stopped, None where that is not said."""

    text: str
    calls: tuple[ToolCall, ...]
    stop_reason: str | None
