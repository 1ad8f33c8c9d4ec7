"""BFCL's questions and answers and any model's outputs in; a verdict for each question and their rate with its interval out.

Standard library only. Nothing is guessed: a line that cannot be read and ids that differ between the files are errors.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast, get_args

from distill.calls.match import BFCL_CATEGORIES, Language, has_answers, score_text
from distill.calls.parse import CallFormat
from distill.evaluation.statistics import Interval, count_verdicts, wilson_interval
from distill.records import Category, DataError, ExpectedCall, JsonObject, JsonValue, Tool, Verdict
from distill.sources.problem import printable

CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class ScoredRow:
    """One question's verdict: BFCL's error type (None when correct) and the first difference in words."""

    id: str
    verdict: Verdict
    bfcl_error: str | None
    explanation: str


@dataclass(frozen=True, slots=True)
class Scores:
    """A category's rows in the order of the questions, and Wilson's interval of the share that is correct."""

    category: str
    call_format: CallFormat
    rows: tuple[ScoredRow, ...]
    num_correct: int
    interval: Interval

    @property
    def accuracy(self) -> float:
        return self.num_correct / len(self.rows)


def score_files(questions: Path, answers: Path | None, outputs: Path, *, category: str, call_format: str) -> Scores:
    """Score a model's outputs as BFCL does.

    Each file holds JSON Lines or one JSON list. `questions` and `answers` are BFCL's; the categories irrelevance and relevance have no
    answers (None). A row of `outputs` has an `id` and a `result`: text that is read as `call_format`, or what an API gave, a list of
    calls (as BFCL's result files keep it, or `tool_calls` objects), an assistant message, or null.

    Raises `DataError`, with file and line, for a row that cannot be read, an id that stands twice, ids that differ between the files,
    an unknown category or format, and questions of another category than the one named.
    """
    kind, language = _known_category(category)
    checked_format = _known_format(call_format)
    is_answered = has_answers(category)
    if is_answered != (answers is not None):
        raise DataError(
            f"category {category} is scored by its answers; give BFCL's file of possible answers in place of -"
            if is_answered
            else f"category {category} has no answers; give - in place of {answers}"
        )
    asked = _read_rows(questions)
    _check_category(asked, category)
    expected = asked if answers is None else _read_rows(answers)
    given = _read_rows(outputs)
    _check_ids(asked, expected, questions=questions, path=answers or questions, what="answer")
    _check_ids(asked, given, questions=questions, path=outputs, what="output")
    rows = []
    for row_id, question in asked.items():
        text, text_format = _output(given[row_id], checked_format)
        found = score_text(
            text,
            _expected_calls(expected[row_id]) if is_answered else (),
            tools=_tools(question) if is_answered else (),
            category=kind,
            finish_reason="stop",
            call_format=text_format,
            language=language,
        )
        rows.append(ScoredRow(row_id, found.verdict, found.bfcl_error, found.explanation))
    num_correct = sum(row.verdict == "correct" for row in rows)
    interval = wilson_interval(num_correct, len(rows), confidence=CONFIDENCE)
    return Scores(category, checked_format, tuple(rows), num_correct, interval)


def scores_json(scores: Scores) -> JsonObject:
    """Everything the command knows, for other programs; the rows last."""
    return {
        "category": scores.category,
        "format": scores.call_format,
        "n": len(scores.rows),
        "correct": scores.num_correct,
        "accuracy": scores.accuracy,
        "interval": {"method": "wilson", "confidence": CONFIDENCE, **asdict(scores.interval)},
        "verdicts": dict(count_verdicts(row.verdict for row in scores.rows).items()),
        "bfcl_errors": dict(_count_errors(scores)),
        "rows": [asdict(row) for row in scores.rows],
    }


def row_lines(scores: Scores) -> Iterator[str]:
    """A line for each question: id, verdict, BFCL's error and explanation, separated by tabs; `-` where there is none."""
    for row in scores.rows:
        yield "\t".join(printable(part or "-") for part in (row.id, row.verdict, row.bfcl_error, row.explanation))


def table_lines(scores: Scores) -> Iterator[str]:
    """The rate with its interval, and what went wrong how often."""
    interval = f"{scores.interval.low:.4f} to {scores.interval.high:.4f}"
    width = max(len(scores.category), len("category"))
    yield f"{'category':<{width}}  {'n':>5}  {'correct':>7}  {'accuracy':>8}  {100 * CONFIDENCE:g} % interval"
    yield f"{scores.category:<{width}}  {len(scores.rows):>5}  {scores.num_correct:>7}  {scores.accuracy:>8.4f}  {interval}"
    errors = _count_errors(scores)
    if errors:
        width = max(map(len, errors))
        yield from ("", f"{'error':<{width}}  {'n':>5}")
        yield from (f"{error:<{width}}  {count:>5}" for error, count in errors.items())


@dataclass(frozen=True, slots=True)
class _Row:
    """One object of a file, and where it stands there."""

    where: str
    values: JsonObject


def _known_category(name: str) -> tuple[Category, Language]:
    if name not in BFCL_CATEGORIES:
        raise DataError(f"--category {name}: no single-turn category of BFCL; allowed: {', '.join(BFCL_CATEGORIES)}")
    return BFCL_CATEGORIES[name]


def _known_format(name: str) -> CallFormat:
    if name not in get_args(CallFormat):
        raise DataError(f"--format {name}: not a format of calls; allowed: {', '.join(get_args(CallFormat))}")
    return cast(CallFormat, name)


def _read_rows(path: Path) -> dict[str, _Row]:
    """The objects of a file by their id."""
    rows: dict[str, _Row] = {}
    for row in _objects(path):
        row_id = _field(row, "id", (str,))
        if row_id in rows:
            raise DataError(
                f"{row.where}: the id {row_id!r} stands twice, first at {rows[row_id].where}; keep one of them"
            )
        rows[row_id] = row
    if not rows:
        raise DataError(f"{path}: no rows; expected one JSON object per line, or a JSON list of them")
    return rows


def _objects(path: Path) -> Iterator[_Row]:
    text = _read_text(path)
    if text.lstrip().startswith("["):
        values = [(f"{path}, item {number}", value) for number, value in enumerate(_load(text, path, 1), start=1)]
    else:
        # Not `splitlines`, which also splits at separators that JSON allows inside a string.
        lines = enumerate(text.split("\n"), start=1)
        values = [(f"{path}:{number}", _load(line, path, number)) for number, line in lines if line.strip()]
    for where, value in values:
        if not isinstance(value, dict):
            raise DataError(f"{where}: found {_shown(value)}; a row is a JSON object")
        yield _Row(where, value)


def _read_text(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(
            f"{path}: cannot read this file ({error.strerror}); give the path of a JSON Lines file"
        ) from None
    try:
        return content.decode("utf-8", "surrogatepass").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}:{line}: not UTF-8 ({error.reason}); save the file as UTF-8") from None


def _load(text: str, path: Path, line: int) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        where = f"{path}:{line + error.lineno - 1}"
        raise DataError(
            f"{where}: not valid JSON ({error.msg}, column {error.colno}); expected one object per line"
        ) from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}:{line}: JSON that cannot be read ({error})") from None


