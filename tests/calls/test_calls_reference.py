"""Our decoder and checker against BFCL's own, on gold calls, on thousands of seeded mutations, and on known odd cases."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from random import Random
from typing import Any

import pytest
from bfcl_reference import Record, Reference
from mutations import gold_calls, mutate_calls, mutate_gold, mutate_text, write_calls, write_json

from distill.calls.match import score_text
from distill.calls.parse import CallFormat, ParseError, parse_calls
from distill.calls.render import render_calls
from distill.records import ExpectedCall, Tool, ToolCall

# The reference lets CPython warn of what models write.
pytestmark = pytest.mark.filterwarnings("ignore::SyntaxWarning", "ignore::DeprecationWarning")

NO_OUTPUT_PASSES = {
    "live_simple_106-63-0",
    "live_simple_112-68-0",
    "live_multiple_862-181-3",
    "live_multiple_964-207-0",
}
OUR_BOUNDS = {"too_long", "too_deep", "number_too_large"}


def test_gold_calls_are_correct_in_every_category(bfcl_records: list[Record]) -> None:
    wrong = set()
    for record in bfcl_records:
        calls = [ToolCall(name, dict(arguments)) for name, arguments in gold_calls(record.functions, record.answer)]
        result = score_text(
            render_calls(calls), record.expected, tools=record.tools, category=record.category, finish_reason="stop"
        )
        if result.verdict != "correct":
            wrong.add(record.id)
    assert wrong == NO_OUTPUT_PASSES


def test_mutated_outputs_get_the_verdict_of_the_reference(bfcl_records: list[Record], reference: Reference) -> None:
    _compare(bfcl_records, reference, num_cases=5_000, seed=1)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", range(2, 12))
def test_many_mutated_outputs_get_the_verdict_of_the_reference(
    bfcl_records: list[Record], reference: Reference, seed: int
) -> None:
    _compare(bfcl_records, reference, num_cases=20_000, seed=seed)


@pytest.mark.parametrize("call_format", ["llama_json", "hermes"])
def test_mutated_json_is_decoded_as_the_handlers_of_the_reference_do(
    bfcl_records: list[Record], reference: Reference, call_format: CallFormat
) -> None:
    decode = reference.decode_llama_json if call_format == "llama_json" else reference.decode_hermes
    random = Random(call_format)
    num_decoded = 0
    for _ in range(2_000):
        record = random.choice(bfcl_records)
        calls = mutate_calls(gold_calls(record.functions, record.answer, random), record.functions, random)
        text = write_json(calls, call_format, random)
        if random.random() < 0.7:
            text = mutate_text(text, random)
        reference.evaluated.clear()
        wanted: Any
        try:
            wanted = decode(text)
        except Exception as error:
            wanted = error
        decoded: list[dict[str, Any]] | ParseError
        try:
            decoded = _as_bfcl(parse_calls(text, mode="bfcl", call_format=call_format))
        except ParseError as error:
            decoded = error
        if isinstance(decoded, list):
            assert not reference.evaluated
            assert repr(decoded) == repr(wanted), text
            num_decoded += bool(decoded)
        elif decoded.reason == "wrong_shape":
            assert isinstance(wanted, list), text
            assert not reference.is_call_list(wanted), text
        else:
            assert isinstance(wanted, Exception) or decoded.reason in OUR_BOUNDS, text
    assert 400 < num_decoded < 1_900


def _compare(records: Sequence[Record], reference: Reference, *, num_cases: int, seed: int) -> None:
    random = Random(seed)
    by_category: dict[str, list[Any]] = {}
    for record in records:
        by_category.setdefault(record.bfcl_category, []).append(record)
    results: Counter[str] = Counter()
    num_beyond_bounds = 0
    for _ in range(num_cases):
        record = random.choice(by_category[random.choice(list(by_category))])
        functions, answer = record.functions, record.answer
        if random.random() < 0.25:
            functions, answer = mutate_gold(functions, answer, random)
        calls = gold_calls(record.functions, record.answer, random)
        if random.random() < 0.7:
            calls = mutate_calls(calls, functions, random)
        text = write_calls(calls)
        if random.random() < 0.4:
            text = mutate_text(text, random)
        decoded: list[dict[str, Any]] | ParseError
        try:
            decoded = _as_bfcl(parse_calls(text, mode="bfcl"))
        except ParseError as error:
            if error.reason in OUR_BOUNDS:
                num_beyond_bounds += 1
                continue
            decoded = error
        reference.evaluated.clear()
        wanted = reference.score(text, functions, answer, record.bfcl_category)
        if reference.evaluated:
            assert isinstance(decoded, ParseError), text
            results["would evaluate"] += 1
            continue
        assert (
            repr(decoded) == repr(reference.decode(text))
            if wanted != "ast_decoder:decoder_failed"
            else isinstance(decoded, ParseError)
        ), text
        expected = tuple(ExpectedCall(name, options) for call in answer for name, options in call.items())
        tools = tuple(Tool(f["name"], f["description"], f["parameters"]) for f in functions)
        result = score_text(text, expected, tools=tools, category=record.category, finish_reason="stop")
        assert result.bfcl_error == wanted, (record.id, text, result, wanted)
        assert (result.verdict == "correct") == (wanted is None)
        results[wanted or "valid"] += 1
    # The mutations reach what they are for: right and wrong, undecodable and every kind of error, and the bounds hardly ever.
    assert num_beyond_bounds < num_cases / 50
    assert num_cases / 10 < results["valid"] < num_cases / 2
    assert num_cases / 20 < results["ast_decoder:decoder_failed"] < num_cases / 2
    assert len(results) >= 18, results


def _as_bfcl(calls: tuple[ToolCall, ...]) -> list[dict[str, Any]]:
    return [{call.name: call.arguments} for call in calls]
