"""Requests in, bodies of `POST /chat/completions` out; the server's answers in, completions out, with calls in canonical text.

The server renders: messages go out as they are, with the tools where they stand in the text, or in the field `tools`. Tools are then
declared under names that everybody takes (`math.factorial` as `math_factorial`, as BFCL does it); vLLM itself takes any, but its Mistral
tokenizers, its `pythonic` parser and OpenAI do not. An answer's calls get the tools' own names back.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

from distill.calls.parse import ParseError, looks_like_calls, parse_calls
from distill.calls.render import render_calls
from distill.engines.protocol import Chat, Request
from distill.engines.wire import (
    ID_MARK,
    NEUTRAL_SAMPLING,
    Parsed,
    count_tokens,
    finish_reason_of,
    parse_choices,
    token_logprobs,
)
from distill.native_tools import (
    CallStyle,
    UnpairedToolResult,
    call_id,
    declared_tools,
    native_turns,
    read_calls,
    without_tool_list,
)
from distill.records import (
    Completion,
    DataError,
    FinishReason,
    JsonObject,
    JsonValue,
    Message,
    TokenLogprobs,
    Tool,
    ToolCall,
    ToolsSpan,
)


def chat_of(
    messages: Sequence[Message],
    tools: Sequence[Tool],
    tools_span: ToolsSpan | None,
    *,
    tools_place: Literal["text", "native"],
) -> Chat:
    """The conversation to be sent. `native` cuts the tool list out of the text where its place is known and sends it beside.

    Raises `DataError` for what cannot be sent natively: a tool's result that follows no call, a number that JSON has not.
    """
    if tools_place == "text":
        return Chat(messages=tuple(messages), tools=())
    chat = Chat(messages=without_tool_list(messages, tools_span), tools=tuple(tools))
    try:
        json.dumps(_conversation(chat), allow_nan=False)
    except UnpairedToolResult as error:
        raise DataError(f"teacher.tools native: {error}; use text") from None
    except ValueError:
        raise DataError("teacher.tools native: JSON has no infinity and no not-a-number; use text") from None
    return chat


def chat_body(request: Request, *, model: str) -> JsonObject:
    """The JSON body that asks for the request's `num_samples` completions of its `chat`.

    With tools as text calls stay text, too; a tool's result then has an id of its own, since the API wants one. `sampling_parameters`
    replace what stands here.
    """
    assert request.chat is not None and request.scored_ids is None, "a request with messages, which cannot be scored"
    num_logprobs, num_samples = request.num_logprobs, request.num_samples
    logprobs: JsonObject = {"logprobs": True, "top_logprobs": num_logprobs, "return_tokens_as_token_ids": True}
    return {
        "model": model,
        **_conversation(request.chat),
        "n": num_samples,
        "max_tokens": request.max_new_tokens,
        "temperature": request.sampling_temperature,
        "seed": request.seed,
        **NEUTRAL_SAMPLING,
        "skip_special_tokens": True,
        **(logprobs if num_logprobs else {}),
        # The usage block counts the tokens of all samples together; only the ids tell them apart.
        **({"return_token_ids": True} if num_logprobs or num_samples > 1 else {}),
        **request.sampling_parameters,
    }


def parse_chat(body: bytes, request: Request) -> Parsed:
    """One `Completion` per sample in the samples' order, and the cached prompt tokens. `ValueError` says what is wrong with the body.

    Reasoning, in a field of its own or before `</think>` in the text, is dropped and its characters are counted. So is a sentence
    beside `tool_calls`: the calls are the answer, written in the canonical text. Where they cannot be (arguments that are no JSON
    object, a name with a dash), the text is the `tool_calls` as JSON, which no reader takes for calls.

    `logprobs` are None for a completion of which something was dropped or calls were written anew: they are those of another text. Of
    the K likeliest tokens vLLM leaves out the last where the text's own token is none of them.
    """
    assert request.chat is not None
    own_names = {sent: own for own, sent in _sent_names(request.chat.tools).items() if sent != own}
    return parse_choices(
        body, request.num_samples, lambda choice, usage: _completion(choice, usage, request, own_names)
    )


_SENDABLE_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_CLOSING_LINE = re.compile(r"^</think>[ \t]*(?:\n\s*|\Z)", re.MULTILINE)
_OPENING, _CLOSING = "<think>", "</think>"


def _conversation(chat: Chat) -> JsonObject:
    if not chat.tools:
        return {"messages": list(_text_turns(chat.messages))}
    names = _sent_names(chat.tools, called=_called_names(chat.messages))
    # Worked examples put calls before a request that nobody answered.
    style = CallStyle(name=names.__getitem__, arguments=_json, names_results=False, unanswered=True)
    turns, _ = native_turns(chat.messages, style)
    return {
        "messages": [*turns],
        "tools": declared_tools(chat.tools, name=names.__getitem__),
        "tool_choice": "auto",
    }


def _text_turns(messages: Sequence[Message]) -> Iterator[JsonObject]:
    num_results = 0
    for message in messages:
        identity: JsonObject = {}
        if message.role == "tool":
            identity = {"tool_call_id": call_id(num_results)}
            num_results += 1
        yield {"role": message.role, **identity, "content": message.content}


def _called_names(messages: Sequence[Message]) -> Iterator[str]:
    for message in messages:
        if message.role == "assistant":
            yield from (call.name for call in read_calls(message.content)[1])


def _json(arguments: JsonObject) -> str:
    return json.dumps(arguments, ensure_ascii=False, allow_nan=False)


def _sent_names(tools: Sequence[Tool], *, called: Iterable[str] = ()) -> dict[str, str]:
    """Each own name's name on the wire: itself where possible, and no two alike. The tools' do not depend on those `called` before."""
    unchanged_first = sorted((tool.name for tool in tools), key=lambda name: not _SENDABLE_NAME.fullmatch(name))
    sent: dict[str, str] = {}
    taken: set[str] = set()
    for name in [*unchanged_first, *called]:
        if name not in sent:
            sent[name] = _free_name(name, taken)
            taken.add(sent[name])
    return sent


def _free_name(name: str, taken: set[str]) -> str:
    name = re.sub(r"[^a-zA-Z0-9_-]", "_", name) or "_"
    free, number = name[:64], 2
    while free in taken:
        ending = f"_{number}"
        free, number = name[: 64 - len(ending)] + ending, number + 1
    return free


def _completion(choice: Any, usage: Any, request: Request, own_names: Mapping[str, str]) -> Completion:
    message = choice["message"]
    content = _text(message.get("content"))
    reasoning, text = _split_reasoning(content)
    num_dropped = len(reasoning) + len(_text(message.get("reasoning")) or _text(message.get("reasoning_content")))
    tool_calls = message.get("tool_calls")
    if tool_calls:
        num_dropped += len(text.strip())
        text = _calls_text(tool_calls, own_names)
    else:
        text = _with_own_names(text, own_names)
    num_tokens = count_tokens(choice, usage, request)
    is_own_text = text == content and not num_dropped
    return Completion(
        text=text,
        finish_reason=_finish_reason(choice["finish_reason"], is_full=num_tokens >= request.max_new_tokens),
        num_prompt_tokens=int(usage["prompt_tokens"]),
        num_completion_tokens=num_tokens,
        num_reasoning_characters=num_dropped,
        logprobs=_token_logprobs(choice) if request.num_logprobs and is_own_text else None,
    )


def _text(value: Any) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    raise TypeError(f"text expected, found {type(value).__name__}")


def _split_reasoning(content: str) -> tuple[str, str]:
    """What stands before the answer, and the answer. Where the opening tag stands in the prompt, the closing one has its own line."""
    stripped = content.lstrip()
    if stripped.startswith(_OPENING):
        reasoning, _, text = stripped.removeprefix(_OPENING).partition(_CLOSING)
        return reasoning, text.lstrip()
    closing = _CLOSING_LINE.search(content)
    return ("", content) if closing is None else (content[: closing.start()], content[closing.end() :])


def _calls_text(tool_calls: JsonValue, own_names: Mapping[str, str]) -> str:
    if not isinstance(tool_calls, list):
        raise TypeError(f"tool_calls are a list, found {type(tool_calls).__name__}")
    written = json.dumps(tool_calls)
    try:
        return _rendered(parse_calls(written, mode="strict", call_format="openai"), own_names)
    except (ParseError, DataError):
        return written


def _with_own_names(text: str, own_names: Mapping[str, str]) -> str:
    """Calls that were written as text, as a prompt may ask for, with the tools' own names; any other text as it is."""
    if not own_names or not looks_like_calls(text):
        return text
    try:
        calls = parse_calls(text, mode="strict")
        return _rendered(calls, own_names) if any(call.name in own_names for call in calls) else text
    except (ParseError, DataError):
        return text


