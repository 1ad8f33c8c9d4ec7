"""What goes out in messages is the prompt, what comes back is its own calls: as properties, and against a real vLLM with the embedded teacher."""

from __future__ import annotations

import json
import re
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolParam
from pydantic import TypeAdapter
from transformers import PreTrainedTokenizerFast

from distill.calls.match import match
from distill.calls.parse import ParseError, parse_calls
from distill.calls.render import render_calls
from distill.chat import prompt_ids
from distill.config import model_path
from distill.engines.chat_wire import chat_body, chat_of, parse_chat
from distill.engines.protocol import Chat, Request
from distill.engines.tokenizer import load_tokenizer
from distill.reading import read_completion
from distill.records import (
    Completion,
    DataError,
    ExpectedCall,
    JsonObject,
    JsonValue,
    Message,
    Prompt,
    Source,
    Tool,
    ToolCall,
)
from tests.bfcl_entertainment import DATA
from tests.customer_world import customer_prompts, gold_example
from tests.vllm_server import StartVllm, VllmServer

MESSAGES: TypeAdapter[Any] = TypeAdapter(list[ChatCompletionMessageParam])
TOOLS: TypeAdapter[Any] = TypeAdapter(list[ChatCompletionToolParam])
JSON_SCHEMA_TYPES = {"object", "array", "string", "number", "integer", "boolean", "null"}
TOOL = Tool("f", "", {"type": "dict", "properties": {"x": {"type": "any"}}})


def completions_in(body: bytes, request: Request) -> tuple[Completion, ...]:
    return parse_chat(body, request)[0]


def asked(chat: Chat, **changes: Any) -> Request:
    request = Request(
        key="k", prompt_id="p", prompt_ids=(), num_samples=1, sampling_temperature=0.0, max_new_tokens=64, seed=7, chat=chat
    )  # fmt: skip
    return replace(request, **changes)


def native(*tools: Tool, messages: Sequence[Message] = (Message("user", "go"),)) -> Request:
    return asked(chat_of(messages, tools, None, tools_place="native"))


def api_calls(calls: Sequence[ToolCall]) -> list[JsonValue]:
    """`tool_calls` as a server writes them."""
    return [
        {"id": f"x{n}", "type": "function", "function": {"name": c.name, "arguments": json.dumps(c.arguments)}}
        for n, c in enumerate(calls)
    ]


def reply(*messages: JsonObject, finish_reason: str | None = "stop", tokens: int = 5) -> bytes:
    choices = [
        {"index": index, "message": {"role": "assistant", **message}, "finish_reason": finish_reason, "token_ids": [1] * tokens}
        for index, message in enumerate(messages)
    ]  # fmt: skip
    return json.dumps({"choices": choices, "usage": {"prompt_tokens": 9, "completion_tokens": tokens}}).encode()


def one(body: bytes, request: Request) -> Completion:
    (completion,) = completions_in(body, request)
    return completion


def declared(request: Request) -> list[Any]:
    body: Any = chat_body(request, model="m")
    return [tool["function"] for tool in body["tools"]]


def schemas_in(schema: Any) -> Iterator[Any]:
    yield schema
    for inner in [*schema.get("properties", {}).values(), schema.get("items")]:
        if isinstance(inner, dict):
            yield from schemas_in(inner)


def bfcl_questions(name: str) -> Iterator[tuple[tuple[Tool, ...], tuple[ExpectedCall, ...]]]:
    lines = (DATA / f"BFCL_v4_{name}.json").read_text().splitlines()
    answers = (DATA / "possible_answer" / f"BFCL_v4_{name}.json").read_text().splitlines()
    for line, answer in zip(map(json.loads, lines), map(json.loads, answers), strict=True):
        tools = tuple(Tool(f["name"], f["description"], f["parameters"]) for f in line["function"])
        yield tools, tuple(ExpectedCall(*pair) for call in answer["ground_truth"] for pair in call.items())


