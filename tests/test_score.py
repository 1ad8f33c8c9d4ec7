"""`distill score`: what it prints and writes, that it needs hardly anything installed, and that every bad line is named."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from distill.calls.match import BFCL_CATEGORIES
from distill.calls.parse import CALL_FORMATS
from distill.calls.render import render_calls
from distill.cli import app, call_cleanly
from distill.records import ToolCall

ROOT = Path(__file__).parents[1]
ENOUGH = {"pydantic", "pyyaml", "rich", "typer", "typing-extensions"}
"""All that `distill score` needs besides this package and what these need themselves."""


def question(number: int, category: str = "multiple") -> dict[str, Any]:
    film = {
        "type": "dict",
        "properties": {"title": {"type": "string"}, "seats": {"type": "integer"}},
        "required": ["title"],
    }
    walk = {"type": "dict", "properties": {"park": {"type": "string"}}, "required": ["park"]}
    tools = [
        {"name": "film.book", "parameters": film},
        {"name": "walk.plan", "description": "Plans.", "parameters": walk},
    ]
    return {"id": f"{category}_{number}", "question": [[{"role": "user", "content": "…"}]], "function": tools}


def answer(number: int, category: str = "multiple") -> dict[str, Any]:
    return {"id": f"{category}_{number}", "ground_truth": [{"film.book": {"title": ["Alien"], "seats": ["", number]}}]}


def call(number: int, **arguments: Any) -> str:
    return render_calls([ToolCall("film.book", {"title": "Alien", "seats": number, **arguments})])


Files = dict[str, list[Any]]


def good_files(category: str = "multiple") -> Files:
    """Six questions and outputs in another order, one of each kind that an output can be."""
    results = {
        0: call(0),
        1: call(2),
        2: [{"film.book": '{"title": "alien", "seats": 2}'}],
        3: {"content": None, "tool_calls": [{"function": {"name": "walk.plan", "arguments": '{"park": "a\\tb"}'}}]},
        4: None,
        5: "I cannot\u2028help.",
    }
    return {
        "questions": [question(number, category) for number in range(6)],
        "answers": [answer(number, category) for number in range(6)],
        "outputs": [{"id": f"{category}_{number}", "result": result} for number, result in reversed(results.items())],
    }


@pytest.fixture
def score(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Writes the files, a string in place of an object as it is, runs the command, returns exit code, stdout and stderr."""

    def run(
        files: Files, *arguments: str, category: str = "multiple", answers: str | None = None
    ) -> tuple[int, str, str]:
        for name, rows in files.items():
            lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
            (tmp_path / f"{name}.json").write_text("\n".join(lines), encoding="utf-8", errors="surrogatepass")
        paths = [str(tmp_path / f"{name}.json") for name in ("questions", "answers", "outputs")]
        paths[1] = answers or paths[1]
        command = ["score", *paths, "--category", category, *arguments]
        code = call_cleanly(lambda: app(command, standalone_mode=False))
        out, err = capsys.readouterr()
        return code, out, err.replace(str(tmp_path), "DIR")

    return run


VERDICTS = [
    ("multiple_0", "correct", None),
    ("multiple_1", "wrong_arguments", "value_error:others"),
    ("multiple_2", "correct", None),
    ("multiple_3", "wrong_tool", "simple_function_checker:wrong_func_name"),
    ("multiple_4", "malformed", "ast_decoder:decoder_failed"),
    ("multiple_5", "malformed", "ast_decoder:decoder_failed"),
]


def test_each_question_has_its_line_and_the_table_its_interval(score: Any) -> None:
    code, out, err = score(good_files())
    assert (code, err) == (0, "")
    rows, _, table = out.partition("\n\n")
    lines = [line.split("\t") for line in rows.split("\n")]
    assert [(line[0], line[1], None if line[2] == "-" else line[2]) for line in lines] == VERDICTS
    assert [len(line) for line in lines] == [4] * 6, "no tab and no line end of a model's gets through"
    assert all((line[3] == "-") == (line[1] == "correct") for line in lines)
    # Wilson's interval of 2 in 6, from its published form.
    assert table.splitlines()[:2] == [
        "category      n  correct  accuracy  95 % interval",
        "multiple      6        2    0.3333  0.0968 to 0.7000",
    ]
    assert "ast_decoder:decoder_failed                   2" in table


