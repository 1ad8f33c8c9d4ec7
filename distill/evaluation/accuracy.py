"""Predictions in; per test set the rate, interval, verdict counts and paired tests of each model and category out."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from distill.evaluation.statistics import count_verdicts, mcnemar_exact, mean_over_seeds, wilson_interval
from distill.records import CATEGORIES, Category, DataError, Prediction, Verdict

BASE, TEACHER = "base", "teacher"
MODELS = (BASE, "vanilla", "augmented", TEACHER)
PAIRS = ((BASE, "vanilla"), ("vanilla", "augmented"), ("augmented", TEACHER))

_SEEDED = re.compile(r"(?P<model>[a-z]+)-seed(?P<seed>\d+)")


@dataclass(frozen=True, slots=True)
class Rate:
    """How often a model was right in one category.

    `n` and `correct` are pooled over the seeds of a trained model: `n` is seeds times `num_prompts`. The interval is
    Wilson's for the pooled rate at n = `num_prompts`: the seeds answered the same prompts, so pooling them does not
    make more prompts, and an interval at the pooled n would be too narrow. It covers the choice of prompts only; what
    the seed of training changes is `standard_deviation` (between seeds, n - 1, None for a single seed). `seeds` is
    empty for a model that was not trained here.
    """

    n: int
    correct: int
    num_prompts: int
    low: float
    high: float
    seeds: tuple[int, ...]
    standard_deviation: float | None

    @property
    def rate(self) -> float:
        return self.correct / self.n


@dataclass(frozen=True, slots=True)
class Comparison:
    """McNemar's exact test of two models on the same prompts of one category; `p` is two-sided.

    Trained models are compared seed by seed and never pooled, because one prompt answered by two seeds is not two
    coins: the numbers are those of the first seed of each, and `p_by_seed` holds one p value per position in the lists
    of seeds.
    """

    n: int
    only_first_correct: int
    only_second_correct: int
    p: float
    p_by_seed: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class TestSetResult:
    """All numbers of one test set: model -> category -> number, and (first model, second model) -> category -> test."""

    test_set: str
    accuracy: dict[str, dict[Category, Rate]]
    verdicts: dict[str, dict[Category, dict[Verdict, int]]]
    paired: dict[tuple[str, str], dict[Category, Comparison]]


def split_model_name(name: str) -> tuple[str, int | None]:
    """`vanilla-seed0` is one seed of `vanilla`; `base` and `teacher` have none."""
    found = _SEEDED.fullmatch(name)
    return (name, None) if found is None else (found["model"], int(found["seed"]))


def seeded_model_name(model: str, seed: int) -> str:
    """Inverse of `split_model_name` for a trained model: its name in predictions and its folder under `train`."""
    return f"{model}-seed{seed}"


def results_by_test_set(predictions: Iterable[Prediction], *, confidence: float) -> dict[str, TestSetResult]:
    """Results of every test set, in the order in which they first occur.

    Raises `DataError` if two models did not answer the same prompts, or one of them a prompt twice: no two bars would
    compare.
    """
    by_test_set: dict[str, list[Prediction]] = defaultdict(list)
    for prediction in predictions:
        by_test_set[prediction.test_set].append(prediction)
    return {name: _test_set_result(name, rows, confidence) for name, rows in by_test_set.items()}


def best_student(result: TestSetResult) -> str | None:
    """The trained model that was right most often over all categories of a test set; None if none was trained."""
    trained = [model for model, rates in result.accuracy.items() if any(rate.seeds for rate in rates.values())]
    return max(trained, key=lambda model: _overall_rate(result.accuracy[model]), default=None)


def _overall_rate(rates: Mapping[Category, Rate]) -> float:
    return sum(rate.correct for rate in rates.values()) / sum(rate.n for rate in rates.values())


# seed (None if untrained) -> category -> prompt id -> prediction
_Seeds: TypeAlias = dict[int | None, dict[Category, dict[str, Prediction]]]


def _test_set_result(test_set: str, predictions: Sequence[Prediction], confidence: float) -> TestSetResult:
    table = _table(predictions)
    _check_same_prompts(test_set, table)
    categories = [category for category in CATEGORIES if any(row.category == category for row in predictions)]
    return TestSetResult(
        test_set=test_set,
        accuracy={
            model: {c: _rate(_answers(seeds, c), tuple(seeds), confidence) for c in categories}
            for model, seeds in table.items()
        },
        verdicts={
            model: {
                c: count_verdicts(row.verdict for rows in _answers(seeds, c) for row in rows.values())
                for c in categories
            }
            for model, seeds in table.items()
        },
        paired={
            (first, second): {c: _comparison(_answers(table[first], c), _answers(table[second], c)) for c in categories}
            for first, second in PAIRS
            if first in table and second in table
        },
    )


def _answers(seeds: _Seeds, category: Category) -> list[dict[str, Prediction]]:
    """Prompt id -> prediction in one category, for each seed."""
    return [by_category[category] for by_category in seeds.values()]


def _table(predictions: Sequence[Prediction]) -> dict[str, _Seeds]:
    """The predictions by model, models and seeds in the order of a report."""
    table: dict[str, _Seeds] = {}
    for row in predictions:
        model, seed = split_model_name(row.model)
        cell = table.setdefault(model, {}).setdefault(seed, {}).setdefault(row.category, {})
        if row.prompt_id in cell:
            raise DataError(f"{row.model} answered prompt {row.prompt_id} of {row.test_set} twice; redo evaluate")
        cell[row.prompt_id] = row
    order = {model: index for index, model in enumerate(MODELS)}
    return {
        model: dict(sorted(table[model].items(), key=lambda item: -1 if item[0] is None else item[0]))
        for model in sorted(table, key=lambda model: order.get(model, len(order)))
    }


def _check_same_prompts(test_set: str, table: Mapping[str, _Seeds]) -> None:
    first: tuple[str, set[tuple[Category, str]]] | None = None
    for model, seeds in table.items():
        for seed, categories in seeds.items():
            name = model if seed is None else seeded_model_name(model, seed)
            prompts = {(category, prompt_id) for category, rows in categories.items() for prompt_id in rows}
            if first is None:
                first = (name, prompts)
            elif prompts != first[1]:
                raise DataError(
                    f"test set {test_set}: {first[0]} answered {len(first[1])} prompts and {name} {len(prompts)} or "
                    "others; models are compared on the same prompts only, so redo evaluate"
                )


def _rate(rows_by_seed: Sequence[Mapping[str, Prediction]], seeds: tuple[int | None, ...], confidence: float) -> Rate:
    num_prompts = len(rows_by_seed[0])
    correct = [sum(row.verdict == "correct" for row in rows.values()) for rows in rows_by_seed]
    interval = wilson_interval(sum(correct) / len(correct), num_prompts, confidence=confidence)
    return Rate(
        n=num_prompts * len(correct),
        correct=sum(correct),
        num_prompts=num_prompts,
        low=interval.low,
        high=interval.high,
        seeds=tuple(seed for seed in seeds if seed is not None),
        standard_deviation=mean_over_seeds([count / num_prompts for count in correct]).standard_deviation,
    )


def _comparison(first: list[dict[str, Prediction]], second: list[dict[str, Prediction]]) -> Comparison:
    # A model without seeds meets every seed of the other.
    longest = max(len(first), len(second))
    first = first * longest if len(first) == 1 else first
    second = second * longest if len(second) == 1 else second
    discordant = [_discordant(a, b) for a, b in zip(first, second, strict=False)]
    return Comparison(
        n=len(first[0]),
        only_first_correct=discordant[0][0],
        only_second_correct=discordant[0][1],
        p=mcnemar_exact(*discordant[0]),
        p_by_seed=tuple(mcnemar_exact(*counts) for counts in discordant),
    )


def _discordant(first: Mapping[str, Prediction], second: Mapping[str, Prediction]) -> tuple[int, int]:
    right = [(row.verdict == "correct", second[prompt_id].verdict == "correct") for prompt_id, row in first.items()]
    return right.count((True, False)), right.count((False, True))
