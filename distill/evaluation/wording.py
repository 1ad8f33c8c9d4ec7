"""The sentences and short forms that a report's page and its Markdown share."""

from __future__ import annotations

from collections.abc import Sequence

from distill.evaluation.accuracy import Comparison, Rate, TestSetResult
from distill.evaluation.summary import FunnelStage, Report
from distill.records import VERDICTS, Verdict

LATENCY = "Latency, speed and cost were not measured in this run."


def what_the_numbers_are(report: Report, result: TestSetResult) -> str:
    """One paragraph under a test set's numbers: what was counted, on what, and what the interval covers."""
    rates = next(iter(result.accuracy.values()))
    prompts = _listed([f"{rate.num_prompts} {category}" for category, rate in rates.items()])
    text = (
        f"Test set {result.test_set}: {prompts} prompts, each answered once, greedily. A completion is right when its "
        "calls match the expected ones by BFCL's AST rules. "
        f"Intervals are {percent(report.confidence)} Wilson intervals over prompts."
    )
    if len(report.seeds) > 1:
        seeds = _listed([str(seed) for seed in report.seeds])
        return (
            f"{text} Trained models: mean over seeds {seeds}, ± the standard deviation between seeds; "
            "their intervals are those of a single seed's number of prompts."
        )
    return f"{text} Trained models: seed {report.seeds[0]}." if report.seeds else text


def what_the_tests_are(report: Report) -> str:
    """One sentence under the paired tests."""
    text = (
        "McNemar's exact test, two-sided, on the prompts that exactly one of the two models answered right; "
        "not corrected for the number of tests."
    )
    return f"{text} Of trained models the first seed is compared." if len(report.seeds) > 1 else text


def rate_text(rate: Rate) -> str:
    """0.623, and ± 0.012 where there are several seeds."""
    spread = "" if rate.standard_deviation is None else f" ± {rate.standard_deviation:.3f}"
    return f"{rate.rate:.3f}{spread}"


def interval_text(rate: Rate) -> str:
    """The interval's two ends, to three digits."""
    return f"{rate.low:.3f} to {rate.high:.3f}"


def difference_text(found: Comparison) -> str:
    """The second model's rate less the first one's, in percentage points, with its sign."""
    points = 100 * (found.only_second_correct - found.only_first_correct) / found.n
    return f"{points:+.1f}".replace("-", "\N{MINUS SIGN}")


def p_text(p: float) -> str:
    """A p value to two or more significant digits, tiny ones as a bound."""
    return "< 0.0001" if p < 0.0001 else f"{p:.4f}" if p < 0.01 else f"{p:.3f}"


def percent(share: float) -> str:
    """0.95 -> 95 %."""
    return f"{100 * share:g} %"


def counts_text(stage: FunnelStage) -> str:
    """A stage's own tally on one line."""
    return ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in stage.counts.items())


def reasons_text(stage: FunnelStage) -> str:
    """Reject reasons on one line, the most frequent first."""
    by_count = sorted(stage.reasons.items(), key=lambda item: -item[1])
    return ", ".join(f"{reason} {count:,}" for reason, count in by_count)


def verdict_name(verdict: Verdict) -> str:
    """A verdict as a column's heading."""
    return verdict.replace("_", " ")


VERDICT_NAMES = {verdict: verdict_name(verdict) for verdict in VERDICTS}


def _listed(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
