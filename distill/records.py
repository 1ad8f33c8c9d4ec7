"""The rows that travel between stages, who writes and who reads each, and their JSON form.

Standard library only. Every record is frozen; `to_json` gives what is written to `rows.jsonl`, `X.from_json` reads it back,
and the two are inverse. Arguments and tool schemas stay plain JSON values end to end: no column store ever fills them with nulls.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, cast

JsonValue: TypeAlias = "bool | int | float | str | list[JsonValue] | dict[str, JsonValue] | None"
JsonObject: TypeAlias = "dict[str, JsonValue]"

Role = Literal["system", "user", "assistant", "tool"]
Category = Literal["simple", "multiple", "parallel", "parallel_multiple", "irrelevance", "relevance"]
Split = Literal["train", "validation", "test"]
FinishReason = Literal["stop", "length", "error"]
Verdict = Literal["correct", "wrong_tool", "wrong_arguments", "wrong_count", "malformed", "truncated", "error"]

CATEGORIES: tuple[Category, ...] = ("simple", "multiple", "parallel", "parallel_multiple", "irrelevance", "relevance")
VERDICTS: tuple[Verdict, ...] = (
    "correct",
    "wrong_tool",
    "wrong_arguments",
    "wrong_count",
    "malformed",
    "truncated",
    "error",
)


class DataError(Exception):
    """Bad input data. The message says where, what was found, what is allowed, and what to do."""


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation; `content` is the text byte for byte as the user wrote it."""

    role: Role
    content: str

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Message:
        return cls(role=value["role"], content=value["content"])


@dataclass(frozen=True, slots=True)
class Tool:
    """A callable tool. `parameters` is its JSON Schema as written (BFCL spellings such as `dict` and `float` included)."""

    name: str
    description: str
    parameters: JsonObject

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Tool:
        return cls(name=value["name"], description=value["description"], parameters=value["parameters"])


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A tool's name and its arguments by name, in the order written."""

    name: str
    arguments: JsonObject

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> ToolCall:
        return cls(name=value["name"], arguments=value["arguments"])


@dataclass(frozen=True, slots=True)
class ExpectedCall:
    """A gold call in BFCL's sense: for each parameter the list of acceptable values; `""` among them means "may be omitted"."""

    name: str
    options: dict[str, list[JsonValue]]

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> ExpectedCall:
        return cls(name=value["name"], options=value["options"])


@dataclass(frozen=True, slots=True)
class ToolsSpan:
    """Where the tool list stands in a prompt's text and how it is laid out, so that a changed list can be written back alike.

    `start` and `end` are character offsets into `messages[message_index].content`; `indent` and the separators are those of
    `json.dumps`; `wrapped` means each tool stands in
    OpenAI's `{"type": "function", "function": {...}}`.
    """

    message_index: int
    start: int
    end: int
    indent: int | None
    item_separator: str
    key_separator: str
    wrapped: bool
    ensure_ascii: bool

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> ToolsSpan:
        return cls(**value)


@dataclass(frozen=True, slots=True)
class Source:
    """Where a row came from: file, 1-based line, offset of its first byte (uncompressed), and the request's id where a log has one."""

    path: str
    line: int
    offset: int | None = None
    request_id: str | None = None

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Source:
        return cls(**value)


@dataclass(frozen=True, slots=True)
class GivenReply:
    """An assistant's answer that came with a prompt. `model` is None for the user's own (a golden example), else who gave it in a log."""

    text: str
    model: str | None

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> GivenReply:
        return cls(**value)


