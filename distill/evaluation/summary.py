"""Everything a report says as one record, and its JSON; `page` and `markdown` write the same numbers for people."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from distill.evaluation.accuracy import Comparison, Rate, TestSetResult, best_student, seeded_model_name
from distill.evaluation.plots import Curve
from distill.records import Category, ExpectedCall, JsonObject, JsonValue, Message, Prediction, Prompt, Verdict


@dataclass(frozen=True, slots=True)
class FunnelStage:
    """Rows a stage passed on and rows it dropped, by reason; `rows` is None for a stage that writes weights.

    `counts` is the rest of the stage's own tally.
    """

    stage: str
    rows: int | None
    rejects: int
    reasons: dict[str, int]
    counts: dict[str, int | float]


@dataclass(frozen=True, slots=True)
class WrongAnswer:
    """One test prompt that a model got wrong, with what was expected and what it wrote, verbatim."""

    model: str
    prompt_id: str
    category: Category
    verdict: Verdict
    messages: tuple[Message, ...]
    expected: str
    predicted: str
    explanation: str

    @property
    def request(self) -> str:
        """The last thing the user said."""
        return next((message.content for message in reversed(self.messages) if message.role == "user"), "")


@dataclass(frozen=True, slots=True)
class Report:
    """What stands in a report. `results` begins with the headline test set; `hashes` are of the stages' outputs.

    `prompts` is the `report.json` of stage `prompts`, None for a run without one.
    """

    title: str
    student: str
    teacher: str
    confidence: float
    results: tuple[TestSetResult, ...]
    funnel: tuple[FunnelStage, ...]
    prompts: JsonObject | None
    curves: tuple[Curve, ...]
    wrong_answers: tuple[WrongAnswer, ...]
    config: JsonObject
    versions: JsonObject
    hashes: dict[str, JsonObject]

    @property
    def headline(self) -> TestSetResult:
        return self.results[0]

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds of training behind the headline, in rising order."""
        rates = (rate for by_category in self.headline.accuracy.values() for rate in by_category.values())
        return tuple(sorted({seed for rate in rates for seed in rate.seeds}))


def report_json(report: Report) -> JsonObject:
    """`report.json`: `accuracy`, `paired`, `verdicts` of the headline test set, `accuracy_NAME` ... of the others."""
    numbers: JsonObject = {}
    for result in report.results:
        suffix = "" if result is report.headline else f"_{result.test_set}"
        numbers[f"accuracy{suffix}"] = {
            model: {category: _rate_json(rate) for category, rate in rates.items()}
            for model, rates in result.accuracy.items()
        }
        numbers[f"paired{suffix}"] = {
            f"{first}-{second}": {category: _comparison_json(found) for category, found in comparisons.items()}
            for (first, second), comparisons in result.paired.items()
        }
        numbers[f"verdicts{suffix}"] = {
            model: {category: dict(counts.items()) for category, counts in by_category.items()}
            for model, by_category in result.verdicts.items()
        }
    return {
        "title": report.title,
        "student": report.student,
        "teacher": report.teacher,
        "headline_test_set": report.headline.test_set,
        "test_sets": [result.test_set for result in report.results],
        "seeds": list(report.seeds),
        "interval": {"method": "wilson", "confidence": report.confidence},
        **numbers,
        "latency": None,  # seconds per prompt and tokens per second, once they are measured rather than by-products
        "funnel": {stage.stage: _funnel_json(stage) for stage in report.funnel},
        "prompts": report.prompts,
        "training": {curve.name: _curve_json(curve) for curve in report.curves},
        "wrong_answers": [_wrong_answer_json(wrong) for wrong in report.wrong_answers],
        "config": report.config,
        "versions": report.versions,
        "hashes": dict(report.hashes),
    }


def choose_wrong_answers(
    result: TestSetResult, predictions: Iterable[Prediction], prompts: Mapping[str, Prompt], *, number: int
) -> tuple[WrongAnswer, ...]:
    """Up to `number` wrong answers of the best student (its first seed) on one test set.

    Taken in turn from each kind (category and verdict), so that rare mistakes show; they say what goes wrong, not how
    often.
    """
    student = best_student(result)
    if student is None:
        return ()
    first_seed = next(iter(result.accuracy[student].values())).seeds[0]
    name = seeded_model_name(student, first_seed)
    kinds: dict[tuple[Category, Verdict], list[Prediction]] = {}
    for row in predictions:
        if row.model == name and row.test_set == result.test_set and row.verdict != "correct":
            kinds.setdefault((row.category, row.verdict), []).append(row)
    in_turn = (row for turn in zip_longest(*kinds.values()) for row in turn if row is not None)
    return tuple(_wrong_answer(row, prompts[row.prompt_id]) for row, _ in zip(in_turn, range(number), strict=False))


def expected_text(calls: Sequence[ExpectedCall]) -> str:
    """Gold calls for people: acceptable values joined by `or`, `omitted` where the argument may be left out."""
    if not calls:
        return "no call"
    return "\n".join(
        f"{call.name}({', '.join(f'{name}={_options_text(options)}' for name, options in call.options.items())})"
        for call in calls
    )


def place_text(example: Mapping[str, JsonValue]) -> str:
    """Where a rejected record stands, for people: file and line, its first byte, and the request's id where a log has one."""
    if "path" not in example:
        return ""
    offset, request_id = example["offset"], example["request_id"]
    byte = "" if offset is None else f", byte {offset}"
    request = "" if request_id is None else f", request {request_id}"
    return f"{example['path']}:{example['line']}{byte}{request}"


def _options_text(options: Sequence[JsonValue]) -> str:
    return " or ".join("omitted" if value == "" else json.dumps(value, ensure_ascii=False) for value in options)


def _wrong_answer(row: Prediction, prompt: Prompt) -> WrongAnswer:
    return WrongAnswer(
        model=row.model,
        prompt_id=row.prompt_id,
        category=row.category,
        verdict=row.verdict,
        messages=prompt.messages,
        expected=expected_text(prompt.expected_calls or ()),
        predicted=row.completion.text,
        explanation=row.explanation,
    )


def _rate_json(rate: Rate) -> JsonObject:
    value: JsonObject = {"n": rate.n, "correct": rate.correct, "low": rate.low, "high": rate.high}
    if len(rate.seeds) > 1:
        value |= {"mean": rate.rate, "sd": rate.standard_deviation, "seeds": list(rate.seeds)}
        value["num_prompts"] = rate.num_prompts
    return value


def _comparison_json(found: Comparison) -> JsonObject:
    value: JsonObject = {
        "n": found.n,
        "only_first_correct": found.only_first_correct,
        "only_second_correct": found.only_second_correct,
        "p": found.p,
    }
    return value if len(found.p_by_seed) == 1 else {**value, "p_by_seed": list(found.p_by_seed)}


def _funnel_json(stage: FunnelStage) -> JsonObject:
    return {"rows": stage.rows, "rejects": stage.rejects, "reasons": dict(stage.reasons), "counts": dict(stage.counts)}


def _curve_json(curve: Curve) -> JsonObject:
    points = {"loss": curve.loss, "validation_loss": curve.validation_loss}
    return {name: [[step, loss] for step, loss in found] for name, found in points.items()}


def _wrong_answer_json(wrong: WrongAnswer) -> JsonObject:
    return {
        "model": wrong.model,
        "prompt_id": wrong.prompt_id,
        "category": wrong.category,
        "verdict": wrong.verdict,
        "request": wrong.request,
        "expected": wrong.expected,
        "predicted": wrong.predicted,
        "explanation": wrong.explanation,
    }
