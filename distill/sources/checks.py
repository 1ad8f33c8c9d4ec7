"""A source's record in; the prompt that it is, or the reject that says why it is none, out.

Tools are found in the text or put there from a structured field, their schemas checked; texts are searched for template tags; a
reply that the user gave is read as expected calls, and one that would teach the wrong thing is a reject.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b

from distill.calls.match import exactly
from distill.calls.render import render_calls
from distill.json_schema import why_not_allowed
from distill.records import (
    DataError,
    ExpectedCall,
    GivenReply,
    Message,
    Prompt,
    Reject,
    Split,
    Tool,
    ToolsSpan,
    category_of,
    content_id,
)
from distill.sources.problem import RecordProblem, check_encodable
from distill.sources.record import LoggedReply, SourceRecord
from distill.sources.tags import why_invalid_tags
from distill.sources.tools import check_tools
from distill.sources.tools_in_text import FoundTools, find_tools
from distill.sources.tools_prompt import put_tools_in_text
from distill.sources.wrong_replies import read_reply, why_wrong_calls, why_wrong_reply

TOKENS_AROUND_MESSAGE = 16
"""More than the tokens that the chat format puts around a message; a token of the text is at least one byte."""
MAX_REMEMBERED = 4096
"""Tool lists that are looked at once only; some 300 bytes for each, whatever its length."""


@dataclass(frozen=True, slots=True)
class TokenLimit:
    """How long a prompt may be: `count` gives its tokens."""

    count: Callable[[Sequence[Message]], int]
    most: int


@dataclass(frozen=True, slots=True)
class _Tools:
    """What is known of a tool list: a hash that does not depend on layout or order, and what is wrong with it, a reason and a detail.

    An exception, raised for record after record, would keep the frames of them all.
    """

    key: str
    problem: tuple[str, str] | None


class PromptChecks:
    """Checks records one after another; the same tool lists come again and again and are looked at once."""

    def __init__(self, *, group_by: str, token_limit: TokenLimit | None, native_tools: bool = True) -> None:
        """Without `native_tools`, tools must stand in the text, as Bedrock has it for Llama."""
        self.group_by, self.token_limit, self.native_tools = group_by, token_limit, native_tools
        self._known: dict[bytes, _Tools] = {}

    def check(self, record: SourceRecord, split: Split, test_set: str | None) -> Prompt | Reject:
        """The prompt of a record.

        Reasons: those of `find_tools`, `check_tools` and `why_wrong_reply`; `no_tools` for an empty list; `invalid_tags`; `too_long`;
        `invalid_answer` for arguments that the schema does not allow.
        """
        messages = record.messages
        try:
            if record.tools is None:
                found = find_tools(messages)
            elif not self.native_tools:
                raise RecordProblem(
                    "extra_field", "the tools stand in a field of their own, Bedrock takes them in the text only"
                )
            elif not record.tools and record.expected_calls != ():
                raise RecordProblem("no_tools", "the list of tools is empty")
            else:
                messages, found = put_tools_in_text(messages, record.tools)
            for message in messages:
                check_encodable(message.content, message.role)
            tools = self._tools(messages, found)
            if tools.problem is not None:
                raise RecordProblem(*tools.problem)
            tag = why_invalid_tags(messages)
            if tag is not None:
                raise RecordProblem("invalid_tags", tag)
            self._check_length(messages)
            given = _given_reply(record.reply)
            expected = record.expected_calls
            if expected is None and record.reply is not None and record.reply.model is None:
                expected = expected_of_reply(record.reply, messages, found.tools)
        except RecordProblem as problem:
            return Reject(id=_identity(messages), reason=problem.reason, detail=problem.detail, source=record.source)
        return Prompt(
            id=_identity(messages),
            messages=messages,
            tools=found.tools,
            tools_span=found.span,
            category=record.category or category_of(len(found.tools), expected),
            group=self._group(messages, tools),
            split=split,
            test_set=test_set,
            expected_calls=expected,
            source=record.source,
            given_reply=given,
        )

    def tools_key(self, prompt: Prompt) -> str:
        """A hash of a checked prompt's tools, whatever their layout and order."""
        if self.group_by == "tools":
            return prompt.group
        return self._tools(prompt.messages, FoundTools(prompt.tools, prompt.tools_span)).key

    def _tools(self, messages: Sequence[Message], found: FoundTools) -> _Tools:
        text = repr(found.tools) if found.span is None else _text_of_span(messages, found.span)
        digest = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        if digest not in self._known:
            if len(self._known) == MAX_REMEMBERED:
                del self._known[next(iter(self._known))]
            self._known[digest] = _look_at(found.tools)
        return self._known[digest]

    def _check_length(self, messages: Sequence[Message]) -> None:
        limit = self.token_limit
        if limit is None:
            return
        num_bytes = sum(len(message.content.encode()) for message in messages)
        if num_bytes + TOKENS_AROUND_MESSAGE * (len(messages) + 1) <= limit.most:
            return
        num_tokens = limit.count(messages)
        if num_tokens > limit.most:
            raise RecordProblem("too_long", f"{num_tokens} tokens, prompts.max_prompt_tokens is {limit.most}")

    def _group(self, messages: Sequence[Message], tools: _Tools) -> str:
        if self.group_by == "tools":
            return tools.key
        if self.group_by == "conversation":
            return _identity(messages[:-1])
        return content_id(messages[-1].content.strip().lower())


