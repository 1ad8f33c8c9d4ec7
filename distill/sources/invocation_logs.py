"""Lines of Bedrock's model invocation logs in; candidate prompts and rejects out, one for each line that is not blank.

One record is one call of InvokeModel, Converse or the stream form of either. A conversation of several turns was logged once for each
of its calls, so a record gives the prompt of its own call and no other. Checks go from the whole record to its parts: what it is, the
metadata filter, whether the call succeeded, the model, the request, the answer.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Callable, Iterable, Iterator

from distill.records import DataError, JsonObject, JsonValue, Message, Reject, Source, Tool
from distill.sources.converse import read_converse_messages, read_converse_reply, read_converse_tools
from distill.sources.files import Line
from distill.sources.json_line import read_object
from distill.sources.llama_prompt import read_llama_reply, split_llama_prompt
from distill.sources.metadata_filter import MetadataFilter, is_selected
from distill.sources.problem import RecordProblem, rejected
from distill.sources.record import LoggedReply, SourceRecord
from distill.sources.reply import Reply

OPERATIONS = ("InvokeModel", "InvokeModelWithResponseStream", "Converse", "ConverseStream")


def read_invocation_logs(
    lines: Iterable[Line],
    *,
    name: str,
    open_body: Callable[[str], bytes],
    metadata_filter: MetadataFilter | None,
    teacher: str | None,
    multi_turn: bool,
) -> Iterator[SourceRecord | Reject]:
    """One result per non-blank line. `name` is how the log object is called in sources.

    `teacher` is Bedrock's `usePromptResponse`: with a model's id, only that model's records are taken, together with their answers; with
    None, records of any model, their answers left unread (`reply` is None). Without `multi_turn`, a prompt is one user message, as
    Bedrock has it. `open_body` takes an offloaded body's path as logged (`s3://...`) and returns it unpacked; where it raises `DataError`
    or OSError the record is rejected.
    """
    for line in lines:
        if not line.data or line.data.isspace():
            continue
        source = Source(path=name, line=line.number, offset=line.offset)
        try:
            record = read_object(line)
            request_id = record.get("requestId")
            if isinstance(request_id, str):
                source = Source(path=name, line=line.number, offset=line.offset, request_id=request_id)
            _check_record(record, metadata_filter, teacher)
            messages, tools, reply = _read_call(record, open_body, teacher is not None)
            if not multi_turn and sum(message.role != "system" for message in messages) > 1:
                raise RecordProblem("multi_turn", f"{len(messages)} messages; Bedrock takes one user message")
        except RecordProblem as problem:
            yield rejected(problem, source)
        else:
            yield SourceRecord(messages=messages, tools=tools, reply=reply, source=source)


def is_log_object(path: str) -> bool:
    """Whether an object of the log tree holds records: not an offloaded body, not the marker of a permission check."""
    folder, file = posixpath.split(path)
    if "permission-check" in file:
        return False
    return not (posixpath.basename(folder) == "data" and _BODY_FILE.search(file))


def offloaded_body_path(url: str, *, log_path: str) -> str:
    """Where the offloaded body that a record calls `url` lies in the copy of the tree that the record's log object lies in.

    A tree may have been copied to a disk or another bucket: found is `YYYY/MM/DD/HH/data/...` in that copy, and `data/` beside the log
    object where either path has no hour folders.
    """
    hour, body = _HOUR_FOLDER.search(log_path), _BODY_PATH.search(url)
    if hour and body:
        return log_path[: hour.start(1)] + body.group(1)
    return posixpath.join(posixpath.dirname(log_path), "data", posixpath.basename(url))


def normalise_model_id(model_id: str) -> str:
    """The model's own id: `meta.llama3-1-70b-instruct-v1:0` also for its profile `us.meta...` and for the ARN of either.

    An ARN that names no foundation model (application inference profile, provisioned, custom or imported model, router, prompt)
    does not say which model answered; it stays whole and equals itself only.
    """
    arn = _MODEL_ARN.fullmatch(model_id)
    return _GEOGRAPHY.sub("", arn.group(1) if arn else model_id)


def is_same_model(model_id: str, teacher: str) -> bool:
    """Whether a record's `modelId` is the chosen teacher, each given as an id, a profile id or an ARN."""
    return normalise_model_id(model_id) == normalise_model_id(teacher)


_BODY_FILE = re.compile(r"_(input|output)\.json(\.gz)?$")
_HOUR_FOLDER = re.compile(r"(?:^|/)(\d{4}/\d\d/\d\d/\d\d)/[^/]+$")
_BODY_PATH = re.compile(r"/(\d{4}/\d\d/\d\d/\d\d/data/[^/]+)$")
_MODEL_ARN = re.compile(r"arn:aws[a-z-]*:bedrock:[a-z0-9-]*:\d*:(?:foundation-model|inference-profile)/(.+)")
# A model's id is provider.model, and a system-defined profile puts a geography before it: us, us-gov, eu, jp, au, apac, global.
_GEOGRAPHY = re.compile(r"^(?:[a-z]{2}(?:-gov)?|apac|global)\.(?=[a-z0-9-]+\.)")
# Bodies of other model families, whose messages look like Converse's at first sight.
_NATIVE_KEYS = frozenset({"anthropic_version", "max_tokens", "tools"})
_COMPLETE = frozenset({"stop", "end_turn", "tool_use", "stop_sequence"})
_TRUNCATED = frozenset({"length", "max_tokens", "model_context_window_exceeded"})


