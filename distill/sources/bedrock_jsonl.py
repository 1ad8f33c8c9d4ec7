"""Lines of `bedrock-conversation-2024` records in, candidate prompts and rejects out.

The limits are those of Bedrock's own validator (one system block, one user message, an optional assistant reply, text only), and
every reject says which line and why. The user's text is kept byte for byte. Beyond that validator:

- The assistant's reply is kept as the user's own answer (a golden example).
- Nova's records, whose tools stand in a `toolConfig`, are taken; so are `toolUse` and `toolResult` blocks in them, which become calls and
  text as `distill.sources.converse` describes. A prompt's text has no place for `toolChoice`, it is passed over.
- With `multi_turn`, a conversation is one prompt for each of the assistant's turns, and one for a last message that nobody answered.
- A key that stands twice in one object makes the record a reject: which value was meant is not guessed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, TypeAlias

from distill.records import JsonObject, JsonValue, Message, Reject, Source, Tool
from distill.sources.converse import read_converse_messages, read_converse_reply, read_converse_tools
from distill.sources.files import Line
from distill.sources.json_line import read_object
from distill.sources.problem import RecordProblem, check_encodable, rejected
from distill.sources.record import LoggedReply, SourceRecord

SCHEMA_VERSION = "bedrock-conversation-2024"
MAX_TURNS = 1000
"""Most messages of a conversation. Each prompt repeats what went before it, so that their number counts squared."""


def read_bedrock_jsonl(
    lines: Iterable[Line], *, name: str, multi_turn: bool = False
) -> Iterator[SourceRecord | Reject]:
    """One reject or, without `multi_turn`, one record for each line that is not blank. `name` is how sources call the file.

    A conversation with an unusable part is rejected whole. Raises nothing. Reasons: those of `distill.sources.json_line.read_object`;
    `extra_field`, `bad_schema_version`, `bad_system`, `missing_messages`, `bad_role`, `not_alternating`, `multi_turn`, `too_many_turns`,
    `no_text`, `multimodal`; and with a `toolConfig`, `no_tools` for an empty one and those of `distill.sources.converse`.
    """
    for line in lines:
        if not line.data or line.data.isspace():
            continue
        source = Source(path=name, line=line.number, offset=line.offset)
        try:
            messages, tools, replies = _conversation(read_object(line), multi_turn)
        except RecordProblem as problem:
            yield rejected(problem, source)
            continue
        for position, reply in replies:
            yield SourceRecord(messages=messages[:position], tools=tools, reply=reply, source=source)


_FIELDS = frozenset(("schemaVersion", "system", "messages", "toolConfig"))
_TOOL_FIELDS = frozenset(("tools", "toolChoice"))
_TURN_FIELDS = frozenset(("role", "content"))
_BLOCK_FIELDS = frozenset(("text", "type"))
_MEDIA = frozenset(("image", "video", "document", "audio"))

_Replies: TypeAlias = "list[tuple[int, LoggedReply | None]]"
"""What was answered, and None for what nobody did, each with the number of messages that stand before it."""
_Turn: TypeAlias = tuple[Literal["user", "assistant"], JsonObject]
"""A message whose role was checked and whose content was not."""


def _conversation(value: JsonObject, multi_turn: bool) -> tuple[tuple[Message, ...], tuple[Tool, ...] | None, _Replies]:
    """All messages, the tools of a structured field, and what was answered."""
    _check_fields(value, _FIELDS, "the record")
    version = value.get("schemaVersion")
    if version != SCHEMA_VERSION:
        raise RecordProblem("bad_schema_version", f"schemaVersion is {_shown(version)}; expected {SCHEMA_VERSION!r}")
    system = _system(value)
    turns = _turns(value, multi_turn)
    if "toolConfig" in value:
        return _with_tools(value["toolConfig"], system, turns)
    messages = (*system, *[Message(role, _only_text(turn, role)) for role, turn in turns])
    replies: _Replies = [
        (position, LoggedReply(text=message.content, calls=(), model=None))
        for position, message in enumerate(messages)
        if message.role == "assistant"
    ]
    if messages[-1].role == "user":
        replies.append((len(messages), None))
    return messages, None, replies


def _with_tools(
    config: JsonValue, system: tuple[Message, ...], turns: Sequence[_Turn]
) -> tuple[tuple[Message, ...], tuple[Tool, ...], _Replies]:
    if not isinstance(config, dict):
        raise RecordProblem("bad_tool", f"toolConfig must be an object, found {_shown(config)}")
    _check_fields(config, _TOOL_FIELDS, "toolConfig")
    tools = read_converse_tools({"toolConfig": config})
    if not tools:
        raise RecordProblem("no_tools", "toolConfig holds no tools; leave it out if they stand in the text")
    is_open = turns[-1][0] == "user"
    asked: list[JsonValue] = [turn for _, turn in (turns if is_open else turns[:-1])]
    messages = (*system, *read_converse_messages({"messages": asked}))
    positions = [position for position, message in enumerate(messages) if message.role == "assistant"]
    answers: list[LoggedReply | None] = [_answer(turn) for role, turn in turns if role == "assistant"]
    if is_open:
        answers.append(None)
    # A last answer or None stands behind all messages; every other one is a message itself.
    return messages, tools, list(zip([*positions, len(messages)], answers, strict=True))


def _answer(turn: JsonObject) -> LoggedReply:
    reply = read_converse_reply({"output": {"message": turn}})
    if not reply.calls and not reply.text:
        raise RecordProblem("no_text", "the assistant's reply has neither text nor calls")
    return LoggedReply(text=reply.text, calls=reply.calls, model=None)


def _system(value: JsonObject) -> tuple[Message, ...]:
    if "system" not in value:
        return ()
    blocks = value["system"]
    block = blocks[0] if isinstance(blocks, list) and len(blocks) == 1 else None
    if not isinstance(block, dict) or block.keys() != {"text"}:
        raise RecordProblem("bad_system", 'system must be a list of exactly one {"text": ...}')
    return (Message("system", _text(block["text"], "system")),)


def _turns(value: JsonObject, multi_turn: bool) -> list[_Turn]:
    """The messages with their roles checked and their contents not."""
    items = value.get("messages")
    if not isinstance(items, list) or not items:
        raise RecordProblem("missing_messages", "messages must be a list with a user message")
    turns = [_turn(item) for item in items]
    roles = [role for role, _ in turns]
    if any(role != ("user", "assistant")[index % 2] for index, role in enumerate(roles)):
        raise RecordProblem(
            "not_alternating", f"roles are {', '.join(roles[:10])}; expected user and assistant in turn, user first"
        )
    if len(turns) > 2 and not multi_turn:
        raise RecordProblem("multi_turn", f"{len(turns)} messages; a prompt has one user message and at most one reply")
    if len(turns) > MAX_TURNS:
        raise RecordProblem("too_many_turns", f"{len(turns)} messages; at most {MAX_TURNS} are taken")
    return turns


def _turn(item: JsonValue) -> _Turn:
    role = item.get("role") if isinstance(item, dict) else item
    if not isinstance(item, dict) or (role != "user" and role != "assistant"):
        raise RecordProblem("bad_role", f"a message's role must be user or assistant, found {_shown(role)}")
    _check_fields(item, _TURN_FIELDS, "a message")
    return "user" if role == "user" else "assistant", item


def _only_text(turn: JsonObject, role: str) -> str:
    blocks = turn.get("content")
    block = blocks[0] if isinstance(blocks, list) and len(blocks) == 1 else None
    if not isinstance(block, dict):
        raise RecordProblem("no_text", "content must be a list of exactly one text block")
    if block.keys() & _MEDIA:
        raise RecordProblem("multimodal", "only text can be distilled")
    if "text" not in block or not block.keys() <= _BLOCK_FIELDS or not isinstance(block.get("type", ""), str):
        raise RecordProblem("no_text", 'a content block must be {"text": ...}')
    return _text(block["text"], role)


def _text(value: JsonValue, where: str) -> str:
    if not isinstance(value, str) or not value or value.isspace():
        raise RecordProblem("no_text", f"the {where} text is missing or empty")
    check_encodable(value, where)
    return value


def _check_fields(value: JsonObject, allowed: frozenset[str], where: str) -> None:
    if not value.keys() <= allowed:
        extra = min(value.keys() - allowed)
        raise RecordProblem(
            "extra_field", f"unknown field {_shown(extra)} in {where}; allowed are {', '.join(sorted(allowed))}"
        )


def _shown(value: JsonValue) -> str:
    """For people, in a few words: a foreign value may be large or nested deeply."""
    return f"a {type(value).__name__}" if isinstance(value, dict | list) else ascii(value)[:120]
