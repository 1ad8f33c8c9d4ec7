"""BFCL's files come out whole, each question with its own answer, and the entertainment half is always the same half."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.calls.match import has_answers, match
from distill.records import DataError, ExpectedCall, Message, Reject, Source, Tool, ToolCall
from distill.sources.bfcl import (
    CATEGORIES,
    BfclRecord,
    bfcl_category,
    is_entertainment,
    read_bfcl,
    split_entertainment,
)
from distill.sources.files import Line
from distill.sources.record import SourceRecord

DATA = Path(__file__).parents[3] / "shared" / "data" / "bfcl"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="BFCL's data is not beside the repository")

FIND: dict[str, Any] = {
    "name": "find_film",
    "description": "Find a film.",
    "parameters": {"type": "dict", "properties": {"title": {"type": "string"}}, "required": ["title"]},
}
QUESTION: dict[str, Any] = {
    "id": "simple_python_7",
    "question": [[{"role": "user", "content": "Find Heat."}]],
    "function": [FIND],
}
ANSWER: dict[str, Any] = {"id": "simple_python_7", "ground_truth": [{"find_film": {"title": ["Heat", "heat"]}}]}
EXPECTED = (ExpectedCall("find_film", {"title": ["Heat", "heat"]}),)


def lines_of(values: list[Any]) -> list[Line]:
    data = [value if isinstance(value, bytes) else json.dumps(value).encode() for value in values]
    return [Line(number, 0, line) for number, line in enumerate(data, start=1)]


def read(questions: list[Any], answers: list[Any] | None, category: str = "simple_python") -> list[BfclRecord | Reject]:
    found = None if answers is None else lines_of(answers)
    return list(read_bfcl(lines_of(questions), name="q", category=category, answers=found, answers_name="a"))


def numbered(index: int, value: dict[str, Any]) -> dict[str, Any]:
    return {**value, "id": f"simple_python_{index}"}


@pytest.fixture(scope="module")
def questions() -> list[BfclRecord]:
    """All questions of the 13 files."""
    found: list[BfclRecord] = []
    for path in sorted(DATA.glob("*.json")):
        category = bfcl_category(str(path))
        answers = (
            lines_of(path.with_name("possible_answer").joinpath(path.name).read_bytes().split(b"\n"))
            if has_answers(category)
            else None
        )
        for result in read_bfcl(
            lines_of(path.read_bytes().split(b"\n")),
            name=path.name,
            category=category,
            answers=answers,
            answers_name="a",
        ):
            assert isinstance(result, BfclRecord), result
            found.append(result)
    return found


@needs_data
def test_the_files_counts_are_those_of_the_datas_own_readme(questions: list[BfclRecord]) -> None:
    rows = re.findall(r"^\| (\w+) \| (\d+) \| \d+ \| \w+ \| (\d+|-) \|", (DATA / "README.md").read_text(), re.MULTILINE)
    assert {name for name, _, _ in rows} == set(CATEGORIES) and len(rows) == 13
    assert Counter(question.bfcl_category for question in questions) == {name: int(count) for name, count, _ in rows}
    for name, count, num_answers in rows:
        expected = [question.expected for question in questions if question.bfcl_category == name]
        if num_answers == "-":
            assert set(expected) == {None if name == "live_relevance" else ()}
        else:
            assert int(num_answers) == int(count) == sum(bool(calls) for calls in expected)


@needs_data
def test_nearly_every_answer_matches_its_own_question_and_tools(questions: list[BfclRecord]) -> None:
    wrong = Counter[str]()
    for question in questions:
        if question.expected and question.bfcl_category not in ("simple_java", "simple_javascript"):
            tools = question.record.tools
            assert tools is not None and {call.name for call in question.expected} <= {tool.name for tool in tools}
            calls = [
                ToolCall(
                    call.name,
                    {name: options[0] for name, options in call.options.items() if options and "" not in options},
                )
                for call in question.expected
            ]
            verdict = match(calls, question.expected, tools=tools, category=question.category).verdict
            wrong[question.bfcl_category] += verdict != "correct"
    # Answers that hold dicts keep lists of options inside them, so that a first option is no value; the checker's tests know those.
    assert sum(wrong.values()) < 0.03 * len(questions)


@needs_data
def test_the_entertainment_half_has_its_known_counts_and_ids(questions: list[BfclRecord]) -> None:
    chosen = [question for question in questions if is_entertainment(question)]
    assert Counter(question.bfcl_category for question in chosen) == {
        "simple_python": 58,
        "multiple": 23,
        "live_simple": 31,
        "live_multiple": 330,
    }
    assert (
        hashlib.sha256("\n".join(sorted(question.id for question in chosen)).encode())
        .hexdigest()
        .startswith("7a933a349c732544")
    )
    train, test = split_entertainment(questions)
    assert Counter(question.category for question in train) == {"simple": 45, "multiple": 177}
    assert Counter(question.category for question in test) == {"simple": 44, "multiple": 176}
    assert {question.id for question in train} | {question.id for question in test} == {
        question.id for question in chosen
    }
    assert split_entertainment(reversed(questions)) == (train, test)


@pytest.mark.parametrize(
    ("path", "category"),
    [
        ("x/BFCL_v4_live_multiple.json", "live_multiple"), ("BFCL_v3_simple.json", "simple_python"), ("BFCL_v3_java.json", "simple_java"),
        ("s3://bucket/BFCL_v4_irrelevance.json.gz", "irrelevance"), ("gorilla_openfunctions_v1_test_parallel.json", "parallel"),
    ],
)  # fmt: skip
def test_a_files_name_says_its_category(path: str, category: str) -> None:
    assert bfcl_category(path) == category


@pytest.mark.parametrize(
    "path", ["BFCL_v4_multi_turn_base.json", "BFCL_v4_memory.json", "live_simple.json", "questions.jsonl", ""]
)
def test_a_file_of_no_single_turn_category_is_named(path: str) -> None:
    with pytest.raises(DataError, match="single-turn category"):
        bfcl_category(path)


def test_a_question_is_read_with_its_answer_whatever_the_order() -> None:
    source = Source("q", 1, 0, "simple_python_7")
    record = SourceRecord(
        (Message("user", "Find Heat."),), (Tool("find_film", "Find a film.", FIND["parameters"]),), None, source
    )
    assert read([QUESTION], [ANSWER]) == [BfclRecord("simple_python_7", "simple_python", record, EXPECTED)]
    assert read([QUESTION], None) == [BfclRecord("simple_python_7", "simple_python", record, None)]
    found = read(
        [numbered(index, QUESTION) for index in range(5)], [numbered(index, ANSWER) for index in (3, 0, 4, 2, 1)]
    )
    assert [result.expected for result in found if isinstance(result, BfclRecord)] == [EXPECTED] * 5
    assert [
        result.category for result in read([QUESTION], None, "live_relevance") if isinstance(result, BfclRecord)
    ] == ["relevance"]


REJECTED: dict[str, list[tuple[list[Any], list[Any]]]] = {
    "invalid_json": [([b"{"], []), ([b"3"], []), ([], [b"nonsense"])],
    "bad_question": [([{}], []), ([{**QUESTION, "id": 3}], []), ([{**QUESTION, "question": []}], [ANSWER]), ([{**QUESTION, "question": "x"}], [ANSWER]),
                     ([{key: value for key, value in QUESTION.items() if key != "function"}], [ANSWER]),
                     ([{**QUESTION, "question": [[*QUESTION["question"][0], {"role": "assistant", "content": "x"}]]}], [ANSWER])],
    "multi_turn": [([{**QUESTION, "question": QUESTION["question"] * 2}], [ANSWER])],
    "no_answer": [([QUESTION], []), ([QUESTION], [numbered(8, ANSWER)])],
    "bad_bfcl_answer": [([], [{}]), ([], [{"id": "x"}]), ([], [{"id": "x", "ground_truth": [{"f": {}, "g": {}}]}]), ([], [{"id": "x", "ground_truth": [{"f": {"a": 1}}]}]),
                        ([], [{"id": "x", "ground_truth": [{"f": []}]}])],
    "answer_without_question": [([], [ANSWER]), ([QUESTION], [numbered(8, ANSWER), ANSWER]), ([QUESTION], [ANSWER, ANSWER]),
                                ([numbered(8, QUESTION)], [ANSWER, ANSWER, numbered(8, ANSWER)])],
    "bad_tool": [([{**QUESTION, "function": {}}], [ANSWER])],
    "no_text": [([{**QUESTION, "question": [[{"role": "user", "content": ""}]]}], [ANSWER])],
    "bad_role": [([{**QUESTION, "question": [[{"role": "bot", "content": "x"}]]}], [ANSWER])],
    "missing_messages": [([{**QUESTION, "question": [[]]}], [ANSWER])],
}  # fmt: skip


@pytest.mark.parametrize(
    ("reason", "files"), [(reason, files) for reason, cases in REJECTED.items() for files in cases]
)
def test_every_reason_is_earned(reason: str, files: tuple[list[Any], list[Any]]) -> None:
    rejects = [result for result in read(*files) if isinstance(result, Reject)]
    assert reason in [reject.reason for reject in rejects]
    assert all(reject.source is not None and reject.source.path in ("q", "a") for reject in rejects)


JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.integers() | st.sampled_from(["user", "assistant", "x", "\ud83d"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["role", "content", "name", "parameters", "f"]), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip
IDS = st.sampled_from(["a", "b", "c"]) | JSON
QUESTIONS = st.fixed_dictionaries(
    {"id": IDS, "question": st.just(QUESTION["question"]) | JSON, "function": st.just([FIND]) | JSON}
) | st.binary(max_size=5)
ANSWERS = st.fixed_dictionaries({"id": IDS, "ground_truth": st.just(ANSWER["ground_truth"]) | JSON}) | st.binary(
    max_size=5
)


@settings(max_examples=150, deadline=None)
@given(
    asked=st.lists(QUESTIONS, max_size=4),
    answers=st.none() | st.lists(ANSWERS, max_size=4),
    category=st.sampled_from(sorted(CATEGORIES)),
)
def test_no_line_raises_and_none_is_lost(asked: list[Any], answers: list[Any] | None, category: str) -> None:
    asked, answers = (
        [value for value in values if not isinstance(value, bytes) or value.strip()]
        for values in (asked, answers or [])
    )
    results = read(asked, answers, category)
    sources = [result.source if isinstance(result, Reject) else result.record.source for result in results]
    lines = Counter((source.path, source.line) for source in sources if source is not None)
    answered = sum(1 for result in results if isinstance(result, BfclRecord) and has_answers(category))
    assert [lines["q", number] for number in range(1, len(asked) + 1)] == [1] * len(asked)
    assert sum(count for (path, _), count in lines.items() if path == "a") + answered <= len(answers)
