"""`score_files` against the leaderboard's own runner, file by file: text, lists as APIs give them, nothing at all; all categories."""

from __future__ import annotations

import importlib
import json
import sys
import types
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import java_javascript_outputs as other
import pytest
from bfcl_reference import DATA, Reference
from mutations import Call, gold_calls, mutate_calls, mutate_text, write_calls

from distill.calls.match import BFCL_CATEGORIES, Language
from distill.scoring import score_files, scores_json

# The reference lets CPython warn of what models write.
pytestmark = pytest.mark.filterwarnings("ignore::SyntaxWarning", "ignore::DeprecationWarning")

OUR_BOUNDS = ("too_long", "too_deep", "number_too_large")


@dataclass(frozen=True)
class Leaderboard:
    """BFCL's `eval_runner`, and how it decodes text and what an API gave."""

    runner: Any
    decode_text: Callable[[Language, str], Any]
    decode_api: Callable[[Any], Any]


@pytest.fixture(scope="module")
def leaderboard(reference: Reference) -> Leaderboard:
    """The installed one, without what it needs for multi-turn categories, tables and asking models."""
    contents: dict[str, dict[str, Any]] = {
        "bfcl_eval.constants.model_config": {"MODEL_CONFIG_MAPPING": {}},
        "bfcl_eval.eval_checker.eval_runner_helper": {},
        "bfcl_eval.eval_checker.agentic_eval.agentic_checker": {"agentic_checker": None},
        "bfcl_eval.eval_checker.multi_turn_eval.multi_turn_checker": {
            "multi_turn_checker": None,
            "multi_turn_irrelevance_checker": None,
        },
        "bfcl_eval.eval_checker.multi_turn_eval.multi_turn_utils": {"is_empty_execute_response": None},
        "bfcl_eval.model_handler.base_handler": {"BaseHandler": object},
        "dotenv": {"load_dotenv": None},
        "openai": {"OpenAI": None, "RateLimitError": Exception},
        "tqdm": {"tqdm": None},
    }
    utils: Any = importlib.import_module("bfcl_eval.model_handler.utils")
    with pytest.MonkeyPatch.context() as patch:
        for name, values in contents.items():
            module = types.ModuleType(name)
            module.__dict__.update(values)
            patch.setitem(sys.modules, name, module)
        patch.setattr(utils, "retry_with_backoff", lambda **kwargs: lambda method: method)
        runner = importlib.import_module("bfcl_eval.eval_checker.eval_runner")
        handlers: Any = importlib.import_module("bfcl_eval.model_handler.api_inference.openai_completion")
    model = types.SimpleNamespace(is_fc_model=True)
    return Leaderboard(
        runner=runner,
        decode_text=reference.decode_in,
        decode_api=lambda result: handlers.OpenAICompletionsHandler.decode_ast(model, result, None, False),
    )


@pytest.mark.parametrize("category", BFCL_CATEGORIES)
def test_every_row_of_a_category_gets_the_verdict_of_the_leaderboard(
    category: str, reference: Reference, leaderboard: Leaderboard, tmp_path: Path
) -> None:
    questions = DATA / f"BFCL_v4_{category}.json"
    if not questions.is_file():
        pytest.skip("no BFCL data beside the repository")
    language = BFCL_CATEGORIES[category][1]
    if language != "python":
        pytest.importorskip("tree_sitter", reason="the extra java-js is not installed")
    has_answers = "relevance" not in category
    answers = DATA / "possible_answer" / questions.name if has_answers else None
    asked = _read(questions)
    known = {row["id"]: row["ground_truth"] for row in _read(answers)} if answers else {}
    for call_format, number in (("pythonic", 0), ("pythonic", 1), ("openai", 2)):
        random = Random(f"{category} {number}")
        rows = []
        wanted: dict[str, str | None] = {}
        for question in asked:
            answer = known.get(question["id"]) or [{function["name"]: {}} for function in question["function"][:1]]
            calls = _calls(question["function"], answer, language, random)
            if call_format == "pythonic":
                result, decode = _text_result(calls, language, leaderboard, random)
            else:
                result, decode = _api_result(calls, leaderboard, random)
            rows.append({"id": question["id"], "result": result, "latency": 0.5})
            reference.evaluated.clear()
            wanted[question["id"]] = _reference_error(
                leaderboard.runner, decode, result, question, answer, category, language
            )
            if reference.evaluated:  # it would have run the text; see `test_calls_reference.py`
                del wanted[question["id"]]
        random.shuffle(rows)
        outputs = tmp_path / f"BFCL_v4_{category}_result.json"
        outputs.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
        scores = score_files(questions, answers, outputs, category=category, call_format=call_format)
        assert [row.id for row in scores.rows] == [question["id"] for question in asked]
        for row in scores.rows:
            if row.id in wanted and not row.explanation.startswith(OUR_BOUNDS):
                assert row.bfcl_error == wanted[row.id], (row, next(r for r in rows if r["id"] == row.id))
                assert (row.verdict == "correct") == (wanted[row.id] is None)
        summary = scores_json(scores)
        assert summary["correct"] == sum(row.verdict == "correct" for row in scores.rows)
        assert summary["bfcl_errors"] == Counter(row.bfcl_error for row in scores.rows if row.bfcl_error)
        assert 0 < scores.num_correct < len(scores.rows) or len(scores.rows) < 30