def _check_record(record: JsonObject, metadata_filter: MetadataFilter | None, teacher: str | None) -> None:
    if record.get("schemaType") != "ModelInvocationLog":
        raise RecordProblem("not_an_invocation_log", "schemaType is not ModelInvocationLog")
    if record.get("schemaVersion") != "1.0":
        raise RecordProblem(
            "bad_schema_version", f"schemaVersion is {_shown(record.get('schemaVersion'))}; expected '1.0'"
        )
    metadata = record.get("requestMetadata")
    if metadata is None:
        metadata = {}
    if not isinstance(metadata, dict):
        raise RecordProblem("bad_metadata", f"requestMetadata must be an object, found {type(metadata).__name__}")
    if metadata_filter is not None and not is_selected(metadata, metadata_filter):
        raise RecordProblem("metadata_filtered", "the request's metadata does not pass the filter")
    if record.get("errorCode") is not None:
        raise RecordProblem("failed_call", f"the call failed with {_shown(record['errorCode'])}")
    model_id = record.get("modelId")
    if not isinstance(model_id, str) or not model_id.strip():
        raise RecordProblem("missing_model_id", "modelId is missing")
    if teacher is not None and not is_same_model(model_id, teacher):
        raise RecordProblem("model_mismatch", f"answered by {_shown(model_id)}; the teacher is {_shown(teacher)}")
    if record.get("operation") not in OPERATIONS:
        raise RecordProblem(
            "unknown_operation",
            f"operation is {_shown(record.get('operation'))}; expected one of {', '.join(OPERATIONS)}",
        )


def _read_call(
    record: JsonObject, open_body: Callable[[str], bytes], want_reply: bool
) -> tuple[tuple[Message, ...], tuple[Tool, ...] | None, LoggedReply | None]:
    request, answer = _body(record, "input"), _body(record, "output")
    body = _load(request, open_body)
    if not isinstance(body, dict):
        raise RecordProblem("unsupported_body", "the request's body is not a JSON object")
    is_native = str(record["operation"]).startswith("InvokeModel")
    prompt = body.get("prompt") if is_native else None
    if isinstance(prompt, str):
        if body.get("images"):
            raise RecordProblem("multimodal", "images beside the prompt; only text can be distilled")
        messages, tools = split_llama_prompt(prompt), None
    elif is_native and ("messages" not in body or body.keys() & _NATIVE_KEYS):
        raise RecordProblem(
            "unsupported_body", "an InvokeModel body must hold a Llama prompt, or messages in Converse's form"
        )
    else:
        messages, tools = read_converse_messages(body), read_converse_tools(body)
    if not want_reply:
        return messages, tools, None
    read_reply = read_llama_reply if isinstance(prompt, str) else read_converse_reply
    return messages, tools, _logged(record, read_reply(_load(answer, open_body)))


def _body(record: JsonObject, side: str) -> tuple[JsonValue, str]:
    """The body of one side of a call, or None and the path of the object that holds it."""
    part = record.get(side)
    if isinstance(part, dict):
        body, path = part.get(f"{side}BodyJson"), part.get(f"{side}BodyS3Path")
        if body is not None:
            return body, ""
        if isinstance(path, str) and path:
            return None, path
    raise RecordProblem(f"missing_{side}", f"{side} has neither {side}BodyJson nor {side}BodyS3Path")


def _load(body_or_path: tuple[JsonValue, str], open_body: Callable[[str], bytes]) -> JsonValue:
    body, path = body_or_path
    if not path:
        return body
    try:
        data = open_body(path)
    except (OSError, DataError) as error:
        raise RecordProblem("missing_body", f"cannot read the offloaded body {_shown(path)}: {error}") from None
    try:
        value: JsonValue = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise RecordProblem("bad_body", f"the offloaded body {_shown(path)} is not valid JSON: {error}") from None
    return value


def _logged(record: JsonObject, reply: Reply) -> LoggedReply:
    """The answer, if it is a whole one."""
    if reply.stop_reason in _TRUNCATED:
        raise RecordProblem("truncated_reply", f"the answer was cut off (stop reason {reply.stop_reason})")
    if reply.stop_reason not in _COMPLETE:
        raise RecordProblem(
            "unfinished_reply", f"the answer did not end by itself (stop reason {_shown(reply.stop_reason)})"
        )
    if not reply.calls and not reply.text.strip():
        raise RecordProblem("empty_reply", "the answer has neither text nor calls")
    return LoggedReply(text=reply.text, calls=reply.calls, model=normalise_model_id(str(record["modelId"])))


def _shown(value: object) -> str:
    return ascii(value)[:200] if isinstance(value, str | None) else type(value).__name__
