"""A BFCL question file and its possible answers in; prompts with structured tools and their expected calls, by category, out.

The files are JSON Lines although they are called `.json`. Question and answer belong together by their id, in whatever order they stand.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from distill.calls.match import BFCL_CATEGORIES
from distill.records import Category, DataError, ExpectedCall, Message, Reject, Source, Tool
from distill.sources.chat_jsonl import read_turns
from distill.sources.files import Line
from distill.sources.json_line import read_object
from distill.sources.problem import RecordProblem, rejected
from distill.sources.record import SourceRecord
from distill.sources.tools import read_tools

CATEGORIES: dict[str, Category] = {name: category for name, (category, _) in BFCL_CATEGORIES.items()}
"""BFCL's single-turn categories and what we call them."""

_OLD_NAMES = {"simple": "simple_python", "java": "simple_java", "javascript": "simple_javascript"}


@dataclass(frozen=True, slots=True)
class BfclRecord:
    """One question. `expected` is None when nobody knows the calls (relevance, or no answers were given), empty for irrelevance."""

    id: str
    bfcl_category: str
    record: SourceRecord
    expected: tuple[ExpectedCall, ...] | None

    @property
    def category(self) -> Category:
        return CATEGORIES[self.bfcl_category]


def bfcl_category(path: str) -> str:
    """BFCL's category of a file by its name, such as `BFCL_v4_live_simple.json`. Raises `DataError` for another name.

    Before its fourth version BFCL called `simple_python` `simple`, and the two other languages `java` and `javascript`.
    """
    found = re.fullmatch(
        r"(?:BFCL|gorilla_openfunctions)_v\d+_(?:test_)?(\w+)\.json(?:\.gz)?", PurePosixPath(path).name
    )
    name = found.group(1) if found else ""
    name = _OLD_NAMES.get(name, name)
    if name not in CATEGORIES:
        raise DataError(
            f"{path}: no file of a single-turn category of BFCL; expected BFCL_v4_NAME.json, NAME one of {', '.join(CATEGORIES)}"
        )
    return name


def read_bfcl(
    questions: Iterable[Line], *, name: str, category: str, answers: Iterable[Line] | None, answers_name: str = ""
) -> Iterator[BfclRecord | Reject]:
    """One result per question, in order, and a reject for each answer that is broken or answers no question. Raises nothing.

    `category` is BFCL's. With `answers` None no calls are expected. Answers are read as far as the question at hand needs, so files in the
    same order take no memory. Reasons: `bad_question`, `multi_turn`, `no_answer`, `bad_bfcl_answer`, `answer_without_question`, and those
    of lines, messages and tools (`distill.sources.chat_jsonl`).
    """
    book = _Answers(iter(answers if answers is not None else ()), answers_name, {}, [])
    for line in questions:
        if not line.data.strip():
            continue
        source = Source(path=name, line=line.number, offset=line.offset)
        try:
            value = read_object(line)
            question_id = _id(value, "bad_question")
            expected = _expected(question_id, category, book if answers is not None else None)
            source = Source(path=name, line=line.number, offset=line.offset, request_id=question_id)
            yield BfclRecord(question_id, category, _record(value, source), expected)
        except RecordProblem as problem:
            yield rejected(problem, source)
        yield from book.take_rejects()
    yield from book.rest()


def read_answer(value: Any) -> tuple[ExpectedCall, ...]:
    """`[{name: {parameter: [acceptable values]}}]` as expected calls. Raises `RecordProblem`."""
    calls: list[ExpectedCall] = []
    for call in value if isinstance(value, list) else [None]:
        if not isinstance(call, dict) or len(call) != 1:
            raise RecordProblem("bad_bfcl_answer", "ground_truth must be a list of {name: {parameter: [values]}}")
        ((name, options),) = call.items()
        if not isinstance(options, dict) or not all(isinstance(values, list) for values in options.values()):
            raise RecordProblem("bad_bfcl_answer", f"the answer for {name!a} must give each parameter a list of values")
        calls.append(ExpectedCall(name=name, options=options))
    return tuple(calls)


ENTERTAINMENT_CATEGORIES = ("simple_python", "multiple", "live_simple", "live_multiple")
_FAMILIES = re.compile(r"(?:Movies|Music|Media|Events)_\d+_")
_KEYWORDS = re.compile(
    r"\b(?:movies?|films?|imdb|cinema|theat(?:er|re)s?|tv|television|songs?|music|musical|lyrics?|melody|concerts?|"
    r"albums?|playlists?|spotify|youtube|netflix|podcasts?|festivals?|celebrity|games?|gamespot|videogames?|"
    r"boardgames?|chess|poker|blackjack|monopoly|instruments?|guitars?|pianos?|flutes?|chords?|artists?)\b"
)
_NO_ENTERTAINMENT = frozenset({"HNA_WQA.search"})


