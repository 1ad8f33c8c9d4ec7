"""What every source yields: one conversation up to the turn to be answered, with what was answered there, if anything was.

A source reads one foreign format. It yields a `SourceRecord` or a `Reject` for every line, object or conversation it finds, in
the order of its input, and raises nothing but `DataError` (the input as a whole cannot be read).
"""

from __future__ import annotations

from dataclasses import dataclass

from distill.records import Category, ExpectedCall, Message, Source, Tool, ToolCall


@dataclass(frozen=True, slots=True)
class LoggedReply:
    """An assistant's answer that came with the prompt: its text, or calls where the format keeps them apart (text is then "").

    `model` is None for the user's own answer (a golden example), else the model that a log names.
    """

    text: str
    calls: tuple[ToolCall, ...]
    model: str | None


@dataclass(frozen=True, slots=True)
class SourceRecord:
    """A candidate prompt. `messages` ends with the turn to be answered (user or tool), every text byte for byte as found.

    `tools` are those of a structured field; None means that they stand in the text, if anywhere. A source that knows the expected calls
    gives them (none means that nothing is to be called), and with them perhaps the category.
    """

    messages: tuple[Message, ...]
    tools: tuple[Tool, ...] | None
    reply: LoggedReply | None
    source: Source
    expected_calls: tuple[ExpectedCall, ...] | None = None
    category: Category | None = None