@dataclass(frozen=True, slots=True)
class Prompt:
    """Messages and tools shown to a model, no answer. Written by `prompts`, read by `annotate`, `curate` and `evaluate`.

    `id` is a hash of the content. `group` is what the split keeps together. `expected_calls` is None when nobody knows them and
    empty when the right answer is to call nothing. `test_set` names the user's test set a test prompt belongs to. `given_reply` is
    an answer that the source brought along.
    """

    id: str
    messages: tuple[Message, ...]
    tools: tuple[Tool, ...]
    tools_span: ToolsSpan | None
    category: Category
    group: str
    split: Split
    test_set: str | None
    expected_calls: tuple[ExpectedCall, ...] | None
    source: Source
    given_reply: GivenReply | None = None

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Prompt:
        expected, given = value["expected_calls"], value["given_reply"]
        return cls(
            id=value["id"],
            messages=tuple(Message.from_json(m) for m in value["messages"]),
            tools=tuple(Tool.from_json(t) for t in value["tools"]),
            tools_span=None if value["tools_span"] is None else ToolsSpan.from_json(value["tools_span"]),
            category=value["category"],
            group=value["group"],
            split=value["split"],
            test_set=value["test_set"],
            expected_calls=None if expected is None else tuple(ExpectedCall.from_json(e) for e in expected),
            source=Source.from_json(value["source"]),
            given_reply=None if given is None else GivenReply.from_json(given),
        )


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """A model's likeliest tokens at each of a text's T tokens, by id, never by text: two ids may decode alike.

    `token_ids` are the text's own T tokens, the end of turn included where it was written. `top_ids[t]` holds the K likeliest ids
    (K + 1 where the text's own is none of them), likeliest first, and `top_logprobs[t]` their log-probabilities in nats, of the
    model's own distribution before temperature.
    """

    token_ids: tuple[int, ...]
    top_ids: tuple[tuple[int, ...], ...]
    top_logprobs: tuple[tuple[float, ...], ...]

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> TokenLogprobs:
        return cls(
            token_ids=tuple(value["token_ids"]),
            top_ids=tuple(map(tuple, value["top_ids"])),
            top_logprobs=tuple(map(tuple, value["top_logprobs"])),
        )


@dataclass(frozen=True, slots=True)
class Completion:
    """What a model returned for one prompt, raw. Written by an engine's request log, read by the stage that asked.

    `num_reasoning_characters` counts what a reasoning model wrote before its answer, which is dropped. `logprobs` are there if they
    were asked for.
    """

    text: str
    finish_reason: FinishReason
    num_prompt_tokens: int
    num_completion_tokens: int
    num_reasoning_characters: int = 0
    logprobs: TokenLogprobs | None = None

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Completion:
        logprobs = value.get("logprobs")
        return cls(**{**value, "logprobs": None if logprobs is None else TokenLogprobs.from_json(logprobs)})


@dataclass(frozen=True, slots=True)
class Annotation:
    """One teacher completion and how it was sampled. Written by `annotate`, read by `curate`."""

    prompt_id: str
    sample_index: int
    completion: Completion
    model: str
    sampling_temperature: float
    seed: int

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Annotation:
        return cls(**{**value, "completion": Completion.from_json(value["completion"])})


@dataclass(frozen=True, slots=True)
class AnnotationLogprobs:
    """The log-probabilities of one annotation. Written by `annotate` into `logprobs.jsonl` in the order of its rows, read by `train`.

    `prompt_hash` is the `content_id` of the prompt's token ids and `tokens_hash` that of the text's: who renders either to other
    tokens must not learn from these.
    """

    prompt_id: str
    sample_index: int
    prompt_hash: str
    tokens_hash: str
    logprobs: TokenLogprobs

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> AnnotationLogprobs:
        """Raises ValueError where the tokens are not those that were hashed, or counts differ."""
        row = cls(**{**value, "logprobs": TokenLogprobs.from_json(value["logprobs"])})
        found = row.logprobs
        if content_id(list(found.token_ids)) != row.tokens_hash:
            raise ValueError(
                f"the token ids of prompt {row.prompt_id}, sample {row.sample_index}, are not those that were stored"
            )
        if not len(found.token_ids) == len(found.top_ids) == len(found.top_logprobs):
            raise ValueError(f"prompt {row.prompt_id}, sample {row.sample_index}: log-probabilities are missing")
        return row


