"""Opened sources in; their records checked, compared with each other and assigned to splits, one after another, out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from distill.config import SplitConfig
from distill.records import Prompt, Reject, Split, content_id
from distill.sources.checks import PromptChecks
from distill.sources.inputs import Advance, OpenedSource, read_records
from distill.sources.record import SourceRecord
from distill.sources.repeats import Repeats
from distill.sources.summary import SourceCounts, Summary

ORDER: tuple[Split | None, ...] = (None, "test", "validation", "train")
"""What is held out comes before what is compared with it; None is a benchmark."""


@dataclass(frozen=True, slots=True)
class RoleOfSource:
    """What a source is for: a split (None for a benchmark, which is only compared with) and the name of a test set."""

    opened: OpenedSource
    split: Split | None
    test_set: str | None = None

    @property
    def name(self) -> str:
        if self.split is None:
            return "benchmark"
        return self.split if self.test_set is None else f"{self.split} {self.test_set}"


def collect(
    sources: Sequence[RoleOfSource],
    checks: PromptChecks,
    repeats: Repeats,
    split: SplitConfig,
    summary: Summary,
    advance: Advance = lambda num_bytes: None,
) -> Iterator[Prompt | Reject]:
    """One result for each record: test first, then validation, then train. Nothing but repeats' small tables is kept.

    Benchmarks give no results. `summary` is filled on the way.
    """
    for role in sorted(sources, key=lambda role: ORDER.index(role.split)):
        counts = SourceCounts(role.name, role.opened)
        summary.sources.append(counts)
        for record in read_records(role.opened, advance):
            if role.split is None:
                _compare_only(record, checks, repeats, counts)
                continue
            result = record if isinstance(record, Reject) else checks.check(record, role.split, role.test_set)
            if isinstance(result, Prompt):
                repeat = repeats.find(result, role=role.name, tools_key=checks.tools_key(result))
                if repeat is not None:
                    result = Reject(id=result.id, reason=repeat.reason, detail=repeat.detail, source=result.source)
                elif role.split == "train":
                    result = assigned(result, split)
            summary.add(result, counts)
            yield result


def assigned(prompt: Prompt, split: SplitConfig) -> Prompt:
    """A training prompt where a hash of its group puts it, so that more prompts move nobody."""
    if not split.validation_share and not split.test_share:
        return prompt
    position = int(content_id("split", prompt.group), 16) / 16**16
    if position < split.validation_share:
        return replace(prompt, split="validation")
    if position < split.validation_share + split.test_share:
        return replace(prompt, split="test", test_set="own")
    return prompt


def _compare_only(record: SourceRecord | Reject, checks: PromptChecks, repeats: Repeats, counts: SourceCounts) -> None:
    """A record of a benchmark. Only what it says counts; one that cannot be read is counted and in no reject file."""
    prompt = record if isinstance(record, Reject) else checks.check(record, "test", None)
    if isinstance(prompt, Prompt):
        counts.accepted += 1
        repeats.add_benchmark(prompt)
    else:
        counts.rejected += 1
