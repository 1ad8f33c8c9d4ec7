"""Messages and the tools of a structured field in; messages whose system text lists the tools, and where, out.

Llama's small models have no other place for tools than text. Ours asks for the pythonic form that Meta recommends for them, and lists
the tools as one JSON array.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from distill.records import Message, Tool, ToolsSpan
from distill.sources.tools_in_text import FoundTools

BEFORE_TOOLS = (
    "You can call functions to do what the user asks. Write calls as [name1(parameter1=value1, ...), name2(...)] and nothing else. "
    "If no function fits, or something that a function requires is missing, say so in a sentence instead.\n"
    "The functions, as a JSON array:\n"
)


def put_tools_in_text(messages: Sequence[Message], tools: Sequence[Tool]) -> tuple[tuple[Message, ...], FoundTools]:
    """The messages with `BEFORE_TOOLS` and the tools behind the first system text, or as a system text of their own."""
    has_system = bool(messages) and messages[0].role == "system"
    start = f"{messages[0].content}\n\n{BEFORE_TOOLS}" if has_system else BEFORE_TOOLS
    plain = [{"name": tool.name, "description": tool.description, "parameters": tool.parameters} for tool in tools]
    listed = json.dumps(plain, ensure_ascii=False)
    span = ToolsSpan(
        message_index=0, start=len(start), end=len(start) + len(listed), indent=None, item_separator=", ",
        key_separator=": ", wrapped=False, ensure_ascii=False,
    )  # fmt: skip
    system = Message("system", start + listed)
    rest = messages[1:] if has_system else messages
    return (system, *rest), FoundTools(tuple(tools), span)
