"""A request or an answer of Bedrock's Converse API as JSON in; messages, tools, and the answer's text or calls out.

Llama's chat format knows turns of text, so blocks become text and calls like this:

- A `toolUse` of an earlier turn becomes a call in canonical pythonic text, the calls of a turn one list, on a line of its own after the
  turn's text if it has any. Every `toolResult` becomes a `tool` message of its own, in the order of the calls it answers, before the text
  of the same turn. Its text parts stand one per line, a JSON part as JSON; its `status` has no place in the format.
- An answer is its calls if it has any, else its text. A sentence beside calls is no part of what is to be learnt.
- `cachePoint` and `reasoningContent` blocks, and text blocks of nothing but white space, are passed over. Two texts in one turn are a
  problem: no rule says what stands between them.
- Tool names are mapped back (`distill.sources.bedrock_names`).

A record that does not fit raises `RecordProblem`, nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from distill.calls.bounds import MAX_DEPTH
from distill.records import JsonObject, JsonValue, Message, Tool, ToolCall
from distill.sources.bedrock_names import from_bedrock_name
from distill.sources.problem import RecordProblem, check_encodable
from distill.sources.reply import Reply, text_with_calls
from distill.sources.tools import is_encodable, is_too_deep, read_tools


def read_converse_messages(body: JsonObject) -> tuple[Message, ...]:
    """System text and turns, ending with the turn to be answered.

    Reasons: `missing_messages`, `bad_role`, `not_alternating`, `assistant_prefill`, `bad_system`, `no_text`, `several_texts`, `multimodal`,
    `unknown_block`, `bad_tool_use`, `bad_tool_result`, `unwritable_call`, `too_deep`.
    """
    turns = body.get("messages")
    if not isinstance(turns, list) or not turns:
        raise RecordProblem("missing_messages", "messages must be a list that ends with a user message")
    roles = [turn.get("role") if isinstance(turn, dict) else None for turn in turns]
    for role in roles:
        if role not in ("user", "assistant"):
            raise RecordProblem("bad_role", f"a message's role must be user or assistant, found {_shown(role)}")
    if any(role != ("user", "assistant")[index % 2] for index, role in enumerate(roles)):
        raise RecordProblem("not_alternating", "roles must alternate and begin with user")
    if roles[-1] == "assistant":
        raise RecordProblem(
            "assistant_prefill", "the last message is the assistant's, the answer is only the rest of one"
        )
    return (*_system(body.get("system")), *_messages(turns))


def read_converse_tools(body: JsonObject) -> tuple[Tool, ...] | None:
    """The tools of `toolConfig`, None without one. Reasons: those of `distill.sources.tools.read_tools`."""
    config = body.get("toolConfig")
    if config is None:
        return None
    items = config.get("tools") if isinstance(config, dict) else None
    if not isinstance(items, list):
        raise RecordProblem("bad_tool", "toolConfig must be an object with a list of tools")
    specs = [_tool_spec(item) for item in items if not (isinstance(item, dict) and item.keys() == {"cachePoint"})]
    return tuple(replace(tool, name=from_bedrock_name(tool.name)) for tool in read_tools(specs))


def read_converse_reply(body: JsonValue) -> Reply:
    """The answer of a response, or of the list of a stream's events, which are put together first.

    Reasons: `bad_output`, `broken_stream`, and those of a turn.
    """
    if isinstance(body, list):
        body = _joined(body)
    output = body.get("output") if isinstance(body, dict) else None
    message = output.get("message") if isinstance(output, dict) else None
    if not isinstance(body, dict) or not isinstance(message, dict):
        raise RecordProblem("bad_output", "the answer has no output.message, as a Converse answer has")
    turn = _turn(message, "assistant")
    reason = body.get("stopReason")
    return Reply(
        text="" if turn.calls else turn.text,
        calls=tuple(turn.calls.values()),
        stop_reason=reason if isinstance(reason, str) else None,
    )


_MEDIA = frozenset({"image", "document", "video", "audio"})
_PASSED_OVER = frozenset({"cachePoint", "reasoningContent"})


@dataclass(slots=True)
class _Turn:
    """One message: its one text or "", and calls and results by `toolUseId`."""

    text: str = ""
    calls: dict[str, ToolCall] = field(default_factory=dict)
    results: dict[str, str] = field(default_factory=dict)


def _system(blocks: JsonValue) -> tuple[Message, ...]:
    if blocks is None or blocks == []:
        return ()
    if not isinstance(blocks, list):
        raise RecordProblem("bad_system", 'system must be a list of one {"text": ...}')
    texts = [block for block in blocks if not (isinstance(block, dict) and block.keys() == {"cachePoint"})]
    only = texts[0] if len(texts) == 1 else None
    if not isinstance(only, dict) or only.keys() - {"type"} != {"text"}:
        raise RecordProblem("bad_system", 'system must be a list of one {"text": ...}')
    text = _text(only["text"], "system")
    if not text.strip():
        raise RecordProblem("no_text", "the system text is empty")
    return (Message("system", text),)


def _messages(turns: Sequence[JsonValue]) -> list[Message]:
    messages: list[Message] = []
    open_calls: dict[str, ToolCall] = {}
    for value in turns:
        assert isinstance(value, dict)
        turn = _turn(value, str(value["role"]))
        if turn.results.keys() != open_calls.keys():
            raise RecordProblem(
                "bad_tool_result",
                f"results for {_listed(turn.results)} after calls {_listed(open_calls)}; each call needs exactly one",
            )
        messages += [Message("tool", turn.results[identity]) for identity in open_calls]
        if value["role"] == "assistant":
            messages.append(Message("assistant", _with_calls(turn)))
        elif turn.text or not open_calls:
            messages.append(Message("user", _required(turn.text, "user")))
        open_calls = turn.calls
    return messages


def _turn(message: JsonObject, role: str) -> _Turn:
    blocks = message.get("content")
    if not isinstance(blocks, list):
        raise RecordProblem("no_text", f"the content of a turn of the {role} must be a list of blocks")
    turn = _Turn()
    for block in blocks:
        kind, value = _only_member(block)
        if kind == "text":
            text = _text(value, role)
            if turn.text and text.strip():
                raise RecordProblem("several_texts", f"two text blocks in a turn of the {role}; give one")
            turn.text = text if text.strip() else turn.text
        elif kind == "toolUse" and role == "assistant":
            identity, call = _call(value)
            if identity in turn.calls:
                raise RecordProblem("bad_tool_use", f"two calls with the toolUseId {_shown(identity)}")
            turn.calls[identity] = call
        elif kind == "toolResult" and role == "user":
            identity, text = _result(value)
            if identity in turn.results:
                raise RecordProblem("bad_tool_result", f"two results for the toolUseId {_shown(identity)}")
            turn.results[identity] = text
        elif kind not in _PASSED_OVER:
            raise RecordProblem("unknown_block", f"a block {_shown(kind)} in a turn of the {role}")
    return turn


def _only_member(block: JsonValue) -> tuple[str, JsonValue]:
    if not isinstance(block, dict):
        raise RecordProblem("unknown_block", f"a content block must be an object, found {_shown(block)}")
    kinds = block.keys() - {"type"}
    if kinds & _MEDIA:
        raise RecordProblem("multimodal", f"a block {_shown(min(kinds & _MEDIA))}; only text can be distilled")
    if len(kinds) != 1:
        raise RecordProblem("unknown_block", f"a content block with the members {_listed(kinds)}; expected one")
    kind = kinds.pop()
    return kind, block[kind]


def _call(value: JsonValue) -> tuple[str, ToolCall]:
    identity, name, arguments = (
        (value.get("toolUseId"), value.get("name"), value.get("input")) if isinstance(value, dict) else (None,) * 3
    )
    if not isinstance(identity, str) or not isinstance(name, str) or not name or not isinstance(arguments, dict):
        raise RecordProblem(
            "bad_tool_use", f"a toolUse needs toolUseId, name and an object input, found {_shown(value)}"
        )
    _check_depth(arguments, f"the arguments of {_shown(name)}")
    if not is_encodable([name, arguments]):
        raise RecordProblem("bad_tool_use", "a call holds half of a surrogate pair, which cannot be encoded")
    return identity, ToolCall(from_bedrock_name(name), arguments)


def _result(value: JsonValue) -> tuple[str, str]:
    identity, parts = (value.get("toolUseId"), value.get("content")) if isinstance(value, dict) else (None, None)
    if not isinstance(identity, str) or not isinstance(parts, list):
        raise RecordProblem(
            "bad_tool_result", f"a toolResult needs toolUseId and a list content, found {_shown(value)}"
        )
    return identity, "\n".join(map(_result_part, parts))


def _result_part(part: JsonValue) -> str:
    kind, value = _only_member(part)
    if kind == "text":
        return _text(value, "tool")
    if kind != "json":
        raise RecordProblem("unknown_block", f"a part {_shown(kind)} in a tool's result")
    _check_depth(value, "a tool's result")
    return _text(json.dumps(value, ensure_ascii=False), "tool")


def _with_calls(turn: _Turn) -> str:
    """An earlier turn of the assistant as text."""
    if not turn.calls:
        return _required(turn.text, "assistant")
    return text_with_calls(turn.text, tuple(turn.calls.values()))


def _tool_spec(item: JsonValue) -> JsonObject:
    """The tool of a `toolSpec` as `read_tools` takes it."""
    spec = item.get("toolSpec") if isinstance(item, dict) else None
    schema = spec.get("inputSchema") if isinstance(spec, dict) else None
    parameters = schema.get("json") if isinstance(schema, dict) else None
    if not isinstance(spec, dict) or not isinstance(parameters, dict):
        raise RecordProblem("bad_tool", f"a tool needs a toolSpec with inputSchema.json, found {_shown(item)}")
    return {"name": spec.get("name"), "description": spec.get("description"), "parameters": parameters}


def _joined(events: Sequence[JsonValue]) -> JsonObject:
    """The response that a stream's events add up to. Blocks stand in the order of their indices."""
    blocks: dict[int, list[JsonObject]] = {}
    reason: JsonValue = None
    for event in events:
        for kind, value in _event_members(event):
            if kind in ("contentBlockStart", "contentBlockDelta"):
                index, delta = value.get("contentBlockIndex", 0), value.get("start", value.get("delta"))
                if not isinstance(index, int) or not isinstance(delta, dict):
                    raise RecordProblem("broken_stream", f"a {kind} without a block's index or content")
                if delta:
                    blocks.setdefault(index, []).append(delta)
            elif kind == "messageStop":
                reason = value.get("stopReason")
    content: list[JsonValue] = [_joined_block(blocks[index]) for index in sorted(blocks)]
    return {"output": {"message": {"role": "assistant", "content": content}}, "stopReason": reason}


