"""A configured source in; its files, its format and, one after another, its records and rejects out.

The format is told by the first record that can be told, unless the configuration names it. Of a folder only files with the format's
usual ending are read; the others are named as skipped.
"""

from __future__ import annotations

import json
import posixpath
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from distill.calls.match import BFCL_CATEGORIES, has_answers
from distill.config import ConfigError, PromptFormat, PromptSource
from distill.records import DataError, ExpectedCall, Reject, content_id
from distill.run_dir import file_hash
from distill.sources.bedrock_jsonl import SCHEMA_VERSION, read_bedrock_jsonl
from distill.sources.bfcl import bfcl_category, read_answer, read_bfcl
from distill.sources.chat_dataset import is_saved_dataset, read_dataset
from distill.sources.chat_jsonl import read_chat_jsonl
from distill.sources.files import (
    InputFile,
    Line,
    SkippedFile,
    input_file,
    input_hash,
    open_inputs,
    read_bytes,
    read_lines,
)
from distill.sources.invocation_logs import is_log_object, offloaded_body_path, read_invocation_logs
from distill.sources.json_line import read_object
from distill.sources.metadata_filter import MetadataFilter, parse_metadata_filter
from distill.sources.problem import RecordProblem, rejected
from distill.sources.record import SourceRecord

SUFFIXES: dict[PromptFormat, tuple[str, ...]] = {
    "bedrock": (".jsonl", ".jsonl.gz"),
    "chat": (".jsonl", ".jsonl.gz"),
    "logs": (".json.gz", ".json"),
    "bfcl": (".json", ".json.gz"),
}
ALL_SUFFIXES = tuple(sorted({suffix for suffixes in SUFFIXES.values() for suffix in suffixes}))
LINES_LOOKED_AT = 100
FILES_LOOKED_AT = 10

Advance = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class OpenedSource:
    """A source whose files are listed. `files` is empty for a dataset, which its own library reads."""

    source: PromptSource
    format: PromptFormat
    files: tuple[InputFile, ...]
    skipped: tuple[SkippedFile, ...]
    metadata_filter: MetadataFilter | None
    teacher: str | None

    @property
    def size_bytes(self) -> int:
        """Bytes as stored, as far as they are known."""
        return sum(file.size_bytes or 0 for file in self.files)


def open_source(source: PromptSource, *, where: str, teacher: str) -> OpenedSource:
    """List a source's files and tell its format. `where` is its key in the configuration, `teacher` the configured teacher.

    Raises `ConfigError` if nothing is there, if settings do not go with the format, or if a filter is none of Bedrock's.
    """
    found = source.format or ("dataset" if is_saved_dataset(source.path) else None)
    files: list[InputFile] = []
    skipped: list[SkippedFile] = []
    if found != "dataset":
        listed = list(open_inputs(source.path, suffixes=SUFFIXES[found] if found else ALL_SUFFIXES))
        files = [file for file in listed if isinstance(file, InputFile)]
        found = found or tell_format(files)
        files, more = _of_format(files, found, source.path)
        skipped = [*(file for file in listed if isinstance(file, SkippedFile)), *more]
        if not files:
            first = f"{skipped[0].path}: {skipped[0].detail}"
            raise ConfigError(f"{where}: {source.path}: none of {len(skipped)} files is of format {found}; {first}")
    _check_settings(source, found, where)
    return OpenedSource(
        source=source,
        format=found,
        files=tuple(files),
        skipped=tuple(skipped),
        metadata_filter=None
        if source.filters is None
        else parse_metadata_filter(source.filters, where=f"{where}.filters"),
        teacher=(source.logged_model or teacher) if source.use_prompt_response else None,
    )


def tell_format(files: list[InputFile]) -> PromptFormat:
    """The format of the first record that looks like one; `bedrock` if none does, whose reader then says what is wrong."""
    for file in files[:FILES_LOOKED_AT]:
        looked_at = 0
        for line in read_lines(file):
            looked_at += bool(line.data.strip())
            found = _format_of(line)
            if found is not None:
                return found
            if looked_at == LINES_LOOKED_AT:
                break
    return "bedrock"


def read_records(opened: OpenedSource, advance: Advance = lambda num_bytes: None) -> Iterator[SourceRecord | Reject]:
    """All records of a source. `advance` is told how many stored bytes were read since it was told last.

    Raises `DataError` for what cannot be read at all, and for `answers` that do not belong to the records.
    """
    source = opened.source
    if opened.format == "dataset":
        yield from read_dataset(source.path, split=source.split, multi_turn=source.multi_turn)
    elif opened.format == "bedrock" and source.answers is not None:
        yield from _with_answers(opened, source.answers, advance)
    else:
        for file in opened.files:
            yield from _read_file(opened, file, advance)


def source_hash(opened: OpenedSource) -> str:
    """What tells one content of a source from another. A dataset of the hub is told by its name alone."""
    if opened.format == "dataset":
        folder = Path(opened.source.path)
        return file_hash(folder) if folder.is_dir() else f"dataset:{opened.source.path}"
    hashes = [[file.path, input_hash(file)] for file in opened.files]
    answers = [input_hash(input_file(path)) for path in _answer_paths(opened)]
    return hashes[0][1] if len(hashes) == 1 and not answers else content_id(hashes, answers)


def _format_of(line: Line) -> PromptFormat | None:
    try:
        value = read_object(line)
    except RecordProblem:
        return None
    if value.get("schemaType") == "ModelInvocationLog":
        return "logs"
    if value.get("schemaVersion") == SCHEMA_VERSION:
        return "bedrock"
    if "question" in value and "function" in value:
        return "bfcl"
    return "chat" if "messages" in value or isinstance(value.get("prompt"), list) else None


