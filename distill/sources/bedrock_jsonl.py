"""Files of `bedrock-conversation-2024` records in, candidate prompts and rejects out, one for each line.

The limits are those of Bedrock's own validator (one system block, one user message, an optional assistant reply, text only), and
every reject says which line and why. The user's text is kept byte for byte.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill.records import DataError, Message, Reject, Source, content_id

SCHEMA_VERSION = "bedrock-conversation-2024"


@dataclass(frozen=True, slots=True)
class BedrockRecord:
    """One accepted record: the prompt's messages, and the user's own reply if there is one."""

    messages: tuple[Message, ...]
    reply: str | None
    source: Source


def read_bedrock_jsonl(path: Path, *, name: str) -> Iterator[BedrockRecord | Reject]:
    """One result per non-blank line. `name` is how the file is called in sources. Raises `DataError` if it cannot be read."""
    try:
        handle = path.open("rb")
    except OSError as error:
        raise DataError(
            f"{path}: cannot read the prompt file ({error.strerror}); give the path of a Bedrock JSONL file"
        ) from None
    with handle:
        for number, line in enumerate(handle, start=1):
            if line.strip():
                yield _read_line(line, Source(path=name, line=number))


class _Bad(Exception):
    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason, self.detail = reason, detail


def _read_line(line: bytes, source: Source) -> BedrockRecord | Reject:
    try:
        return _record(_parsed(line), source)
    except _Bad as bad:
        return Reject(id=content_id(source.path, source.line), reason=bad.reason, detail=bad.detail, source=source)


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise _Bad("invalid_json", f"not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise _Bad("invalid_json", f"expected a JSON object, found {type(value).__name__}")
    return value


def _record(value: dict[str, Any], source: Source) -> BedrockRecord:
    extra = sorted(value.keys() - {"schemaVersion", "system", "messages"})
    if extra:
        raise _Bad("extra_field", f"unknown field {extra[0]!r}; allowed are schemaVersion, system, messages")
    if value.get("schemaVersion") != SCHEMA_VERSION:
        raise _Bad(
            "bad_schema_version", f"schemaVersion is {value.get('schemaVersion')!r}; expected {SCHEMA_VERSION!r}"
        )
    system = _system(value)
    turns = [_turn(turn) for turn in _turns(value)]
    roles = [turn.role for turn in turns]
    if roles not in (["user"], ["user", "assistant"]):
        alternating = all(role == ("user", "assistant")[index % 2] for index, role in enumerate(roles))
        if not alternating:
            raise _Bad("not_alternating", f"roles are {', '.join(roles)}; expected user, then optionally assistant")
        raise _Bad("multi_turn", f"{len(roles)} messages; a prompt has one user message and at most one reply")
    reply = turns[1].content if len(turns) == 2 else None
    return BedrockRecord(messages=(*system, turns[0]), reply=reply, source=source)


def _system(value: dict[str, Any]) -> tuple[Message, ...]:
    if "system" not in value:
        return ()
    blocks = value["system"]
    if not (
        isinstance(blocks, list) and len(blocks) == 1 and isinstance(blocks[0], dict) and blocks[0].keys() == {"text"}
    ):
        raise _Bad("bad_system", 'system must be a list of exactly one {"text": ...}')
    return (Message("system", _text(blocks[0]["text"], "system")),)


def _turns(value: dict[str, Any]) -> list[Any]:
    turns = value.get("messages")
    if not isinstance(turns, list) or not turns:
        raise _Bad("missing_messages", "messages must be a list with a user message")
    return turns


def _turn(turn: Any) -> Message:
    if not isinstance(turn, dict) or turn.get("role") not in ("user", "assistant"):
        found = turn.get("role") if isinstance(turn, dict) else turn
        raise _Bad("bad_role", f"a message's role must be user or assistant, found {found!r}"[:200])
    extra = sorted(turn.keys() - {"role", "content"})
    if extra:
        raise _Bad("extra_field", f"unknown field {extra[0]!r} in a message; allowed are role and content")
    blocks = turn.get("content")
    if not isinstance(blocks, list) or len(blocks) != 1 or not isinstance(blocks[0], dict):
        raise _Bad("no_text", "content must be a list of exactly one text block")
    if blocks[0].keys() & {"image", "video", "document", "audio"}:
        raise _Bad("multimodal", "only text can be distilled")
    extra = sorted(blocks[0].keys() - {"text", "type"})
    if extra or "text" not in blocks[0]:
        raise _Bad("no_text", 'a content block must be {"text": ...}')
    return Message(turn["role"], _text(blocks[0]["text"], turn["role"]))


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise _Bad("no_text", f"the {where} text is missing or empty")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise _Bad("no_text", f"the {where} text holds half of a surrogate pair and cannot be encoded") from None
    return value