def right_call(expected: ExpectedCall, tools: Sequence[Tool]) -> ToolCall:
    """The call with the first acceptable value of each argument that may not be left out."""
    properties: Any = next(tool.parameters["properties"] for tool in tools if tool.name == expected.name)
    given = {name: options[0] for name, options in expected.options.items() if options and "" not in options}
    return ToolCall(expected.name, {name: chosen(value, properties.get(name, {})) for name, value in given.items()})


def chosen(option: Any, schema: Any) -> JsonValue:
    """An option as a value: where the schema says `dict`, each key has a list of options again."""
    if schema.get("type") == "dict" and isinstance(option, dict):
        return {key: values[0] for key, values in option.items() if isinstance(values, list) and "" not in values}
    if schema.get("type") == "array" and isinstance(option, list):
        return [chosen(item, schema.get("items", {})) for item in option]
    value: JsonValue = option
    return value


@pytest.mark.parametrize(
    ("name", "category"),
    [("simple_python", "simple"), ("multiple", "multiple"), ("parallel", "parallel"), ("parallel_multiple", "parallel_multiple"),
     ("live_simple", "simple"), ("live_multiple", "multiple")],
)  # fmt: skip
def test_bfcl_calls_of_the_declared_names_are_right_calls_of_the_prompts_own(name: str, category: Any) -> None:
    num_renamed = num_correct = num_questions = 0
    for tools, expected in bfcl_questions(name):
        calls = [right_call(call, tools) for call in expected]
        request = native(*tools)
        functions = declared(request)
        TOOLS.validate_python(chat_body(request, model="m")["tools"])
        for schema in (schema for function in functions for schema in schemas_in(function["parameters"])):
            assert {schema.get("type", "null")} <= JSON_SCHEMA_TYPES, schema
        sent = dict(zip((tool.name for tool in tools), (function["name"] for function in functions), strict=True))
        assert len(set(sent.values())) == len(sent)
        assert all(re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", name) for name in sent.values())
        wired = [ToolCall(sent[call.name], call.arguments) for call in calls]
        for body in (
            reply({"content": None, "tool_calls": api_calls(wired)}, finish_reason="tool_calls"),
            reply({"content": render_calls(wired)}),
        ):
            completion = one(body, request)
            assert (completion.finish_reason, completion.text) == ("stop", render_calls(calls))
        found = parse_calls(completion.text, mode="strict")
        num_questions += 1
        num_correct += match(found, expected, tools=tools, category=category).verdict == "correct"
        num_renamed += any(call.name != sent[call.name] for call in calls)
    # A few answers have options in shapes that `right_call` does not know.
    assert num_correct >= 0.98 * num_questions > 0 and num_renamed > 0


NAMES = st.sampled_from(
    ["a.b", "a_b", "a-b", "a b", "a_b_2", "größe", "gr__e", "x" * 64, "x" * 65, "x" * 63 + ".", "x" * 70 + ".y"]
) | st.text(max_size=70)


@settings(max_examples=100, deadline=None)
@given(names=st.lists(NAMES, min_size=1, max_size=8, unique=True), called=st.lists(NAMES, max_size=3))
def test_declared_names_are_sendable_and_tell_apart_what_the_prompt_tells_apart(
    names: list[str], called: list[str]
) -> None:
    history = [Message("user", "x")]
    for name in called:
        if re.fullmatch(r"[a-z_]\w*(\.[a-z]\w*)*", name, re.ASCII):
            history.append(Message("assistant", f"[{name}()]"))
    request = native(*(Tool(name, name, {}) for name in names), messages=[*history, Message("user", "go")])
    body: Any = chat_body(request, model="m")
    own = {function["name"]: function["description"] for function in declared(request)}
    assert sorted(own.values()) == sorted(names)
    assert all(re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", sent) for sent in own)
    for message, turn in zip(history[1:], body["messages"][1:], strict=False):
        (call,) = turn["tool_calls"]
        assert own.get(call["function"]["name"], message.content[1:-3]) == message.content[1:-3]
    for sent, name in own.items():
        text = one(reply({"tool_calls": api_calls([ToolCall(sent, {})])}), request).text
        try:
            assert text == render_calls([ToolCall(name, {})])
        except DataError:  # a name that calls cannot be written with
            assert_malformed(text)


def assert_malformed(text: str) -> None:
    prompt = Prompt(
        id="p", messages=(Message("user", "go"),), tools=(TOOL,), tools_span=None, category="simple", group="g", split="train",
        test_set=None, expected_calls=None, source=Source("p.jsonl", 1),
    )  # fmt: skip
    assert read_completion(Completion(text, "stop", 1, 1), prompt).reason == "malformed_call"


@pytest.mark.parametrize(
    "arguments", ["", "{", "[1]", '"x"', "null", '{"x": 1, "x": 2}', '{"x": 1} {}', "x=1", 5, None]
)
def test_arguments_that_are_no_object_are_a_malformed_call_and_no_error(arguments: JsonValue) -> None:
    call: JsonObject = {"id": "x", "type": "function", "function": {"name": "f", "arguments": arguments}}
    completion = one(reply({"tool_calls": [call]}, finish_reason="tool_calls"), native(TOOL))
    assert completion.finish_reason == "stop"
    assert_malformed(completion.text)


CALL = render_calls([ToolCall("f", {"x": 'a "quoted"\nline </think> <think>'})])
THOUGHT = "Is it f?\nIt is: f(x)."


@pytest.mark.parametrize(
    ("message", "text", "num_dropped"),
    [
        ({"content": CALL}, CALL, 0),
        ({"content": "  as it is\n"}, "  as it is\n", 0),
        ({"content": None}, "", 0),
        ({"content": CALL, "reasoning": THOUGHT}, CALL, len(THOUGHT)),
        ({"content": CALL, "reasoning_content": THOUGHT}, CALL, len(THOUGHT)),
        ({"content": CALL, "reasoning_content": THOUGHT, "reasoning": THOUGHT}, CALL, len(THOUGHT)),
        ({"content": f"<think>{THOUGHT}</think>\n\n{CALL}"}, CALL, len(THOUGHT)),
        ({"content": f"\n<think>{THOUGHT}</think>{CALL}"}, CALL, len(THOUGHT)),
        ({"content": f"{THOUGHT}\n</think>\n\n{CALL}"}, CALL, len(THOUGHT) + 1),
        ({"content": f"<think>{THOUGHT}"}, "", len(THOUGHT)),
        ({"content": f"<think>{THOUGHT}</think>"}, "", len(THOUGHT)),
        ({"content": " Let me look.\n", "tool_calls": api_calls([ToolCall("f", {})])}, "[f()]", len("Let me look.")),
        ({"content": "\n", "reasoning": THOUGHT, "tool_calls": api_calls([ToolCall("f", {})])}, "[f()]", len(THOUGHT)),
    ],
)  # fmt: skip
def test_reasoning_and_sentences_beside_calls_are_dropped_and_counted(
    message: Any, text: str, num_dropped: int
) -> None:
    completion = one(reply(message), native(TOOL))
    assert (completion.text, completion.num_reasoning_characters) == (text, num_dropped)


@pytest.mark.parametrize(
    ("told", "tokens", "found"),
    [("stop", 64, "stop"), ("length", 64, "length"), ("tool_calls", 63, "stop"), ("tool_calls", 64, "length")],
)
def test_calls_read_out_of_a_text_that_was_cut_off_are_truncated(told: str, tokens: int, found: str) -> None:
    message: JsonObject = {"tool_calls": api_calls([ToolCall("f", {})])}
    for num_samples in (1, 2):
        request = replace(native(TOOL), num_samples=num_samples)
        completions = completions_in(reply(*[message] * num_samples, finish_reason=told, tokens=tokens), request)
        assert [(c.finish_reason, c.num_completion_tokens, c.num_prompt_tokens) for c in completions] == [
            (found, tokens, 9)
        ] * num_samples


def test_samples_are_told_apart_by_their_index_and_counted_by_their_ids() -> None:
    told = json.loads(reply({"content": "first"}, {"content": "second"}))
    first, second = told["choices"]
    told |= {"choices": [second, first | {"token_ids": [1, 2]}], "usage": {"prompt_tokens": 9, "completion_tokens": 7}}
    completions = completions_in(json.dumps(told).encode(), replace(native(TOOL), num_samples=2))
    assert [(c.text, c.num_completion_tokens) for c in completions] == [("first", 2), ("second", 5)]


GOOD: Any = json.loads(reply({"content": "x"}))
PLACE = {"token": "token_id:5", "logprob": -0.5, "top_logprobs": [{"token": "token_id:5", "logprob": -0.5}]}


def with_choice(**changes: Any) -> bytes:
    return json.dumps({**GOOD, "choices": [{**GOOD["choices"][0], **changes}]}).encode()


@pytest.mark.parametrize(
    ("body", "what"),
    [
        (b"", "not JSON, or cut off"),
        (reply({"content": "x"})[:-9], "not JSON, or cut off"),
        (b"\xff", "not JSON, or cut off"),
        (b"[" * 100_000, "nested too deeply"),
        (b"[]", "of the wrong type"),
        (b'{"error": {"message": "no"}}', "'choices'"),
        (json.dumps({**GOOD, "usage": None}).encode(), "of the wrong type"),
        (json.dumps({**GOOD, "choices": []}).encode(), "0 completions where 1 were asked for"),
        (with_choice(finish_reason="abort"), "ended with 'abort'"),
        (with_choice(finish_reason=None), "ended with None"),
        (with_choice(message={"content": ["x"]}), "text expected, found list"),
        (with_choice(message={"content": "x", "tool_calls": "f()"}), "tool_calls are a list, found str"),
        (with_choice(logprobs=None), "of the wrong type"),
        (with_choice(logprobs={"content": [{**PLACE, "token": "Hi"}]}), "'Hi', not by its id"),
        (
            with_choice(logprobs={"content": [{**PLACE, "top_logprobs": []}]}),
            "no log-probabilities at one of the tokens",
        ),
    ],
)
def test_a_broken_body_is_a_value_error_that_says_what_is_wrong(body: bytes, what: str) -> None:
    with pytest.raises(ValueError, match=re.escape(what)):
        completions_in(body, replace(native(TOOL), num_logprobs=1))


def test_log_probabilities_are_kept_by_id_and_only_with_the_text_they_belong_to() -> None:
    likeliest = [{"token": f"token_id:{token}", "logprob": logprob} for token, logprob in ((8, -3.0), (5, -0.1))]
    places = [
        {"token": "token_id:5", "logprob": -0.1, "top_logprobs": likeliest},
        {"token": "token_id:4", "logprob": -2.0, "top_logprobs": likeliest},
    ]
    request = replace(native(replace(TOOL, name="a.f")), num_logprobs=2)

    def told(**message: JsonValue) -> Any:
        return one(with_choice(message=message, logprobs={"content": places}), request).logprobs

    found = told(content="[other()]")
    assert found.token_ids == (5, 4)
    assert found.top_ids == ((5, 8), (5, 4, 8)) and found.top_logprobs == ((-0.1, -3.0), (-0.1, -2.0, -3.0))
    assert told(content="[a_f()]") is None and told(content="x", reasoning="y") is None
    assert told(content="<think></think>x") is None and told(tool_calls=api_calls([ToolCall("a_f", {})])) is None


EXAMPLE = gold_example(customer_prompts(1, seed=3)[0])
CONVERSATION = (
    *EXAMPLE.messages,
    Message("assistant", f"Let me look.\n{EXAMPLE.reply}"),
    Message("tool", "done"),
    Message("user", "  and again\n"),
    Message("assistant", EXAMPLE.reply),
    Message("user", "more"),
)


@pytest.mark.parametrize("place", ["text", "native"])
def test_every_sampling_parameter_is_sent_and_messages_have_the_types_of_the_api(
    place: Literal["text", "native"],
) -> None:
    chat = chat_of(CONVERSATION, EXAMPLE.tools, EXAMPLE.tools_span, tools_place=place)
    request = asked(chat, num_samples=2, num_logprobs=4, sampling_parameters={"top_p": 0.5, "tool_choice": "none"})
    body: Any = chat_body(request, model="m")
    MESSAGES.validate_python(body["messages"])
    json.dumps(body, allow_nan=False)
    neutral = {
        "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0,
        "skip_special_tokens": True, "n": 2, "max_tokens": 64, "temperature": 0.0, "seed": 7, "model": "m",
        "logprobs": True, "top_logprobs": 4, "return_tokens_as_token_ids": True, "return_token_ids": True,
        "top_p": 0.5, "tool_choice": "none",
    }  # fmt: skip
    assert body == {**neutral, "messages": body["messages"], **({"tools": body["tools"]} if place == "native" else {})}
    results = [turn for turn in body["messages"] if turn["role"] == "tool"]
    assert len(results) == 1
    if place == "text":
        assert [(turn["role"], turn["content"]) for turn in body["messages"]] == [
            (m.role, m.content) for m in CONVERSATION
        ]
        return
    span, system = EXAMPLE.tools_span, EXAMPLE.messages[0].content
    assert span is not None and body["messages"][0]["content"] == system[: span.start] + system[span.end :]
    sent = {tool.name: function["name"] for tool, function in zip(EXAMPLE.tools, declared(request), strict=True)}
    called = [turn for turn in body["messages"] if turn["role"] == "assistant"]
    assert called[0]["content"] == "Let me look." and "content" not in called[1]
    for turn in called:
        functions = [call["function"] for call in turn["tool_calls"]]
        assert [(f["name"], json.loads(f["arguments"])) for f in functions] == [
            (sent[call.name], call.arguments) for call in EXAMPLE.calls
        ]
    assert results[0]["tool_call_id"] == called[0]["tool_calls"][0]["id"] != called[1]["tool_calls"][0]["id"]


@pytest.mark.parametrize(
    ("messages", "tool", "what"),
    [
        ((Message("user", "go"), Message("tool", "1")), TOOL, "a tool's result follows no call"),
        ((Message("assistant", "[f(x=1e999)]"),), TOOL, "JSON has no infinity"),
        ((Message("user", "go"),), Tool("f", "", {"default": float("nan")}), "JSON has no infinity"),
    ],
)
def test_what_cannot_be_sent_natively_is_refused_and_as_text_it_is_not(
    messages: tuple[Message, ...], tool: Tool, what: str
) -> None:
    with pytest.raises(DataError, match=rf"teacher\.tools native: {what}.*; use text"):
        chat_of(messages, (tool,), None, tools_place="native")
    assert chat_of(messages, (tool,), None, tools_place="text") == Chat(messages, ())


# The embedded teacher's own template says nothing of tools; this one writes them where its prompts have them.
TEMPLATE = (
    "{% for message in messages %}{% if loop.first %}{{ bos_token }}{% endif %}"
    "<|start_header_id|>{{ 'ipython' if message['role'] == 'tool' else message['role'] }}<|end_header_id|>\n\n"
    "{{ message['content'] | trim }}{% if loop.first and tools %}{{ '\\n' }}"
    "[{% for tool in tools %}{{ tool['function'] | tojson }}{{ ', ' if not loop.last }}{% endfor %}]{% endif %}"
    "<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
EXAMPLES = [gold_example(prompt) for prompt in customer_prompts(16, seed=11)]


@pytest.fixture(scope="module")
def server(start_vllm: StartVllm, tmp_path_factory: pytest.TempPathFactory) -> VllmServer:
    template = tmp_path_factory.mktemp("template") / "tools.jinja"
    template.write_text(TEMPLATE)
    return start_vllm(
        Path(model_path("embedded:teacher")), "--dtype", "float32", "--enforce-eager", "--chat-template", str(template),
        "--enable-auto-tool-choice", "--tool-call-parser", "pythonic",
    )  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return load_tokenizer("embedded:teacher")


def post(server: VllmServer, path: str, body: JsonObject) -> bytes:
    request = urllib.request.Request(
        f"{server.base_url}/{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=120) as response:
        data: bytes = response.read()
    return data


def by_token_ids(server: VllmServer, request: Request, ids: list[int]) -> list[Any]:
    """The choices that the server makes of the same request about token ids."""
    body = {name: value for name, value in chat_body(request, model=server.model).items() if name not in BY_MESSAGES}
    logprobs = request.num_logprobs or None
    answer = post(server, "completions", {**body, "prompt": [*ids], "logprobs": logprobs, "return_token_ids": True})
    choices: list[Any] = json.loads(answer)["choices"]
    return choices


BY_MESSAGES = {"messages", "tools", "tool_choice", "logprobs", "top_logprobs"}


@pytest.mark.vllm
@pytest.mark.timeout(600)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_tools_in_the_text_are_the_tokens_and_the_answers_of_our_own_rendering(
    temperature: float, server: VllmServer, tokenizer: PreTrainedTokenizerFast
) -> None:
    for messages in [CONVERSATION, *(example.messages for example in EXAMPLES[:8])]:
        chat = chat_of(messages, EXAMPLE.tools, None, tools_place="text")
        num_samples = 3 if temperature else 1
        request = asked(chat, num_logprobs=4, num_samples=num_samples, sampling_temperature=temperature)
        body = post(server, "chat/completions", chat_body(request, model=server.model))
        ids = prompt_ids(messages, tokenizer)
        assert json.loads(body)["prompt_token_ids"] == ids
        for completion, other in zip(completions_in(body, request), by_token_ids(server, request, ids), strict=True):
            assert (completion.text, completion.finish_reason) == (other["text"], other["finish_reason"])
            found = completion.logprobs
            assert found is not None and list(found.token_ids) == other["token_ids"]
            assert (completion.num_prompt_tokens, completion.num_completion_tokens) == (len(ids), len(found.token_ids))
            places = zip(
                found.token_ids, found.top_ids, found.top_logprobs, other["logprobs"]["top_logprobs"], strict=True
            )
            for token, top_ids, top_logprobs, told in places:
                # Four tokens, the text's own among them; the completions API gives a fifth where that is not one of the four.
                likeliest = sorted(told, key=told.get, reverse=True)[:4]
                expected = likeliest if f"token_id:{token}" in likeliest else [*likeliest[:3], f"token_id:{token}"]
                assert [f"token_id:{top}" for top in top_ids] == expected
                assert list(top_logprobs) == pytest.approx([told[top] for top in expected], abs=1e-4)


@pytest.mark.vllm
@pytest.mark.timeout(600)
def test_native_tool_calls_of_the_server_are_the_calls_of_the_text_under_the_prompts_names(
    server: VllmServer, tokenizer: PreTrainedTokenizerFast
) -> None:
    num_native = num_right = 0
    for example in EXAMPLES:
        request = asked(chat_of(example.messages, example.tools, example.tools_span, tools_place="native"))
        sending = chat_body(request, model=server.model)
        answer = post(server, "chat/completions", {**sending, "return_token_ids": True})
        functions = declared(request)
        system, *others = asked(request.chat).chat.messages  # type: ignore[arg-type, union-attr]  # native requests have a chat
        listed = f"{system.content.strip()}\n{json.dumps(functions, ensure_ascii=False)}"
        ids = prompt_ids([Message("system", listed), *others], tokenizer)
        assert json.loads(answer)["prompt_token_ids"] == ids
        (choice,) = by_token_ids(server, request, ids)
        own = {function["name"]: tool.name for function, tool in zip(functions, example.tools, strict=True)}
        assert all(sent != name for sent, name in own.items())
        completion = one(answer, request)
        try:
            written = parse_calls(choice["text"], mode="strict")
        except ParseError:
            continue
        calls = [ToolCall(own.get(call.name, call.name), call.arguments) for call in written]
        assert (completion.text, completion.finish_reason) == (render_calls(calls), "stop")
        num_native += "tool_calls" in json.loads(answer)["choices"][0]["message"]
        num_right += completion.text == example.reply
    assert num_native >= 8 and num_right > 0
