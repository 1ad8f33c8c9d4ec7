"""Lines of chat records as OpenAI and the Hugging Face world write them in; candidate prompts and rejects out.

A record is an object with `messages`, or with TRL's `prompt` and `completion` (lists of messages, only the second of them learnt), and
perhaps `tools` (or OpenAI's older `functions`). Llama's chat format knows turns of text, so:

- `developer` is `system`, `function` is `tool`. Content is a text or a list of text parts, which are joined as they stand.
- The calls of an earlier turn become canonical pythonic text, one list, on a line of its own after the turn's text if it has any. Ids
  only say which call a result answers and are dropped.
- A reply is its calls if it has any, else its text: a sentence beside calls is no part of what is to be learnt.
- A reply with OpenAI's `weight: 0` or axolotl's `train: false` is part of the conversation and nothing to learn from.

Members of a message that would be lost are a reject (`extra_field`); other columns beside `messages` are the user's own business.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from distill.calls.bounds import MAX_DEPTH
from distill.records import Message, Reject, Role, Source, Tool, ToolCall
from distill.sources.files import Line
from distill.sources.json_line import read_object, refuse_constant, unique_keys
from distill.sources.problem import RecordProblem, check_encodable, rejected
from distill.sources.record import LoggedReply, SourceRecord
from distill.sources.reply import text_with_calls
from distill.sources.tools import is_encodable, is_too_deep, read_tools


def read_chat_jsonl(lines: Iterable[Line], *, name: str, multi_turn: bool) -> Iterator[SourceRecord | Reject]:
    """One result per non-blank line; `name` is how the file is called in sources. Raises nothing.

    With `multi_turn` a conversation gives a record for each of the assistant's turns and for a last turn that nobody answered: the
    messages of each are a prefix of the next one's. Without it a conversation of more than one request and one reply is a reject.

    Reasons: `missing_messages`, `extra_field`, `bad_role`, `bad_system`, `not_alternating`, `multi_turn`, `no_text`, `multimodal`,
    `bad_tool_call`, `unwritable_call`, `bad_tool_result`, `too_deep`, `no_trained_turn`, and those of
    `distill.sources.json_line.read_object` and `distill.sources.tools.read_tools`.
    """
    for line in lines:
        if line.data.strip():
            source = Source(path=name, line=line.number, offset=line.offset)
            try:
                yield from read_conversation(read_object(line), source, multi_turn=multi_turn)
            except RecordProblem as problem:
                yield rejected(problem, source)


def read_conversation(value: Mapping[str, Any], source: Source, *, multi_turn: bool) -> list[SourceRecord]:
    """The records of one conversation. Raises `RecordProblem` if any part of it cannot be used; a conversation is used whole."""
    given, completion = value.get("messages"), value.get("completion")
    num_untrained = 0
    if given is None and isinstance(value.get("prompt"), list) and isinstance(completion, list | None):
        given, num_untrained = [*value["prompt"], *(completion or ())], len(value["prompt"])
    turns = read_turns(given)
    tools = _tools(value)
    _check_order([turn.role for turn in turns])
    dialogue = [turn.role for turn in turns if turn.role != "system"]
    if not multi_turn and dialogue not in (["user"], ["user", "assistant"]):
        raise RecordProblem(
            "multi_turn", f"{len(dialogue)} messages; a prompt has one user message and at most one reply"
        )
    records: list[SourceRecord] = []
    messages: list[Message] = []
    for index, turn in enumerate(turns):
        if turn.role == "assistant" and turn.is_trained and index >= num_untrained:
            reply = LoggedReply(text="" if turn.calls else turn.text, calls=turn.calls, model=None)
            records.append(SourceRecord(tuple(messages), tools, reply, source))
        if index < len(turns) - 1 or turn.role != "assistant":
            messages.append(_message(turn))
    if turns[-1].role != "assistant":
        records.append(SourceRecord(tuple(messages), tools, None, source))
    if not records:
        raise RecordProblem("no_trained_turn", "no reply is to be learnt; leave the reply out to have it asked for")
    return records


@dataclass(frozen=True, slots=True)
class Turn:
    """One message: its text ("" if an assistant only calls), its calls, and whether it is to be learnt."""

    role: Role
    text: str
    calls: tuple[ToolCall, ...]
    is_trained: bool


def read_turns(value: Any) -> list[Turn]:
    """The messages of a record. Raises `RecordProblem` for the first that cannot be used."""
    if not isinstance(value, list) or not value:
        raise RecordProblem(
            "missing_messages", "messages must be a list with a user message (or prompt and completion two lists)"
        )
    turns: list[Turn] = []
    called: set[str] = set()
    for item in value:
        turn = _turn(item)
        if turn.role == "tool":
            _check_result(item.get("tool_call_id"), called)
        elif turn.role == "assistant":
            called = {call["id"] for call in item.get("tool_calls") or () if isinstance(call.get("id"), str)}
        turns.append(turn)
    return turns


_ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "function": "tool",
}
_FIELDS: dict[Role, frozenset[str]] = {
    "system": frozenset(("role", "content", "train")),
    "user": frozenset(("role", "content", "train")),
    "assistant": frozenset(("role", "content", "tool_calls", "function_call", "refusal", "weight", "train")),
    "tool": frozenset(("role", "content", "name", "tool_call_id", "train")),
}
_BEFORE: dict[Role, tuple[Role | None, ...]] = {
    "system": (None, "system"),
    "user": (None, "system", "assistant"),
    "assistant": ("user", "tool"),
    "tool": ("assistant", "tool"),
}


def _check_order(roles: Sequence[Role]) -> None:
    before: Role | None = None
    for role in roles:
        if before not in _BEFORE[role]:
            reason = "bad_system" if role == "system" else "not_alternating"
            raise RecordProblem(reason, f"a message of the {role} follows {before or 'nothing'}")
        before = role
    if before == "system":
        raise RecordProblem("missing_messages", "only system messages; messages must hold a user message")


def _tools(value: Mapping[str, Any]) -> tuple[Tool, ...] | None:
    tools, functions = value.get("tools"), value.get("functions")
    if tools is not None and functions is not None:
        raise RecordProblem("bad_tool", "both tools and functions; give tools")
    found = tools if functions is None else functions
    return None if found is None else read_tools(found)


def _turn(value: Any) -> Turn:
    name = value.get("role") if isinstance(value, dict) else value
    role = _ROLES.get(name) if isinstance(name, str) and isinstance(value, dict) else None
    if role is None:
        raise RecordProblem("bad_role", f"a message's role must be one of {', '.join(_ROLES)}, found {_shown(name)}")
    if value.get("audio") is not None:
        raise RecordProblem("multimodal", "a spoken reply; only text can be distilled")
    extra = sorted(key for key, item in value.items() if key not in _FIELDS[role] and item is not None and item != [])
    if extra:
        allowed = ", ".join(sorted(_FIELDS[role]))
        raise RecordProblem("extra_field", f"{_shown(extra[0])} in a message of the {name}; allowed are {allowed}")
    text = _text(value.get("content"), role)
    if role != "assistant":
        if text is None or (role != "tool" and not text.strip()):
            raise RecordProblem("no_text", f"the {role} text is missing or empty")
        return Turn(role, text, (), False)
    calls = _calls(value)
    refusal = value.get("refusal")
    if not (text or "").strip() and refusal is not None:
        text = _text(refusal, role)
    if not calls and not (text or "").strip():
        raise RecordProblem("no_text", "the assistant neither says nor calls anything")
    return Turn(role, text or "", calls, value.get("weight") != 0 and value.get("train") is not False)


def _text(content: Any, role: str) -> str | None:
    """A message's text; None if it has none."""
    if content is None:
        return None
    if isinstance(content, list):
        content = "".join(map(_part, content))
    if not isinstance(content, str):
        raise RecordProblem(
            "no_text", f"the {role} content is {_shown(content)}; expected text or a list of text parts"
        )
    check_encodable(content, role)
    return content