_EVENTS = frozenset({
    "messageStart", "contentBlockStart", "contentBlockDelta", "contentBlockStop", "messageStop", "metadata",
    "amazon-bedrock-invocationMetrics",
})  # fmt: skip


def _event_members(event: JsonValue) -> list[tuple[str, JsonObject]]:
    members = event.items() if isinstance(event, dict) else ()
    found = [(kind, value) for kind, value in members if kind in _EVENTS and isinstance(value, dict)]
    if not found or len(found) != len(members):
        raise RecordProblem("broken_stream", f"an event that is {_shown(event)}; expected {', '.join(sorted(_EVENTS))}")
    return found


def _joined_block(deltas: Sequence[JsonObject]) -> JsonObject:
    """One content block. A tool's arguments come as pieces of JSON text; none at all is no arguments."""
    tools = [delta["toolUse"] for delta in deltas if isinstance(delta.get("toolUse"), dict)]
    if not tools:
        if all("reasoningContent" in delta for delta in deltas):
            return {"reasoningContent": {}}
        return {"text": "".join(_piece(delta.get("text"), delta) for delta in deltas)}
    if len(tools) != len(deltas):
        raise RecordProblem("broken_stream", "text and a tool call in one content block")
    call: JsonObject = {}
    pieces: list[str] = []
    for tool in tools:
        assert isinstance(tool, dict)
        call.update(tool)
        if "input" in tool:
            pieces.append(_piece(tool["input"], tool))
    try:
        call["input"] = json.loads("".join(pieces) or "{}")
    except (ValueError, RecursionError) as error:
        raise RecordProblem(
            "broken_stream", f"the arguments of {_shown(call.get('name'))} are not JSON: {error}"
        ) from None
    return {"toolUse": call}


def _piece(value: JsonValue, delta: JsonObject) -> str:
    if not isinstance(value, str):
        raise RecordProblem("broken_stream", f"{_shown(delta)} holds neither text nor a piece of a tool's arguments")
    return value


def _text(value: JsonValue, role: str) -> str:
    if not isinstance(value, str):
        raise RecordProblem("no_text", f"the {role} text is {_shown(value)}")
    check_encodable(value, role)
    return value


def _required(text: str, role: str) -> str:
    if not text:
        raise RecordProblem("no_text", f"a turn of the {role} without text")
    return text


def _check_depth(value: JsonValue, what: str) -> None:
    if is_too_deep(value):
        raise RecordProblem("too_deep", f"{what} are nested deeper than {MAX_DEPTH} levels")


def _listed(names: Iterable[str]) -> str:
    return ", ".join(ascii(name) for name in sorted(names)[:5]) or "none"


def _shown(value: object) -> str:
    """For people, in a few words: a foreign value may be large or nested deeply."""
    if isinstance(value, dict):
        return f"an object with {_listed(value)}"[:120]
    return "a list" if isinstance(value, list) else ascii(value)[:120]