def test_with_json_the_rows_are_in_the_file(score: Any, tmp_path: Path) -> None:
    code, table, _ = score(good_files(), "--json", str(tmp_path / "new" / "scores.json"))
    assert code == 0 and "\t" not in table and table.startswith("category")
    written = json.loads((tmp_path / "new" / "scores.json").read_text())
    assert [(row["id"], row["verdict"], row["bfcl_error"]) for row in written["rows"]] == VERDICTS
    assert (written["n"], written["correct"], written["accuracy"]) == (6, 2, 2 / 6)
    assert written["interval"] == {"method": "wilson", "confidence": 0.95, "low": pytest.approx(0.0968, abs=1e-4), "high": pytest.approx(0.7, abs=1e-4)}  # fmt: skip
    assert sum(written["verdicts"].values()) == 6 and written["bfcl_errors"]["ast_decoder:decoder_failed"] == 2
    code, out, err = score(good_files(), "--json", "/dev/null/scores.json")
    assert (code, out) == (2, "") and "--json /dev/null/scores.json: cannot write there" in err


@pytest.mark.parametrize("call_format", CALL_FORMATS)
def test_outputs_in_every_format_and_files_as_one_list_are_read(call_format: str, score: Any) -> None:
    files = good_files()
    text = {"pythonic": call(0), "llama_json": '{"name": "film.book", "parameters": {"title": "alien"}}',
            "function_tag": '<function=film.book>{"title": "alien"}</function>',
            "hermes": '<tool_call>\n{"name": "film.book", "arguments": {"title": "alien"}}\n</tool_call>',
            "openai": '[{"function": {"name": "film.book", "arguments": "{\\"title\\": \\"alien\\"}"}}]'}[call_format]  # fmt: skip
    files["outputs"] = [json.dumps([{"id": row["id"], "result": text} for row in files["questions"]], indent=1)]
    files["questions"] = [json.dumps(files["questions"])]
    files["answers"] = ["\ufeff", *files["answers"], "", " "]
    if call_format == "pythonic":
        files["answers"][1]["ground_truth"][0]["film.book"]["seats"] = [0]
    code, out, _ = score(files, "--format", call_format)
    assert code == 0 and ("\n" + out).count("\tcorrect\t") == (1 if call_format == "pythonic" else 6)


@pytest.mark.parametrize(
    ("category", "num_correct", "error"),
    [
        ("irrelevance", 2, "irrelevance_error:decoder_success"),
        ("live_irrelevance", 2, "irrelevance_error:decoder_success"),
        ("live_relevance", 4, "relevance_error:decoder_failed"),
    ],
)
def test_without_answers_only_whether_something_was_called_counts(
    category: str, num_correct: int, error: str, score: Any
) -> None:
    files = good_files(category)
    for row in files["questions"]:
        row["function"] = []
    code, out, _ = score(files, category=category, answers="-")
    assert code == 0 and out.count("\tcorrect\t") == num_correct and out.count(f"\t{error}\t") == 6 - num_correct
    code, out, err = score(files, category=category)
    assert (code, out) == (2, "") and f"category {category} has no answers; give - in place of" in err


def test_all_single_turn_categories_are_known(score: Any) -> None:
    for category, (kind, language) in BFCL_CATEGORIES.items():
        if language == "python":
            answers = "-" if kind in ("irrelevance", "relevance") else None
            assert score(good_files(category), category=category, answers=answers)[0] == 0, category
    code, out, err = score(good_files(), category="simple")
    assert (code, out) == (
        2,
        "",
    ) and "--category simple: no single-turn category of BFCL; allowed: simple_python, " in err