def _field(row: _Row, name: str, types: tuple[type, ...]) -> Any:
    """A field of a row, which must be there and of one of these types."""
    allowed = " or ".join(_TYPE_NAMES[kind] for kind in types)
    if name not in row.values:
        found = ", ".join(map(repr, row.values)) or "none"
        raise DataError(f"{row.where}: no {name!r}; found the keys {found}; {name!r} is {allowed}")
    value = row.values[name]
    if type(value) not in types:
        raise DataError(f"{row.where}: {name!r} is {_shown(value)}; allowed is {allowed}")
    return value


_TYPE_NAMES: dict[type, str] = {str: "text", list: "a list", dict: "an object", type(None): "null"}


def _check_category(asked: dict[str, _Row], category: str) -> None:
    """Refuse questions whose ids bear another category's name: they would be scored by the wrong rules without a sign."""
    for row_id, row in asked.items():
        named = row_id.rpartition("_")[0]
        if named != category and named in BFCL_CATEGORIES:
            raise DataError(f"{row.where}: the id {row_id!r} is of category {named}; give --category {named}")


def _check_ids(asked: dict[str, _Row], rows: dict[str, _Row], *, questions: Path, path: Path, what: str) -> None:
    missing = [row_id for row_id in asked if row_id not in rows]
    if missing:
        raise DataError(
            f"{path}: no {what} for {len(missing)} of {len(asked)} questions: {_listed(missing)}; add them, or take these "
            f"questions out of {questions}"
        )
    extra = [row_id for row_id in rows if row_id not in asked]
    if extra:
        raise DataError(
            f"{rows[extra[0]].where}: {len(extra)} ids that are no question's: {_listed(extra)}; add the questions to "
            f"{questions}, or take these out"
        )


def _tools(row: _Row) -> list[Tool]:
    functions = _field(row, "function", (list,))
    if not functions:
        raise DataError(f"{row.where}: 'function' is empty; calls cannot be checked without a tool")
    tools = []
    for index, function in enumerate(functions):
        part = _part(row, f"function[{index}]", function)
        description = part.values.get("description")
        tools.append(
            Tool(
                name=_field(part, "name", (str,)),
                description=description if isinstance(description, str) else "",
                parameters=_field(part, "parameters", (dict,)),
            )
        )
    return tools


def _expected_calls(row: _Row) -> list[ExpectedCall]:
    calls = []
    for index, call in enumerate(_field(row, "ground_truth", (list,))):
        part = _part(row, f"ground_truth[{index}]", call)
        if len(part.values) != 1:
            found = ", ".join(map(repr, part.values)) or "none"
            raise DataError(f"{part.where} names the tools {found}; allowed is one, with an object of its arguments")
        (name,) = part.values
        options = _part(part, name, _field(part, name, (dict,)))
        for argument in options.values:
            _field(options, argument, (list,))
        calls.append(ExpectedCall(name, cast("dict[str, list[JsonValue]]", options.values)))
    return calls


def _part(row: _Row, name: str, value: Any) -> _Row:
    where = f"{row.where}: {name}"
    if not isinstance(value, dict):
        raise DataError(f"{where} is {_shown(value)}; allowed is an object")
    return _Row(where, value)


def _output(row: _Row, call_format: CallFormat) -> tuple[str, CallFormat]:
    """What the model gave as text, and the format to read it in."""
    result = _field(row, "result", (str, list, dict, type(None)))
    if isinstance(result, str):
        return result, call_format
    # What an API gave as objects goes the way of text, too: one reader, with its bounds.
    return json.dumps(result, ensure_ascii=False), "openai"


def _count_errors(scores: Scores) -> dict[str, int]:
    """BFCL's errors, the most frequent first."""
    counts = Counter(row.bfcl_error for row in scores.rows if row.bfcl_error is not None)
    return dict(counts.most_common())


def _listed(ids: Sequence[str]) -> str:
    return ", ".join(ids[:5]) + (f" and {len(ids) - 5} more" if len(ids) > 5 else "")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
