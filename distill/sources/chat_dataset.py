"""A `datasets` dataset of chat records, on disk or on the hub, in; candidate prompts and rejects out, one or more for each row.

A dataset is an Arrow table, and a struct column of it has the fields of all its rows: every tool gets every other tool's parameters, as
None, and every call all arguments. Nothing in the table says which of these a row had. What is done about it goes by the column's type:

- JSON text and the type `Json()` (what `datasets` makes of a JSON file whose rows differ) hold each row as it was and are read as it
  stands, nulls included. Write tools and arguments so; `Json()` itself keeps floats to ten decimals.
- In a struct, None members of messages and tools are left out. A tool has a null on purpose only where null is a default or a constant,
  and leaving it out changes what it says of a call in no case but the constant's.
- In the arguments of a call a null may be meant. By the tool's schema it is one of three: not allowed, so Arrow's, left out; allowed and
  the argument required, so the row's own; allowed and optional, or in a place that the schema does not describe: nobody can tell, a
  reject (`ambiguous_null`).

What a struct loses besides cannot be got back: the order of keys, and 2 beside 2.5 in one column, which becomes 2.0.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from distill.calls.schema import why_invalid
from distill.records import DataError, Reject, Source, Tool, ToolCall
from distill.sources.chat_jsonl import read_conversation
from distill.sources.problem import RecordProblem, rejected
from distill.sources.record import SourceRecord
from distill.sources.tools import read_tools

MESSAGES = ("messages", "prompt", "completion")


def read_dataset(location: str, *, split: str | None, multi_turn: bool) -> Iterator[SourceRecord | Reject]:
    """The rows of a dataset: a folder that `save_to_disk` wrote, else whatever `datasets.load_dataset` takes (a hub name, a folder of
    files), which is kept in that library's own cache. Rows stay on disk while they are read.

    `split` may be None where there is only one. In sources a row is a line of LOCATION or LOCATION:SPLIT, counted from 1. Reasons: those
    of `read_chat_jsonl`, `ambiguous_null`, and `not_json` for a value that JSON does not have, such as a date. Raises `DataError` if
    the dataset cannot be read or has no column of messages.
    """
    dataset = _open(location, split)
    name = location if split is None else f"{location}:{split}"
    names = set(dataset.column_names)
    # Where there are messages, a column called prompt is somebody's note of the first of them.
    of_messages = ("messages",) if "messages" in names else ("prompt", "completion")
    columns = [column for column in (*of_messages, "tools", "functions") if column in names]
    if of_messages[0] not in names:
        raise DataError(
            f"{name}: no column messages, nor prompt and completion; found {', '.join(sorted(names))}. Rename the column"
        )
    dataset = dataset.with_format(None).select_columns(columns)
    for number, row in enumerate(_rows(dataset, name), start=1):
        source = Source(path=name, line=number)
        try:
            yield from read_conversation(_restored_row(row, dataset.features), source, multi_turn=multi_turn)
        except RecordProblem as problem:
            yield rejected(problem, source)


def is_saved_dataset(location: str) -> bool:
    """Whether it is a folder that `save_to_disk` wrote."""
    return any((Path(location) / name).is_file() for name in ("dataset_dict.json", "state.json"))


def _open(location: str, split: str | None) -> Any:
    from datasets import DatasetDict, load_dataset, load_from_disk
    from datasets.exceptions import DatasetsError

    is_saved = is_saved_dataset(location)
    try:
        loaded = load_from_disk(location) if is_saved else load_dataset(location, split=split)
    except (OSError, ValueError, DatasetsError) as error:
        raise DataError(
            f"{location}: cannot read the dataset ({error}); give a folder written by save_to_disk, or a name or folder that "
            "datasets.load_dataset takes, and one of its splits"
        ) from None
    if not isinstance(loaded, DatasetDict):
        if is_saved and split is not None:
            raise DataError(f"{location}: the dataset has no splits, split is {split!r}; leave it out")
        return loaded
    chosen = next(iter(loaded)) if split is None and len(loaded) == 1 else split
    if chosen not in loaded:
        raise DataError(f"{location}: split is {split!r}; choose one of {', '.join(loaded)}")
    return loaded[chosen]


def _rows(dataset: Any, name: str) -> Iterator[dict[str, Any]]:
    rows = iter(dataset)
    while True:
        try:
            row = next(rows)
        except StopIteration:
            return
        except (OSError, ValueError) as error:  # pyarrow's errors are of these two
            raise DataError(f"{name}: the dataset breaks off ({error}); write it again") from None
        yield row


def _restored_row(row: Mapping[str, Any], features: Mapping[str, Any]) -> dict[str, Any]:
    """The row as it was before it became part of a table, as far as that can be told."""
    values = {
        column: _restored(_parsed(value, column), features[column], keeps="arguments" if column in MESSAGES else "")
        for column, value in row.items()
    }
    for column in MESSAGES:
        if column in values and _has_struct(features[column], "arguments"):
            _settle_arguments(values[column], values.get("tools") or values.get("functions"))
    _check_json(values)
    return values


def _parsed(value: Any, column: str) -> Any:
    """Messages that are kept as JSON text; tools are read as text where tools are read."""
    if column not in MESSAGES or not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise RecordProblem("invalid_json", f"{column} is text and not valid JSON: {error}") from None


def _restored(value: Any, feature: Any, *, keeps: str) -> Any:
    """Without the None members of structs; a member called `keeps` stays as it is, for `_settle_arguments`."""
    if isinstance(feature, dict) and isinstance(value, dict):
        return {
            name: item if name == keeps else _restored(item, feature[name], keeps=keeps)
            for name, item in value.items()
            if item is not None
        }
    if isinstance(value, list) and (inner := _inner(feature)) is not None:
        return [_restored(item, inner, keeps=keeps) for item in value]
    return value


def _inner(feature: Any) -> Any:
    """What a list feature holds, None for other features."""
    return feature[0] if isinstance(feature, list) else getattr(feature, "feature", None)


def _has_struct(feature: Any, name: str) -> bool:
    """Whether a member of this name is a struct somewhere in the column."""
    if isinstance(feature, dict):
        return isinstance(feature.get(name), dict) or any(_has_struct(part, name) for part in feature.values())
    inner = _inner(feature)
    return inner is not None and _has_struct(inner, name)


def _settle_arguments(messages: Any, tools: Any) -> None:
    """Decide the nulls in the arguments of all calls by the row's own tools."""
    schemas = {tool.name: tool.parameters for tool in read_tools(tools)} if tools else {}
    for function in _functions(messages):
        name = function.get("name")
        schema = schemas.get(name) if isinstance(name, str) else None
        described = None if schema is None else {"properties": {}, **schema}
        function["arguments"] = _settled(function.get("arguments"), described, where=str(name))