@dataclass(frozen=True, slots=True)
class Lineage:
    """Where an augmented example came from: the example it was made of, the method, and the seed of its randomness."""

    example_id: str
    method: str
    seed: int

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Lineage:
        return cls(**value)


@dataclass(frozen=True, slots=True)
class Example:
    """A conversation ending in a reply to be trained on. Written by `curate` and `augment`, read by `augment` and `train`.

    `reply` is the assistant's text: `calls` in canonical form, or a plain sentence when `calls` is empty. `weight` scales the
    example's loss (agreement among the teacher's samples). `split` is train or validation, never test.
    """

    id: str
    prompt_id: str
    split: Split
    messages: tuple[Message, ...]
    tools: tuple[Tool, ...]
    tools_span: ToolsSpan | None
    category: Category
    reply: str
    calls: tuple[ToolCall, ...]
    weight: float
    lineage: Lineage | None

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Example:
        return cls(
            id=value["id"],
            prompt_id=value["prompt_id"],
            split=value["split"],
            messages=tuple(Message.from_json(m) for m in value["messages"]),
            tools=tuple(Tool.from_json(t) for t in value["tools"]),
            tools_span=None if value["tools_span"] is None else ToolsSpan.from_json(value["tools_span"]),
            category=value["category"],
            reply=value["reply"],
            calls=tuple(ToolCall.from_json(c) for c in value["calls"]),
            weight=value["weight"],
            lineage=None if value["lineage"] is None else Lineage.from_json(value["lineage"]),
        )


@dataclass(frozen=True, slots=True)
class Prediction:
    """One model's completion for one test prompt and what the checker said of it. Written by `evaluate`, read by `report`.

    `bfcl_error` is BFCL's own error type, None when correct.
    """

    prompt_id: str
    model: str
    test_set: str
    category: Category
    completion: Completion
    verdict: Verdict
    bfcl_error: str | None
    explanation: str

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Prediction:
        return cls(**{**value, "completion": Completion.from_json(value["completion"])})


@dataclass(frozen=True, slots=True)
class Reject:
    """A dropped row and the fixed word saying why. Written by every stage into `rejects.jsonl`; `detail` is for people."""

    id: str
    reason: str
    detail: str
    source: Source | None

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Reject:
        return cls(**{**value, "source": None if value["source"] is None else Source.from_json(value["source"])})


Record: TypeAlias = Prompt | Annotation | AnnotationLogprobs | Example | Prediction | Reject


def category_of(num_tools: int, calls: Sequence[ExpectedCall | ToolCall] | None) -> Category:
    """BFCL's category of a prompt with these tools and right calls; where nobody knows the calls, one is supposed."""
    if calls is not None and not calls:
        return "irrelevance"
    if calls is not None and len(calls) > 1:
        return "parallel" if num_tools == 1 else "parallel_multiple"
    return "simple" if num_tools == 1 else "multiple"


def to_json(record: Any) -> JsonObject:
    """A record as plain JSON values, nested records and all. Inverse of the class's `from_json`."""
    return cast(JsonObject, {field.name: _plain(getattr(record, field.name)) for field in dataclasses.fields(record)})


def content_id(*parts: object) -> str:
    """A content hash: 16 hexadecimal digits of the SHA-256 of the parts as canonical JSON."""
    import hashlib  # late: it loads OpenSSL, which who only reads and compares calls has no need of

    text = json.dumps(parts, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _plain(value: Any) -> JsonValue:
    if dataclasses.is_dataclass(value):
        return to_json(value)
    if isinstance(value, tuple):
        # Thousands of log-probabilities in a row: nothing is to be found inside numbers.
        return list(value) if value and isinstance(value[0], int | float) else [_plain(item) for item in value]
    return cast(JsonValue, value)