def is_entertainment(question: BfclRecord) -> bool:
    """Whether the answer's tool is about entertainment: its family of names, or a word in its name or description.

    BFCL has no domains; this stands in for the filter that AWS used and did not publish. Only simple and multiple in Python count.
    """
    if question.bfcl_category not in ENTERTAINMENT_CATEGORIES or not question.expected or not question.record.tools:
        return False
    wanted = question.expected[0].name
    return any(
        is_entertainment_tool(tool.name, tool.description) for tool in question.record.tools if tool.name == wanted
    )


def is_entertainment_tool(name: str, description: str) -> bool:
    """The rule of `is_entertainment` for one tool."""
    if name in _NO_ENTERTAINMENT:
        return False
    return bool(_FAMILIES.match(name) or _KEYWORDS.search(f"{_words(name)} . {description.lower()}"))


def split_entertainment(questions: Iterable[BfclRecord]) -> tuple[list[BfclRecord], list[BfclRecord]]:
    """Training and test half of the entertainment questions, stratified by category, ordered by a hash of the id: always the same."""
    chosen = sorted(filter(is_entertainment, questions), key=lambda question: _order(question.id))
    train: list[BfclRecord] = []
    test: list[BfclRecord] = []
    for category in ("simple", "multiple"):
        stratum = [question for question in chosen if question.category == category]
        half = (len(stratum) + 1) // 2
        train += stratum[:half]
        test += stratum[half:]
    return train, test


def _order(question_id: str) -> str:
    return hashlib.sha256(f"bfcl-ent-v1:{question_id}".encode("utf-8", "surrogatepass")).hexdigest()


def _words(name: str) -> str:
    name = re.sub(r"([a-z0-9])([A-Z])", r"\1 \2", name)
    name = re.sub(r"([A-Z]+)([A-Z][a-z])", r"\1 \2", name)
    return re.sub(r"[^A-Za-z]+", " ", name).lower()


@dataclass(slots=True)
class _Answers:
    """The answers' lines read so far: those that wait for their question, and rejects that were not handed out yet."""

    lines: Iterator[Line]
    name: str
    waiting: dict[str, tuple[tuple[ExpectedCall, ...], Source]]
    rejects: list[Reject]

    def find(self, question_id: str) -> tuple[ExpectedCall, ...] | None:
        while question_id not in self.waiting:
            line = next(self.lines, None)
            if line is None:
                return None
            self._read(line)
        return self.waiting.pop(question_id)[0]

    def take_rejects(self) -> list[Reject]:
        taken, self.rejects = self.rejects, []
        return taken

    def rest(self) -> Iterator[Reject]:
        for line in self.lines:
            self._read(line)
            yield from self.take_rejects()
        for answer_id, (_, source) in self.waiting.items():
            yield rejected(_orphan(answer_id), source)

    def _read(self, line: Line) -> None:
        if not line.data.strip():
            return
        source = Source(path=self.name, line=line.number, offset=line.offset)
        try:
            value = read_object(line)
            answer_id, calls = _id(value, "bad_bfcl_answer"), read_answer(value.get("ground_truth"))
            if answer_id in self.waiting:
                raise _orphan(answer_id)
            self.waiting[answer_id] = calls, source
        except RecordProblem as problem:
            self.rejects.append(rejected(problem, source))


def _orphan(answer_id: str) -> RecordProblem:
    return RecordProblem("answer_without_question", f"no question, or none without an answer, has the id {answer_id!a}")


def _expected(question_id: str, category: str, book: _Answers | None) -> tuple[ExpectedCall, ...] | None:
    kind = CATEGORIES[category]
    if kind == "irrelevance":
        return ()
    if kind == "relevance" or book is None:
        return None
    expected = book.find(question_id)
    if expected is None:
        raise RecordProblem("no_answer", f"no answer has the id {question_id!a}")
    return expected


def _record(value: dict[str, Any], source: Source) -> SourceRecord:
    turns = value.get("question")
    if not isinstance(turns, list) or not turns:
        raise RecordProblem("bad_question", "question must be a list of turns, each a list of messages")
    if len(turns) > 1:
        raise RecordProblem("multi_turn", f"{len(turns)} turns; only BFCL's single-turn categories are read")
    # The live categories were written by users: several of theirs in a row stand as they are.
    messages = tuple(Message(turn.role, turn.text) for turn in read_turns(turns[0]))
    if messages[-1].role != "user":
        raise RecordProblem("bad_question", f"the last message is the {messages[-1].role}'s, expected the user's")
    return SourceRecord(messages=messages, tools=_tools(value), reply=None, source=source)


def _tools(value: dict[str, Any]) -> tuple[Tool, ...]:
    if "function" not in value:
        raise RecordProblem("bad_question", "no function; a question brings its list of tools")
    return read_tools(value["function"])


def _id(value: dict[str, Any], reason: str) -> str:
    found = value.get("id")
    if not isinstance(found, str) or not found:
        raise RecordProblem(reason, "the id is missing or no text")
    return found