def _functions(messages: Any) -> Iterator[dict[str, Any]]:
    """The objects with name and arguments of all calls; what is no call is left to `read_conversation`."""
    for message in messages if isinstance(messages, list) else ():
        if isinstance(message, dict):
            calls = message.get("tool_calls")
            for call in [*(calls if isinstance(calls, list) else ()), message.get("function_call")]:
                if isinstance(call, dict):
                    yield call["function"] if isinstance(call.get("function"), dict) else call


def _settled(value: Any, schema: Any, *, where: str) -> Any:
    """The value without the nulls that its schema says were filled in. Raises `RecordProblem` where the schema does not say."""
    described: Mapping[str, Any] = schema if isinstance(schema, dict) else {}
    if isinstance(value, list):
        return [_settled(item, described.get("items"), where=f"{where}[{index}]") for index, item in enumerate(value)]
    if not isinstance(value, dict):
        return value
    properties, required = described.get("properties"), described.get("required")
    kept: dict[str, Any] = {}
    for name, item in value.items():
        part = properties.get(name, False) if isinstance(properties, dict) else None
        if item is not None:
            kept[name] = _settled(item, part, where=f"{where}.{name}")
        elif part is None or _allows_null(part):
            if part is None or not isinstance(required, list) or name not in required:
                raise RecordProblem(
                    "ambiguous_null",
                    f"{where}.{name} is null, which may be the row's own or filled in by Arrow; store arguments as JSON text or "
                    "Json()",
                )
            kept[name] = None
    return kept


def _allows_null(schema: Any) -> bool:
    tool = Tool("tool", "", {"properties": {"argument": schema}})
    try:
        return why_invalid([ToolCall("tool", {"argument": None})], [tool]) is None
    except DataError:
        return False


def _check_json(values: Mapping[str, Any]) -> None:
    pending: list[tuple[str, Any]] = list(values.items())
    while pending:
        where, value = pending.pop()
        if isinstance(value, dict):
            pending += ((f"{where}.{name}", item) for name, item in value.items())
        elif isinstance(value, list):
            pending += ((where, item) for item in value)
        elif value is not None and not isinstance(value, str | int | float):
            raise RecordProblem(
                "not_json", f"{where} is a {type(value).__name__}; store messages and tools as JSON text or Json()"
            )
