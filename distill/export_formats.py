"""A prompt or an example in, the line of JSON that another trainer reads out, and what that format leaves out of it.

What each tool reads was taken from the tools themselves: OpenAI's fine-tuning format, TRL 1.16, axolotl 0.19, Bedrock's validator.

| format | tools in the text | tools native |
|---|---|---|
| openai | `messages`; an earlier turn of the assistant has `weight` 0 | `tools`; `tool_calls` with ids, arguments as a JSON string |
| trl | `prompt` and `completion` | `tools` as a JSON string; `tool_calls` with arguments as an object, as chat templates want them |
| axolotl | `messages`; `train` is true on the reply only | `tools` and arguments as JSON strings |
| bedrock | a `bedrock-conversation-2024` record | none: Bedrock's records for Llama know tools in the text only |

In the text: what the student sees, byte for byte, with its reply in the call syntax it is trained on. Native: tools and calls go to the
other model's own chat template; the list is cut out of the text where its place is known exactly, types get JSON Schema's names, and calls
in earlier turns become `tool_calls`. No text and no number changes either way: a row that a format cannot carry so is refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from distill.native_tools import (
    CallStyle,
    UnpairedToolResult,
    call_objects,
    declared_tools,
    native_turns,
    without_tool_list,
)
from distill.records import DataError, Example, JsonObject, JsonValue, Message, Prompt, Tool, ToolCall, ToolsSpan
from distill.sources.bedrock_jsonl import SCHEMA_VERSION
from distill.sources.bedrock_names import to_bedrock_name

ExportFormat = Literal["openai", "trl", "axolotl", "bedrock"]
ToolsPlace = Literal["text", "native"]


@dataclass(frozen=True, slots=True)
class Converted:
    """A row as a line of JSON, newline included; `notes` say what of the row is not in it as it was, the same words for every row."""

    line: str
    notes: tuple[str, ...]


class Unwritable(Exception):
    """A row that the format cannot carry as it is; `reason` is the reject's fixed word.

    lone_surrogate, unwritable_value (infinity, not-a-number); openai: tool_turn, bad_tool_name; native: unpaired_tool_result; trl:
    inexact_number; bedrock: multi_turn, no_text.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason, self.detail = reason, detail


def convert(row: Prompt | Example, *, export_format: ExportFormat, tools: ToolsPlace) -> Converted:
    """The row in another tool's format. A prompt has no reply. Raises `Unwritable`; `bedrock` has no `native`."""
    if isinstance(row, Example):
        conversation = _Conversation(row.id, row.messages, row.tools, row.tools_span, row.reply, row.calls)
    else:
        conversation = _Conversation(row.id, row.messages, row.tools, row.tools_span, None, ())
    notes = []
    if isinstance(row, Example) and row.weight != 1:
        notes.append("weigh less than 1 in the run, which the format cannot say")
    if tools == "native" and row.tools_span is None:
        notes.append("keep the tool list in the text as well, because its place is not known exactly")
    if (export_format, tools) == ("openai", "native") and any(
        _openai_name(tool.name) != tool.name for tool in row.tools
    ):
        notes.append("have tools under other names, because OpenAI takes letters, digits, _ and - only")
    return Converted(_line(_CONVERTERS[export_format, tools](conversation)), tuple(notes))


@dataclass(frozen=True, slots=True)
class _Conversation:
    """What prompts and examples have in common; `reply` is None for a prompt."""

    id: str
    messages: tuple[Message, ...]
    tools: tuple[Tool, ...]
    tools_span: ToolsSpan | None
    reply: str | None
    calls: tuple[ToolCall, ...]


def _line(record: JsonObject) -> str:
    text = _LINE_ENDS.sub(lambda found: f"\\u{ord(found.group()):04x}", _json(record))
    if _SURROGATE.search(text):
        raise Unwritable("lone_surrogate", "a text holds half of a surrogate pair and cannot be encoded")
    return text + "\n"


_LINE_ENDS = re.compile("[\x85\u2028\u2029]")  # some readers of lines end one there
_SURROGATE = re.compile("[\ud800-\udfff]")


def _json(value: JsonValue) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except ValueError:
        raise Unwritable("unwritable_value", "JSON has no infinity and no not-a-number") from None


def _openai_text(row: _Conversation) -> JsonObject:
    if any(message.role == "tool" for message in row.messages):
        raise Unwritable("tool_turn", "OpenAI wants the id of its call with a tool's result; --tools native gives ids")
    return {"messages": [*_untrained(_text_turns(row)), *_text_reply(row)]}


def _openai_native(row: _Conversation) -> JsonObject:
    # OpenAI's rule for names is that of Bedrock's API: letters, digits, _ and -, at most 64.
    style = CallStyle(name=_openai_name, arguments=_json, names_results=False)
    history, reply = _native_turns(row, style)
    record: JsonObject = {"messages": [*_untrained(history), *reply]}
    return {**record, "tools": declared_tools(row.tools, name=style.name)} if row.tools else record