def _part(part: Any) -> str:
    if isinstance(part, str):
        return part
    kind = part.get("type", "text") if isinstance(part, dict) else None
    if isinstance(kind, str) and kind not in ("text", "refusal"):
        raise RecordProblem("multimodal", f"a content part of type {_shown(kind)}; only text can be distilled")
    text = part.get(kind) if isinstance(kind, str) else None
    if not isinstance(text, str):
        raise RecordProblem("no_text", f'a content part must be {{"type": "text", "text": ...}}, found {_shown(part)}')
    return text


def _calls(message: Mapping[str, Any]) -> tuple[ToolCall, ...]:
    several, single = message.get("tool_calls") or [], message.get("function_call")
    if not isinstance(several, list) or (several and single is not None):
        raise RecordProblem("bad_tool_call", "an assistant calls by a list of tool_calls or by one function_call")
    return tuple(_call(item) for item in ([single] if single is not None else several))


def _call(item: Any) -> ToolCall:
    if not isinstance(item, dict):
        raise RecordProblem("bad_tool_call", f"a call is an object, found {_shown(item)}")
    if item.get("type", "function") not in ("function", None):
        raise RecordProblem("bad_tool_call", f"a call of type {_shown(item['type'])}; expected function")
    function = item["function"] if isinstance(item.get("function"), dict) else item
    name, arguments = function.get("name"), function.get("arguments")
    if not isinstance(name, str) or not name:
        raise RecordProblem("bad_tool_call", "a call has no name")
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments, object_pairs_hook=unique_keys, parse_constant=refuse_constant)
        except (ValueError, RecursionError) as error:
            raise RecordProblem("bad_tool_call", f"the arguments of {_shown(name)} are not JSON: {error}") from None
    if not isinstance(arguments, dict):
        raise RecordProblem(
            "bad_tool_call", f"the arguments of {_shown(name)} are {_shown(arguments)}; expected an object"
        )
    if is_too_deep(arguments):
        raise RecordProblem("too_deep", f"the arguments of {_shown(name)} are nested deeper than {MAX_DEPTH} levels")
    if not is_encodable([name, arguments]):
        raise RecordProblem("bad_tool_call", "a call holds half of a surrogate pair, which cannot be encoded")
    return ToolCall(name, arguments)


def _check_result(call_id: Any, called: set[str]) -> None:
    if call_id is not None and called and call_id not in called:
        raise RecordProblem("bad_tool_result", f"a result for {_shown(call_id)}, which the turn before did not call")


def _message(turn: Turn) -> Message:
    return Message(turn.role, text_with_calls(turn.text, turn.calls) if turn.calls else turn.text)


def _shown(value: object) -> str:
    """For people, in a few words: a foreign value may be large or nested deeply."""
    if isinstance(value, dict | list):
        return f"{type(value).__name__} of {len(value)}"
    return ascii(value)[:120]
