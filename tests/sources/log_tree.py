"""Calls of a model in; the log tree that Bedrock writes for them, and what a reader must find in it, out.

Follows the written description of the logs (record, operations, hour folders, offloaded bodies, permission-check marker), not the
reader. Bodies over 100 KB go into `data/` objects; streams are logged as the list of their events, or put together already.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from random import Random
from typing import Any

from distill.calls.render import render_calls
from distill.records import JsonValue, Message, Tool, ToolCall
from distill.sources.bedrock_names import to_bedrock_name
from distill.sources.record import LoggedReply

OPERATIONS = ("InvokeModel", "InvokeModelWithResponseStream", "Converse", "ConverseStream")
BUCKET = "s3://bkt/some/prefix"
FOLDER = "AWSLogs/123456789012/BedrockModelInvocationLogs"
OFFLOAD_OVER_BYTES = 100 * 1024
STARTED = datetime(2025, 5, 1, 22, 10, tzinfo=timezone.utc)
HEADERS = {"system": "system", "user": "user", "assistant": "assistant", "tool": "ipython"}


@dataclass(frozen=True)
class Turn:
    """A user's turn has results of the calls before it, text, or both; an assistant's text, calls, or both."""

    text: str = ""
    calls: tuple[ToolCall, ...] = ()
    results: tuple[str | dict[str, JsonValue], ...] = ()


@dataclass(frozen=True)
class Call:
    """One call of a model: `turns` alternate and end with the user's. Through InvokeModel everything is text, as in Llama's format."""

    operation: str
    turns: tuple[Turn, ...]
    reply: Turn
    system: str | None = None
    tools: tuple[Tool, ...] | None = None
    model_id: str = "meta.llama3-1-70b-instruct-v1:0"
    metadata: Mapping[str, str] | None = None
    error: str | None = None

    @property
    def is_raw(self) -> bool:
        return self.operation.startswith("InvokeModel")


def expected_messages(call: Call) -> tuple[Message, ...]:
    messages = [] if call.system is None else [Message("system", call.system)]
    for index, turn in enumerate(call.turns):
        messages += [
            Message("tool", text if isinstance(text, str) else json.dumps(text, ensure_ascii=False))
            for text in turn.results
        ]
        parts = [turn.text] if turn.text else []
        if turn.calls:
            parts.append(render_calls(turn.calls))
        if parts:
            messages.append(Message("assistant" if index % 2 else "user", "\n".join(parts)))
    return tuple(messages)


def expected_reply(call: Call, *, model: str) -> LoggedReply:
    if call.is_raw:
        return LoggedReply(_assistant_text(call.reply), (), model)
    return LoggedReply("" if call.reply.calls else call.reply.text, call.reply.calls, model)


def log_record(call: Call, number: int, random: Random) -> dict[str, Any]:
    """The record with both bodies inline."""
    record: dict[str, Any] = {
        "schemaType": "ModelInvocationLog", "schemaVersion": "1.0", "timestamp": f"{_time(number):%Y-%m-%dT%H:%M:%SZ}",
        "accountId": "123456789012", "identity": {"arn": "arn:aws:sts::123456789012:assumed-role/app/s1"}, "region": "us-west-2",
        "requestId": request_id(number), "operation": call.operation, "modelId": call.model_id,
        "input": {
            "inputContentType": "application/json",
            "inputBodyJson": _llama_request(call) if call.is_raw else _converse_request(call),
            "inputTokenCount": 15,
        },
    }  # fmt: skip
    if call.error is not None:
        record["errorCode"] = call.error
    else:
        record["output"] = {
            "outputContentType": "application/json",
            "outputBodyJson": _answer(call, random),
            "outputTokenCount": 5,
        }
    if call.metadata is not None:
        record["requestMetadata"] = dict(call.metadata)
    if random.random() < 0.5:  # newer records
        record["inferenceRegion"] = "us-east-1"
        record["input"] |= {"cacheReadInputTokenCount": 0, "cacheWriteInputTokenCount": 0}
    return record


def request_id(number: int) -> str:
    return f"7ee514f3-9eff-467c-af75-{number:012x}"


def write_log_tree(root: Path, calls: Sequence[Call], random: Random) -> int:
    """The tree of the calls under `root`, one call every 17 minutes, up to three to an object. Returns how many bodies were offloaded.

    Sorted by path, objects and their lines have the order of the calls.
    """
    top = root / FOLDER
    top.mkdir(parents=True)
    (top / "amazon-bedrock-logs-permission-check").touch()
    num_offloaded = 0
    objects: dict[Path, list[bytes]] = {}
    for number, call in enumerate(calls):
        hour = f"{_time(number):us-west-2/%Y/%m/%d/%H}"
        record = log_record(call, number, random)
        for side in {"input", "output"} & record.keys():
            body = json.dumps(record[side][f"{side}BodyJson"]).encode()
            if len(body) > OFFLOAD_OVER_BYTES:
                del record[side][f"{side}BodyJson"]
                file = f"{hour}/data/{request_id(number)}_{side}.json.gz"
                record[side][f"{side}BodyS3Path"] = f"{BUCKET}/{FOLDER}/{file}"
                _write(top / file, body)
                num_offloaded += 1
        path = next(reversed(objects), None)
        if path is None or path.parent != top / hour or len(objects[path]) == 3:
            path = top / hour / f"{_time(number):%Y%m%dT%H%M%S}000Z_{random.getrandbits(64):016x}.json.gz"
        objects.setdefault(path, []).append(json.dumps(record, ensure_ascii=random.random() < 0.5).encode() + b"\n")
    for path, lines in objects.items():
        _write(path, b"".join(lines))
    return num_offloaded


def _time(number: int) -> datetime:
    return STARTED + timedelta(minutes=17 * number)


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(data, mtime=0))


def llama_prompt(call: Call) -> str:
    turns = "".join(
        f"<|start_header_id|>{HEADERS[message.role]}<|end_header_id|>\n\n{message.content}<|eot_id|>"
        for message in expected_messages(call)
    )
    return f"<|begin_of_text|>{turns}<|start_header_id|>assistant<|end_header_id|>\n\n"


def _llama_request(call: Call) -> dict[str, Any]:
    return {"prompt": llama_prompt(call), "temperature": 0.1, "top_p": 0.9, "max_gen_len": 2048}


def _converse_request(call: Call) -> dict[str, Any]:
    ids = [[f"tooluse_{index}_{number}" for number in range(len(turn.calls))] for index, turn in enumerate(call.turns)]
    messages = []
    for index, turn in enumerate(call.turns):
        if index % 2:
            blocks = _assistant_blocks(turn, ids[index])
        else:
            answered = ids[index - 1] if index else []
            results = [
                {"toolResult": {"toolUseId": identity, "content": [_result(result)], "status": "success"}}
                for identity, result in zip(answered, turn.results, strict=True)
            ]
            blocks = [*reversed(results), *([{"text": turn.text}] if turn.text else [])]  # results name their calls
        messages.append({"role": "assistant" if index % 2 else "user", "content": blocks})
    body: dict[str, Any] = {"messages": messages, "inferenceConfig": {"maxTokens": 512, "temperature": 0.1}}
    if call.system is not None:
        body["system"] = [{"text": call.system}]
    if call.tools is not None:
        specs = [
            {
                "toolSpec": {
                    "name": to_bedrock_name(tool.name),
                    "description": tool.description,
                    "inputSchema": {"json": tool.parameters},
                }
            }
            for tool in call.tools
        ]
        body["toolConfig"] = {"tools": specs, "toolChoice": {"auto": {}}}
    return body


def _result(result: str | dict[str, JsonValue]) -> dict[str, Any]:
    return {"text": result} if isinstance(result, str) else {"json": result}


def _assistant_blocks(turn: Turn, ids: Sequence[str]) -> list[dict[str, Any]]:
    uses = [
        {"toolUse": {"toolUseId": identity, "name": to_bedrock_name(call.name), "input": call.arguments}}
        for identity, call in zip(ids, turn.calls, strict=True)
    ]
    return [*([{"text": turn.text}] if turn.text else []), *uses]


def _assistant_text(turn: Turn) -> str:
    return "\n".join([*([turn.text] if turn.text else []), *([render_calls(turn.calls)] if turn.calls else [])])


def _answer(call: Call, random: Random) -> Any:
    if call.is_raw:
        text = _assistant_text(call.reply)
        if call.operation == "InvokeModel":
            return {"generation": text, "prompt_token_count": 15, "generation_token_count": 5, "stop_reason": "stop"}
        events = [
            {"generation": piece, "prompt_token_count": None, "generation_token_count": 1, "stop_reason": None}
            for piece in _pieces(text, random)
        ]
        last = {
            "generation": "",
            "generation_token_count": 5,
            "stop_reason": "stop",
            "amazon-bedrock-invocationMetrics": {"inputTokenCount": 15},
        }
        return [*events, last]
    blocks = _assistant_blocks(call.reply, [f"tooluse_{number}" for number in range(len(call.reply.calls))])
    stop_reason = "tool_use" if call.reply.calls else "end_turn"
    usage = {"usage": {"inputTokens": 15, "outputTokens": 5, "totalTokens": 20}, "metrics": {"latencyMs": 640}}
    if call.operation == "Converse" or random.random() < 0.3:
        return {"output": {"message": {"role": "assistant", "content": blocks}}, "stopReason": stop_reason, **usage}
    deltas = [event for index, block in enumerate(blocks) for event in _block_events(block, index, random)]
    return [
        {"messageStart": {"role": "assistant"}},
        *deltas,
        {"messageStop": {"stopReason": stop_reason}},
        {"metadata": usage},
    ]


def _block_events(block: dict[str, Any], index: int, random: Random) -> list[dict[str, Any]]:
    start: list[dict[str, Any]]
    deltas: list[dict[str, Any]]
    if "text" in block:
        start = [] if random.random() < 0.5 else [{"contentBlockStart": {"start": {}, "contentBlockIndex": index}}]
        deltas = [{"text": piece} for piece in _pieces(block["text"], random)]
    else:
        use = block["toolUse"]
        start = [
            {
                "contentBlockStart": {
                    "start": {"toolUse": {key: use[key] for key in ("toolUseId", "name")}},
                    "contentBlockIndex": index,
                }
            }
        ]
        text = json.dumps(use["input"]) if use["input"] or random.random() < 0.5 else ""
        deltas = [{"toolUse": {"input": piece}} for piece in _pieces(text, random)]
    return [
        *start,
        *({"contentBlockDelta": {"delta": delta, "contentBlockIndex": index}} for delta in deltas),
        {"contentBlockStop": {"contentBlockIndex": index}},
    ]


def _pieces(text: str, random: Random) -> list[str]:
    cuts = sorted(random.randrange(len(text) + 1) for _ in range(random.randrange(4)))
    return [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