def expected_of_reply(
    reply: LoggedReply, messages: Sequence[Message], tools: Sequence[Tool]
) -> tuple[ExpectedCall, ...]:
    """The calls of the user's own reply; none for a reply in plain words. Raises `RecordProblem` for one not to be learnt."""
    if reply.calls:
        wrong, calls = why_wrong_calls(reply.calls, tools=tools), reply.calls
    else:
        wrong = why_wrong_reply(reply.text, messages=messages, tools=tools)
        calls = () if wrong else read_reply(reply.text)[0]
    if wrong is not None:
        raise RecordProblem(wrong.reason, wrong.detail)
    try:
        problem = why_not_allowed(calls, tools)
        if problem is not None:
            raise RecordProblem("invalid_answer", f"the reply calls what the tools do not offer: {problem.message}")
        by_name = {tool.name: tool for tool in tools}
        return tuple(exactly(call, tool=by_name[call.name]) for call in calls)
    except DataError as error:
        raise RecordProblem("invalid_answer", str(error)) from None


def _identity(messages: Sequence[Message]) -> str:
    return content_id(*[[message.role, message.content] for message in messages])


def _text_of_span(messages: Sequence[Message], span: ToolsSpan) -> str:
    return messages[span.message_index].content[span.start : span.end]


def _given_reply(reply: LoggedReply | None) -> GivenReply | None:
    if reply is None:
        return None
    try:
        text = render_calls(reply.calls) if reply.calls else reply.text
    except DataError as error:
        raise RecordProblem("unwritable_call", str(error)) from None
    check_encodable(text, "reply's")
    return GivenReply(text, reply.model)


def _look_at(tools: Sequence[Tool]) -> _Tools:
    key = content_id(*sorted(content_id(tool.name, tool.description, tool.parameters) for tool in tools))
    try:
        check_tools(tools)
        _check_writable(tools)
    except RecordProblem as problem:
        return _Tools(key, (problem.reason, problem.detail))
    return _Tools(key, None)


def _check_writable(tools: Sequence[Tool]) -> None:
    """Python's parser takes NaN and halves of surrogate pairs, which no other reader of the rows would."""
    plain = [[tool.name, tool.description, tool.parameters] for tool in tools]
    try:
        check_encodable(json.dumps(plain, ensure_ascii=False, allow_nan=False), "tools'")
    except ValueError:
        raise RecordProblem("bad_tool_json", "NaN or an infinity stands in the tools, which is no JSON") from None