def replaced(name: str, index: int, row: Any) -> Callable[[Files], None]:
    return lambda files: files[name].__setitem__(index, row)


def without(name: str, *indexes: int) -> Callable[[Files], None]:
    return lambda files: files.update({name: [row for index, row in enumerate(files[name]) if index not in indexes]})


def with_answer(ground_truth: Any) -> Callable[[Files], None]:
    return replaced("answers", 3, {"id": "multiple_3", "ground_truth": ground_truth})


def with_function(function: Any) -> Callable[[Files], None]:
    return replaced("questions", 3, {"id": "multiple_3", "function": function})


BAD: dict[str, tuple[Callable[[Files], None], str]] = {
    "not JSON": (replaced("outputs", 2, '{"id": '), "DIR/outputs.json:3: not valid JSON (Expecting value, column 8)"),
    "not JSON in a list": (
        lambda files: files.update(questions=['[{"id": "a"},\n\n{"id" 1}]']),
        "DIR/questions.json:3: not valid JSON (Expecting ':' delimiter, column 7)",
    ),
    "not an object": (replaced("outputs", 2, "[1]"), "DIR/outputs.json:3: found [1]; a row is a JSON object"),
    "not an object in a list": (
        lambda files: files.update(outputs=[json.dumps([{"id": "a", "result": ""}, 7])]),
        "DIR/outputs.json, item 2: found 7; a row is a JSON object",
    ),
    "not UTF-8": (
        lambda files: None,
        "DIR/outputs.json:2: not UTF-8 (invalid start byte); save the file as UTF-8",
    ),
    "a huge number": (replaced("outputs", 2, '{"id": ' + "9" * 5000 + "}"), "DIR/outputs.json:3: JSON that cannot be read (Exceeds"),
    "deep nesting": (replaced("outputs", 2, "[" * 100_000), "DIR/outputs.json:3: JSON that cannot be read (maximum"),
    "an empty file": (lambda files: files.update(outputs=[" "]), "DIR/outputs.json: no rows; expected one JSON object per line"),
    "no id": (replaced("questions", 1, {"function": []}), "DIR/questions.json:2: no 'id'; found the keys 'function'; 'id' is text"),
    "an id that is no text": (replaced("answers", 1, {"id": 7}), "DIR/answers.json:2: 'id' is 7; allowed is text"),
    "no result": (
        replaced("outputs", 1, {"id": "multiple_4", "text": "x"}),
        "DIR/outputs.json:2: no 'result'; found the keys 'id', 'text'; 'result' is text or a list or an object or null",
    ),
    "a result that is a number": (
        replaced("outputs", 1, {"id": "multiple_4", "result": 1.5}),
        "DIR/outputs.json:2: 'result' is 1.5; allowed is text or a list or an object or null",
    ),
    "an id twice": (
        replaced("outputs", 3, {"id": "multiple_5", "result": ""}),
        "DIR/outputs.json:4: the id 'multiple_5' stands twice, first at DIR/outputs.json:1; keep one of them",
    ),
    "outputs missing": (
        without("outputs", 1, 4),
        "DIR/outputs.json: no output for 2 of 6 questions: multiple_1, multiple_4; add them, or take these questions out of DIR/questions.json",
    ),
    "answers missing": (without("answers", 5), "DIR/answers.json: no answer for 1 of 6 questions: multiple_5; add them"),
    "outputs of no question": (
        lambda files: files["outputs"].append({"id": "multiple_9", "result": ""}),
        "DIR/outputs.json:7: 1 ids that are no question's: multiple_9; add the questions to DIR/questions.json, or take these out",
    ),
    "answers of no question": (
        without("questions", 0),
        "DIR/answers.json:1: 1 ids that are no question's: multiple_0; add the questions to",
    ),
    "questions of another category": (
        replaced("questions", 1, question(1, "live_parallel")),
        "DIR/questions.json:2: the id 'live_parallel_1' is of category live_parallel; give --category live_parallel",
    ),
    "no function": (
        replaced("questions", 3, {"id": "multiple_3"}),
        "DIR/questions.json:4: no 'function'; found the keys 'id'; 'function' is a list",
    ),
    "no functions": (with_function([]), "DIR/questions.json:4: 'function' is empty; calls cannot be checked without a tool"),
    "a function that is text": (with_function(["f"]), "DIR/questions.json:4: function[0] is 'f'; allowed is an object"),
    "a function without parameters": (
        with_function([{"name": "f"}]),
        "DIR/questions.json:4: function[0]: no 'parameters'; found the keys 'name'; 'parameters' is an object",
    ),
    "no ground truth": (replaced("answers", 3, {"id": "multiple_3"}), "DIR/answers.json:4: no 'ground_truth'; found the keys 'id'"),
    "an answer that is text": (with_answer(["f(a=1)"]), "DIR/answers.json:4: ground_truth[0] is 'f(a=1)'; allowed is an object"),
    "an answer of two tools": (
        with_answer([{"f": {}, "g": {}}]),
        "DIR/answers.json:4: ground_truth[0] names the tools 'f', 'g'; allowed is one, with an object of its arguments",
    ),
    "an answer without options": (
        with_answer([{"f": {"a": "x"}}]),
        "DIR/answers.json:4: ground_truth[0]: f: 'a' is 'x'; allowed is a list",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_is_named_with_file_and_line_and_nothing_is_scored(name: str, score: Any, tmp_path: Path) -> None:
    files = good_files()
    spoil, message = BAD[name]
    spoil(files)
    if name == "not UTF-8":
        (tmp_path / "outputs.json").write_bytes(b'{"id": "multiple_0", "result": ""}\n\xff')
        del files["outputs"]
    code, out, err = score(files, "--json", str(tmp_path / "scores.json"))
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {message}") and err.count("\n") == 1, err
    assert not (tmp_path / "scores.json").exists()


def test_a_file_that_is_not_there_and_a_format_that_is_none_are_refused(score: Any, tmp_path: Path) -> None:
    code, _, err = score(good_files(), answers=str(tmp_path / "none.json"))
    assert code == 2 and "DIR/none.json: cannot read this file (No such file or directory)" in err
    code, _, err = score(good_files(), answers="-")
    assert code == 2 and "category multiple is scored by its answers; give BFCL's file of possible answers" in err
    code, _, err = score(good_files(), "--format", "xml")
    assert code == 2 and f"--format xml: not a format of calls; allowed: {', '.join(CALL_FORMATS)}" in err


def test_a_small_install_is_enough(score: Any, tmp_path: Path) -> None:
    """The real command, in an interpreter that finds none of the packages that training needs."""
    assert score(good_files())[0] == 0
    declared = re.findall(
        r'^    "([a-z-]+)', (ROOT / "pyproject.toml").read_text().partition("[project.optional")[0], flags=re.MULTILINE
    )
    assert set(declared) > ENOUGH
    missing = [*(set(declared) - ENOUGH), "numpy", "tree_sitter"]
    code = f"import sys; sys.modules.update(dict.fromkeys({missing})); from distill.cli import main; main()"
    paths = [str(tmp_path / f"{name}.json") for name in ("questions", "answers", "outputs")]
    command = [sys.executable, "-c", code, "score", *paths, "--category", "multiple"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[8].startswith("multiple      6        2")
    done = subprocess.run([*command, "--format", "xml"], capture_output=True, text=True, check=False, cwd=ROOT)
    assert (done.returncode, done.stdout) == (2, "") and done.stderr.startswith("error: --format xml")


def test_a_reader_that_has_enough_ends_it_without_a_word(score: Any, tmp_path: Path) -> None:
    assert score(good_files())[0] == 0
    paths = [str(tmp_path / f"{name}.json") for name in ("questions", "answers", "outputs")]
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "distill.cli", "score", *paths, "--category", "multiple"]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, check=False, cwd=ROOT)
    os.close(writing)
    assert done.stderr == ""