def _trl_text(row: _Conversation) -> JsonObject:
    return _prompt_completion(row.id, _text_turns(row), _text_reply(row))


def _trl_native(row: _Conversation) -> JsonObject:
    style = CallStyle(name=str, arguments=lambda arguments: arguments, names_results=True)
    record = _prompt_completion(row.id, *_native_turns(row, style))
    if not _survives_datasets(record):
        raise Unwritable("inexact_number", "`datasets` would read a number of the calls as another; text keeps it")
    return {**record, "tools": _tools_text(row, style)}


def _axolotl_text(row: _Conversation) -> JsonObject:
    return {"id": row.id, "messages": _flagged(_text_turns(row), _text_reply(row))}


def _axolotl_native(row: _Conversation) -> JsonObject:
    # axolotl takes nulls out of objects before it looks at them; what stands in a JSON string is safe.
    style = CallStyle(name=str, arguments=_json, names_results=True)
    return {"id": row.id, "messages": _flagged(*_native_turns(row, style)), "tools": _tools_text(row, style)}


def _bedrock(row: _Conversation) -> JsonObject:
    roles = [message.role for message in row.messages]
    if roles not in (["user"], ["system", "user"]):
        raise Unwritable("multi_turn", f"roles are {', '.join(roles)}; allowed: a system text or none, and a user text")
    texts = [*row.messages, *([] if row.reply is None else [Message("assistant", row.reply)])]
    for message in texts:
        if not message.content.strip():
            raise Unwritable("no_text", f"the {message.role} text is empty")
    system: JsonObject = {"system": [{"text": row.messages[0].content}]} if roles[0] == "system" else {}
    turns: list[JsonValue] = [
        {"role": message.role, "content": [{"text": message.content}]} for message in texts if message.role != "system"
    ]
    return {"schemaVersion": SCHEMA_VERSION, **system, "messages": turns}


_CONVERTERS: dict[tuple[str, str], Callable[[_Conversation], JsonObject]] = {
    ("openai", "text"): _openai_text,
    ("openai", "native"): _openai_native,
    ("trl", "text"): _trl_text,
    ("trl", "native"): _trl_native,
    ("axolotl", "text"): _axolotl_text,
    ("axolotl", "native"): _axolotl_native,
    ("bedrock", "text"): _bedrock,
}


def _text_turns(row: _Conversation) -> list[JsonObject]:
    return [{"role": message.role, "content": message.content} for message in row.messages]


def _text_reply(row: _Conversation) -> list[JsonObject]:
    return [] if row.reply is None else [{"role": "assistant", "content": row.reply}]


def _prompt_completion(row_id: str, history: Sequence[JsonObject], reply: Sequence[JsonObject]) -> JsonObject:
    """TRL's two columns. A prompt has one: an empty completion would be an example of nothing."""
    return {"id": row_id, "prompt": [*history], **({"completion": [*reply]} if reply else {})}


def _untrained(turns: Sequence[JsonObject]) -> list[JsonValue]:
    """The turns with weight 0 on the assistant's: each of those is the reply of another example."""
    return [{**turn, "weight": 0} if turn["role"] == "assistant" else turn for turn in turns]


def _flagged(history: Sequence[JsonObject], reply: Sequence[JsonObject]) -> list[JsonValue]:
    return [*({**turn, "train": False} for turn in history), *({**turn, "train": True} for turn in reply)]


def _native_turns(row: _Conversation, style: CallStyle) -> tuple[list[JsonObject], list[JsonObject]]:
    """The conversation and its reply with calls as objects, each result beside the id of its call."""
    try:
        turns, num_calls = native_turns(without_tool_list(row.messages, row.tools_span), style)
    except UnpairedToolResult as error:
        raise Unwritable("unpaired_tool_result", str(error)) from None
    if not row.calls:
        return turns, _text_reply(row)
    return turns, [{"role": "assistant", "tool_calls": call_objects(row.calls, style, first=num_calls)}]


def _openai_name(name: str) -> str:
    try:
        return to_bedrock_name(name)
    except DataError as error:
        raise Unwritable("bad_tool_name", f"OpenAI's rule for names is Bedrock's: {error}") from None


def _tools_text(row: _Conversation, style: CallStyle) -> str | None:
    """The tools as a JSON string, which TRL and axolotl parse; a column of objects would be filled up with nulls."""
    return _json(declared_tools(row.tools, name=style.name)) if row.tools else None


def _survives_datasets(record: JsonObject) -> bool:
    """Whether `datasets` gives the record back as it is when its messages have the type `Json`: it keeps ten decimals of a number."""
    from datasets.utils.json import ujson_dumps, ujson_loads  # late: takes seconds, and only this format needs it

    text = _json(record)
    try:
        # A representation tells 1 from 1.0, and 0.0 from -0.0.
        return repr(ujson_loads(ujson_dumps(ujson_loads(text)))) == repr(record)
    except ValueError:  # beyond 64 bits
        return False
