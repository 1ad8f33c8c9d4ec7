"""A report in, Markdown out: the page's numbers for a README, an issue or a terminal."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from distill.evaluation import wording
from distill.evaluation.summary import Report, WrongAnswer, place_text
from distill.records import JsonObject, JsonValue


def render_markdown(report: Report) -> str:
    """The report; what models and users wrote stands in code blocks that it cannot close."""
    return "\n".join(_lines(report)) + "\n"


def _lines(report: Report) -> Iterator[str]:
    yield from (f"# {_inline(report.title)}", "")
    yield from (f"Student {_code(report.student)}, teacher {_code(report.teacher)}.", "", "## Accuracy", "")
    for result in report.results:
        categories = list(next(iter(result.accuracy.values())))
        rows = (
            [
                model,
                *(f"{wording.rate_text(r)} ({wording.interval_text(r)}), {r.correct} of {r.n}" for r in rates.values()),
            ]
            for model, rates in result.accuracy.items()
        )
        yield from (f"![Accuracy on {result.test_set}](accuracy_{result.test_set}.svg)", "")
        yield from _table(["model", *categories], rows)
        yield from (wording.what_the_numbers_are(report, result), "")
    yield from ("## Paired tests", "")
    yield from _table(
        ["test set", "models", "category", "points", "gained", "lost", "p"],
        (
            [
                result.test_set, " → ".join(pair), category, wording.difference_text(found),
                str(found.only_second_correct), str(found.only_first_correct), wording.p_text(found.p),
            ]
            for result in report.results
            for pair, comparisons in result.paired.items()
            for category, found in comparisons.items()
        ),
    )  # fmt: skip
    yield from (wording.what_the_tests_are(report), "", "## Verdicts", "")
    yield from _table(
        ["test set", "model", "category", *wording.VERDICT_NAMES.values(), "all"],
        (
            [result.test_set, model, category, *map(str, counts.values()), str(sum(counts.values()))]
            for result in report.results
            for model, by_category in result.verdicts.items()
            for category, counts in by_category.items()
        ),
    )
    yield from ("## Data", "")
    yield from _table(
        ["stage", "rows", "rejects", "reasons", "counts"],
        (
            [
                stage.stage, "" if stage.rows is None else str(stage.rows), str(stage.rejects),
                wording.reasons_text(stage), wording.counts_text(stage),
            ]
            for stage in report.funnel
        ),
    )  # fmt: skip
    if report.prompts is not None:
        yield from _prompts(report.prompts)
    if report.curves:
        yield from ("## Training", "", "![Loss against training step](training.svg)", "")
    yield from ("## Latency and cost", "", wording.LATENCY, "")
    if report.wrong_answers:
        yield from (f"## Wrong answers of {report.wrong_answers[0].model}", "")
        for wrong in report.wrong_answers:
            yield from _wrong_answer(wrong)
    yield from ("## Versions", "")
    yield from _table(["package", "version"], ([name, str(version)] for name, version in report.versions.items()))


def _prompts(prompts: JsonObject) -> Iterator[str]:
    reasons, examples = prompts["reasons"], prompts["examples"]
    assert isinstance(reasons, dict) and isinstance(examples, dict)
    yield from (
        "## Prompts",
        "",
        f"{prompts['accepted']:,} prompts accepted, {prompts['rejected']:,} records rejected.",
        "",
    )
    if reasons:
        yield from _table(
            ["reason", "rejects", "the first of them"],
            ([reason, f"{count:,}", _first_example(examples[reason])] for reason, count in reasons.items()),
        )


def _first_example(examples: JsonValue) -> str:
    assert isinstance(examples, list) and isinstance(examples[0], dict)
    return f"{place_text(examples[0])}: {examples[0]['detail']}"


def _wrong_answer(wrong: WrongAnswer) -> Iterator[str]:
    yield from (f"### {wrong.category}, {wording.VERDICT_NAMES[wrong.verdict]}, prompt {wrong.prompt_id}", "")
    for name in ("request", "expected", "predicted", "explanation"):
        yield from (f"{name}:", "", *_block(str(getattr(wrong, name))), "")


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(header)} |"
    yield f"|{'|'.join(' --- ' for _ in header)}|"
    for row in rows:
        yield f"| {' | '.join(_inline(cell) for cell in row)} |"
    yield ""


def _block(text: str) -> Iterator[str]:
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    yield from (f"{fence}text", text, fence)


def _code(text: str) -> str:
    return f"`{text.replace('`', '')}`"


def _inline(text: str) -> str:
    return re.sub(r"([\\`*_{}\[\]<>|#])", r"\\\1", " ".join(text.split()))