def _rendered(calls: Sequence[ToolCall], own_names: Mapping[str, str]) -> str:
    return render_calls([ToolCall(own_names.get(call.name, call.name), call.arguments) for call in calls])


def _finish_reason(said: object, *, is_full: bool) -> FinishReason:
    if said == "tool_calls":
        # vLLM says so, too, where calls were read out of a text that the limit cut off.
        return "length" if is_full else "stop"
    return finish_reason_of(said)


def _token_logprobs(choice: Any) -> TokenLogprobs:
    places = choice["logprobs"]["content"]
    told = [_likeliest(place) for place in places]
    return token_logprobs(tuple(map(_token_id, places)), [([*found], [*found.values()]) for found in told])


def _likeliest(place: Any) -> dict[int, float]:
    """Log-probabilities by id; the text's own token is among them."""
    told = place["top_logprobs"]
    if not told:
        raise ValueError("no log-probabilities at one of the tokens")
    return {_token_id(token): float(token["logprob"]) for token in [*told, place]}


def _token_id(token: Any) -> int:
    told = token["token"]
    if not told.startswith(ID_MARK):
        raise ValueError(f"a token is told as {told!r}, not by its id; use vLLM, or set annotate.num_logprobs=0")
    return int(told.removeprefix(ID_MARK))