def _of_format(files: list[InputFile], found: PromptFormat, spec: str) -> tuple[list[InputFile], list[SkippedFile]]:
    kept: list[InputFile] = []
    skipped: list[SkippedFile] = []
    for file in files:
        why = None if file.path == spec else _why_skipped(file.path, found)
        if why is None:
            kept.append(file)
        else:
            skipped.append(SkippedFile(file.path, why))
    return kept, skipped


def _why_skipped(path: str, found: PromptFormat) -> str | None:
    if not path.endswith(SUFFIXES[found]):
        return f"the format is {found}, whose files end in {' or '.join(SUFFIXES[found])}"
    if found == "logs" and not is_log_object(path):
        return "an offloaded body or a permission check"
    if found == "bfcl":
        if posixpath.basename(posixpath.dirname(path)) == "possible_answer":
            return "possible answers, read beside their questions"
        try:
            bfcl_category(path)
        except DataError:
            return "no file of a single-turn category of BFCL"
    return None


def _check_settings(source: PromptSource, found: PromptFormat, where: str) -> None:
    """Settings that the format has no use for would be passed over in silence."""
    for name, formats in (
        ("filters", ("logs",)),
        ("use_prompt_response", ("logs",)),
        ("logged_model", ("logs",)),
        ("split", ("dataset",)),
        ("answers", ("bedrock", "bfcl")),
        ("multi_turn", ("bedrock", "chat", "logs", "dataset")),
    ):
        if getattr(source, name) not in (None, False) and found not in formats:
            raise ConfigError(f"{where}: {name} goes with {' and '.join(formats)}; {source.path} is {found}. Remove it")
    if source.answers is not None and source.multi_turn:
        raise ConfigError(
            f"{where}: answers go by record and multi_turn makes several prompts of one; choose one of them"
        )
    if source.logged_model is not None and not source.use_prompt_response:
        raise ConfigError(f"{where}: logged_model says whose answers to use; set use_prompt_response as well")


def _read_file(opened: OpenedSource, file: InputFile, advance: Advance) -> Iterator[SourceRecord | Reject]:
    lines, multi_turn = read_lines(file, advance), opened.source.multi_turn
    if opened.format == "bedrock":
        yield from read_bedrock_jsonl(lines, name=file.path, multi_turn=multi_turn)
    elif opened.format == "chat":
        yield from read_chat_jsonl(lines, name=file.path, multi_turn=multi_turn)
    elif opened.format == "logs":
        yield from read_invocation_logs(
            lines,
            name=file.path,
            open_body=partial(_offloaded_body, log_path=file.path),
            metadata_filter=opened.metadata_filter,
            teacher=opened.teacher,
            multi_turn=multi_turn,
        )
    else:
        yield from _read_bfcl(opened, file, lines)


def _offloaded_body(url: str, *, log_path: str) -> bytes:
    return read_bytes(offloaded_body_path(url, log_path=log_path))


def _read_bfcl(opened: OpenedSource, file: InputFile, lines: Iterator[Line]) -> Iterator[SourceRecord | Reject]:
    answers, category = _bfcl_answers(opened, file), bfcl_category(file.path)
    for found in read_bfcl(
        lines,
        name=file.path,
        category=category,
        answers=None if answers is None else read_lines(input_file(answers)),
        answers_name=answers or "",
    ):
        if isinstance(found, Reject):
            yield found
        elif BFCL_CATEGORIES[category][1] != "python":
            problem = RecordProblem(
                "other_language", f"{category}: calls are Python's here; `distill score` takes the others"
            )
            yield rejected(problem, found.record.source)
        else:
            yield replace(found.record, expected_calls=found.expected, category=found.category)


def _bfcl_answers(opened: OpenedSource, file: InputFile) -> str | None:
    """The answers of a file of questions: those of the configuration, else those that BFCL keeps beside it."""
    if not has_answers(bfcl_category(file.path)):
        return None
    beside = posixpath.join(posixpath.dirname(file.path), "possible_answer", posixpath.basename(file.path))
    given = opened.source.answers
    if given is None:
        with suppress(DataError):
            return input_file(beside).path
        return None
    return given if len(opened.files) == 1 else posixpath.join(given, posixpath.basename(file.path))


def _answer_paths(opened: OpenedSource) -> list[str]:
    if opened.format == "bfcl":
        return [path for file in opened.files if (path := _bfcl_answers(opened, file)) is not None]
    return [] if opened.source.answers is None else [opened.source.answers]


def _with_answers(opened: OpenedSource, answers: str, advance: Advance) -> Iterator[SourceRecord | Reject]:
    """Records with the expected calls of the line that has their number, rejects counted."""
    path, number = opened.source.path, 0
    lines = (line for line in read_lines(input_file(answers)) if line.data.strip())
    for file in opened.files:
        for result in read_bedrock_jsonl(read_lines(file, advance), name=file.path):
            line = next(lines, None)
            if line is None:
                raise DataError(f"{answers}: {number} answers for more records in {path}; line k answers record k")
            number += 1
            expected = _expected(line, answers)
            yield replace(result, expected_calls=expected) if isinstance(result, SourceRecord) else result
    num_left = sum(1 for _ in lines)
    if num_left:
        raise DataError(
            f"{answers}: {number + num_left} answers for {number} records in {path}; line k answers record k"
        )


def _expected(line: Line, name: str) -> tuple[ExpectedCall, ...]:
    try:
        return read_answer(json.loads(line.data)["ground_truth"])
    except (ValueError, KeyError, TypeError, RecursionError, RecordProblem) as error:
        raise DataError(
            f'{name}:{line.number}: expected {{"id": ..., "ground_truth": [{{name: {{parameter: [values]}}}}]}} ({error})'
        ) from None
