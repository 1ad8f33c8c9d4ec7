"""Intervals and paired tests against independent implementations, and where they have no answer."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from distill.evaluation.statistics import count_verdicts, mcnemar_exact, mean_over_seeds, wilson_interval
from distill.records import VERDICTS, DataError

TRIALS = st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@settings(max_examples=60, deadline=None)
@given(TRIALS, st.sampled_from([0.8, 0.9, 0.95, 0.99]))
def test_wilson_agrees_with_scipy(trials: tuple[int, int], confidence: float) -> None:
    correct, n = trials
    reference = binomtest(correct, n).proportion_ci(confidence_level=confidence, method="wilson")
    interval = wilson_interval(correct, n, confidence=confidence)
    assert (interval.low, interval.high) == pytest.approx((reference.low, reference.high), abs=1e-12)


@pytest.mark.parametrize("n", [1, 7, 500])
def test_wilson_at_the_ends_is_exact_there_and_open_on_the_other_side(n: int) -> None:
    none, every = wilson_interval(0, n, confidence=0.95), wilson_interval(n, n, confidence=0.95)
    assert none.low == 0.0 and 0.0 < none.high < 1.0
    assert every.high == 1.0 and every.low == pytest.approx(1.0 - none.high)


def test_wilson_takes_a_mean_over_seeds() -> None:
    lower, middle, upper = (wilson_interval(c, 40, confidence=0.95) for c in (20, 20.5, 21))
    assert lower.low < middle.low < upper.low and lower.high < middle.high < upper.high


@pytest.mark.parametrize(("correct", "n", "confidence"), [(0, 0, 0.95), (-1, 5, 0.95), (6, 5, 0.95), (1, 5, 1.0)])
def test_wilson_refuses_what_has_no_interval(correct: int, n: int, confidence: float) -> None:
    with pytest.raises(DataError):
        wilson_interval(correct, n, confidence=confidence)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 300), st.integers(0, 300))
def test_mcnemar_agrees_with_the_sign_test(only_a: int, only_b: int) -> None:
    total = only_a + only_b
    reference = binomtest(only_a, total, 0.5).pvalue if total else 1.0
    assert mcnemar_exact(only_a, only_b) == pytest.approx(reference, rel=1e-9)
    assert mcnemar_exact(only_a, only_b) == mcnemar_exact(only_b, only_a)


def test_mcnemar_refuses_negative_counts() -> None:
    with pytest.raises(DataError):
        mcnemar_exact(-1, 3)


def test_mean_over_seeds() -> None:
    assert mean_over_seeds([0.5]).standard_deviation is None
    spread = mean_over_seeds([0.4, 0.5, 0.6])
    assert spread.mean == pytest.approx(0.5) and spread.standard_deviation == pytest.approx(0.1)
    with pytest.raises(DataError):
        mean_over_seeds([])


def test_verdict_counts_add_up_and_name_every_verdict() -> None:
    counts = count_verdicts(["correct", "malformed", "correct"])
    assert list(counts) == list(VERDICTS) and sum(counts.values()) == 3 and counts["correct"] == 2
