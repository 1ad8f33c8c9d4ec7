"""Counts of right answers in; intervals, paired tests, means over seeds and verdict counts out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean, stdev

from distill.records import VERDICTS, DataError, Verdict


@dataclass(frozen=True, slots=True)
class Interval:
    """A confidence interval of a rate, both ends between 0 and 1."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class SeedMean:
    """Mean of a rate over seeds and its sample standard deviation (n - 1), None for one seed."""

    mean: float
    standard_deviation: float | None


def wilson_interval(correct: float, n: int, *, confidence: float) -> Interval:
    """Wilson's score interval, without continuity correction, of `correct` successes in `n` trials.

    `correct` may be a fraction: a mean over seeds. `confidence` is two-sided, such as 0.95. Raises `DataError` for
    n = 0, which has no rate, and for counts that no experiment gives. Source: E. B. Wilson, JASA 22 (1927), 209-212.
    """
    if n <= 0:
        raise DataError(f"n = {n}: a rate needs at least one prompt; leave empty categories out")
    if not 0 <= correct <= n:
        raise DataError(f"{correct} correct of {n}: the number correct lies between 0 and n; count each prompt once")
    if not 0.0 < confidence < 1.0:
        raise DataError(f"confidence {confidence}: give a number between 0 and 1, such as 0.95")
    z_squared = NormalDist().inv_cdf(0.5 + confidence / 2) ** 2
    rate = correct / n
    center = (rate + z_squared / (2 * n)) / (1 + z_squared / n)
    half_width = math.sqrt(z_squared * (rate * (1 - rate) / n + z_squared / (4 * n * n))) / (1 + z_squared / n)
    # At 0/n and n/n the end is exact; rounding would leave it a hair inside or outside.
    low = 0.0 if correct == 0 else max(0.0, center - half_width)
    high = 1.0 if correct == n else min(1.0, center + half_width)
    return Interval(low=low, high=high)


def mcnemar_exact(only_a_correct: int, only_b_correct: int) -> float:
    """Two-sided p value of McNemar's exact test: do two models that answered the same prompts differ in accuracy?

    Only prompts that exactly one of them answered right count; under the null hypothesis each is a fair coin. No such
    prompt gives 1.0. Raises `DataError` for a negative count. Source: Q. McNemar, Psychometrika 12 (1947), 153-157,
    with the binomial distribution in place of chi squared.
    """
    if only_a_correct < 0 or only_b_correct < 0:
        raise DataError(f"{only_a_correct} and {only_b_correct} prompts: counts are not negative")
    fewer, total = min(only_a_correct, only_b_correct), only_a_correct + only_b_correct
    outcomes = sum(math.comb(total, k) for k in range(fewer + 1))
    return min(1.0, 2 * outcomes / (1 << total))  # integers, so exact however many prompts there are


def mean_over_seeds(rates: Sequence[float]) -> SeedMean:
    """Mean and spread of one rate per seed. Raises `DataError` for no rates."""
    if not rates:
        raise DataError("no seeds: a mean needs at least one rate")
    return SeedMean(mean=fmean(rates), standard_deviation=stdev(rates) if len(rates) > 1 else None)


def count_verdicts(verdicts: Iterable[Verdict]) -> dict[Verdict, int]:
    """How often each verdict occurs, those that never do included; the counts add up to the number of verdicts."""
    counts = dict.fromkeys(VERDICTS, 0)
    for verdict in verdicts:
        counts[verdict] += 1
    return counts
