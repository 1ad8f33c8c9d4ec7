"""The raw prompt of a Llama 3 model in, the messages it was made of out; and what such a model answered.

The inverse of `distill.chat`'s wire format, and as lenient as the prompts that people write by hand: white space around the tokens, one
newline after a header instead of two, no begin-of-text token, `tool` for the header `ipython`.
"""

from __future__ import annotations

import re

from distill.chat import (
    BEGIN_OF_TEXT,
    END_HEADER,
    END_OF_MESSAGE,
    END_OF_TURN,
    HEADERS,
    SPECIAL_TOKENS,
    START_HEADER,
)
from distill.records import JsonValue, Message, Role
from distill.sources.problem import RecordProblem
from distill.sources.reply import Reply

IMAGE = "<|image|>"


def split_llama_prompt(prompt: str) -> tuple[Message, ...]:
    """The messages before the assistant's open header, each text byte for byte as it stands between header and end of turn.

    Raises `RecordProblem`: `not_llama_prompt` (no Llama 3 header in it), `broken_llama_prompt`, `bad_role`, `not_alternating`, `no_text`,
    `multimodal`, or `assistant_prefill` (the assistant's turn is begun, so that the answer is only the rest of one).
    """
    if START_HEADER not in prompt:
        raise RecordProblem(
            "not_llama_prompt", f"no {START_HEADER} in the prompt; only Llama 3's format is taken apart"
        )
    if IMAGE in prompt:
        raise RecordProblem("multimodal", f"{IMAGE} in the prompt; only text can be distilled")
    before, *turns = prompt.split(START_HEADER)
    if before.strip().removeprefix(BEGIN_OF_TEXT).strip():
        raise _broken(f"{_shown(before)} before the first header")
    _check_open(turns[-1])
    messages = tuple(_message(turn) for turn in turns[:-1])
    _check_order(messages)
    return messages


def read_llama_reply(body: JsonValue) -> Reply:
    """The answer of InvokeModel, or of the list of its stream's events. Reasons: `bad_output`, `broken_stream`."""
    events = body if isinstance(body, list) else [body]
    texts: list[str] = []
    stop_reason: str | None = None
    for event in events:
        text = event.get("generation") if isinstance(event, dict) else None
        if not isinstance(event, dict) or not isinstance(text, str):
            reason = "broken_stream" if isinstance(body, list) else "bad_output"
            raise RecordProblem(reason, "an answer without the text `generation`, which a Llama model's has")
        texts.append(text)
        reason_given = event.get("stop_reason")
        stop_reason = reason_given if isinstance(reason_given, str) else stop_reason
    return Reply(text="".join(texts), calls=(), stop_reason=stop_reason)


_TURN_END = re.compile(f"{re.escape(END_OF_TURN)}|{re.escape(END_OF_MESSAGE)}")
_ROLES: dict[str, Role] = {
    "system": "system",
    "user": "user",
    "assistant": "assistant",
    "ipython": "tool",
    "tool": "tool",
}
assert set(HEADERS.values()) <= set(_ROLES)
_AFTER: dict[Role | None, tuple[Role, ...]] = {
    None: ("system", "user"),
    "system": ("user",),
    "user": ("assistant",),
    "assistant": ("user", "tool"),
    "tool": ("tool", "assistant", "user"),
}


def _message(turn: str) -> Message:
    header, found, rest = turn.partition(END_HEADER)
    if not found:
        raise _broken(f"the header {_shown(header)} is not closed")
    role = _ROLES.get(header.strip())
    if role is None:
        raise RecordProblem("bad_role", f"the header {_shown(header)}; expected one of {', '.join(_ROLES)}")
    end = _TURN_END.search(rest)
    if end is None:
        raise _broken(f"a turn of the {role} without {END_OF_TURN}")
    if rest[end.end() :].strip():
        raise _broken(f"{_shown(rest[end.end() :].strip())} between two turns")
    content = _content(rest[: end.start()])
    for token in SPECIAL_TOKENS:
        if token in content:
            raise _broken(f"{token} inside the text of a turn")
    if role != "tool" and not content.strip():
        raise RecordProblem("no_text", f"a turn of the {role} without text")
    return Message(role, content)


def _check_open(turn: str) -> None:
    header, found, rest = turn.partition(END_HEADER)
    if not found or header.strip() != "assistant":
        raise _broken(f"the prompt ends with the turn {_shown(header)} instead of opening the assistant's")
    if rest.strip():
        raise RecordProblem("assistant_prefill", f"the assistant's turn is begun with {_shown(rest.strip())}")


def _check_order(messages: tuple[Message, ...]) -> None:
    last: Role | None = None
    for message in messages:
        if message.role not in _AFTER[last]:
            expected = " or ".join(_AFTER[last])
            raise RecordProblem("not_alternating", f"{message.role} after {last or 'nothing'}; expected {expected}")
        last = message.role
    if last not in ("user", "tool"):
        raise RecordProblem(
            "not_alternating", f"the assistant's turn follows {last or 'nothing'}; expected user or tool"
        )


def _content(text: str) -> str:
    """Without the newlines that belong to the header: two in Llama's format, one in many prompts written by hand."""
    return text[2:] if text.startswith("\n\n") else text.removeprefix("\n")


def _broken(detail: str) -> RecordProblem:
    return RecordProblem("broken_llama_prompt", detail)


def _shown(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:60]}...")