def _read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _calls(functions: list[dict[str, Any]], answer: Any, language: Language, random: Random) -> list[Call]:
    """What a model might call, as often right as wrong; with Java and JavaScript, arguments as source text."""
    wrong = random.random() < 0.5
    if not functions:
        return [("f", [])]
    if language == "python":
        calls = gold_calls(functions, answer, random)
        return mutate_calls(calls, functions, random) if wrong else calls
    ((name, options),) = answer[0].items()
    arguments = other.gold_arguments(functions[0], options, language, random)
    return [(name, other.mutate_arguments(arguments, functions[0], language, random) if wrong else arguments)]


def _text_result(
    calls: list[Call], language: Language, leaderboard: Leaderboard, random: Random
) -> tuple[Any, Callable[[Any], Any]]:
    """What a model writes, and the reference's way of decoding it."""
    text = write_calls(calls) if language == "python" else other.write_call(*calls[0])
    if random.random() < 0.1:
        text = "I cannot help with that."
    elif random.random() < 0.3:
        text = mutate_text(text, random) if language == "python" else other.mutate_text(text, random)
    return text, partial(leaderboard.decode_text, language)


def _api_result(calls: list[Call], leaderboard: Leaderboard, random: Random) -> tuple[Any, Callable[[Any], Any]]:
    """What is kept of an API's reply, and the reference's way of decoding it."""
    # Through JSON and back, as APIs do: what JSON has no word for becomes text.
    plain = [(name, json.loads(json.dumps(dict(arguments), default=repr))) for name, arguments in calls]
    kind = random.randrange(8)
    if kind == 0:
        nothing: Any = random.choice((None, "", [], "I cannot help with that.", ["f"], [{}]))
        return nothing, leaderboard.decode_api
    if kind == 1:  # as Gemini's handler keeps calls, which it takes for decoded
        return [{name: arguments} for name, arguments in plain], lambda result: result
    texts = [json.dumps(arguments) for _, arguments in plain]
    if kind == 2:
        texts = [mutate_text(text, random) for text in texts]
    kept = [{name: text} for (name, _), text in zip(plain, texts, strict=True)]
    if kind > 4:
        return kept, leaderboard.decode_api
    objects = [
        {"id": f"c{index}", "type": "function", "function": {"name": name, "arguments": text}}
        for index, ((name, _), text) in enumerate(zip(plain, texts, strict=True))
    ]
    result = objects if kind == 3 else {"role": "assistant", "content": None, "tool_calls": objects}
    return result, lambda result: leaderboard.decode_api(kept)


def _reference_error(
    runner: Any,
    decode: Callable[[Any], Any],
    result: Any,
    question: dict[str, Any],
    answer: Any,
    category: str,
    language: Language,
) -> str | None:
    """None where the leaderboard says valid, else its error; what it lets abort the whole run is `checker:exception`."""
    handler = types.SimpleNamespace(decode_ast=lambda result, *args, **kwargs: decode(result))
    try:
        if "relevance" in category:
            found = runner._evaluate_single_relevance_entry(
                handler, question["id"], result, question, "model", category
            )
        else:
            found = runner._evaluate_single_ast_entry(
                handler, question["id"], result, answer, question, "model", category,
                runner.Language(language), runner.ReturnFormat(language),
            )  # fmt: skip
    except Exception:
        return "checker:exception"
    return None if found["valid"] else str(found["error_type"])
