"""Checked records in, one after another; what a user wants to know of all of them out: counts, reasons with examples, distributions."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from distill.records import JsonObject, JsonValue, Prompt, Reject, Source
from distill.sources.inputs import OpenedSource
from distill.sources.problem import printable

EXAMPLES_PER_REASON = 3
SKIPPED_SHOWN = 10
NOT_BEDROCKS = frozenset(
    "invalid_tags too_long no_tools bad_tool_json duplicate_tool bad_tool_schema required_not_in_properties unknown_type "
    "answer_unparseable calls_unknown_function invalid_answer reply_is_an_answer_set reply_in_another_format duplicate "
    "near_duplicate contaminated".split()
)
"""Reasons of ours that Bedrock's validator does not have: it takes such a record."""
BEDROCK_MIN_PROMPTS = 100
BEDROCK_MAX_PROMPTS = 15_000
BEDROCK_MAX_BYTES = 1024**3


@dataclass(slots=True)
class SourceCounts:
    """What became of one source's records. `role` is train, validation, `test NAME` or benchmark."""

    role: str
    opened: OpenedSource
    accepted: int = 0
    rejected: int = 0
    rejected_by_us_alone: int = 0

    def to_json(self) -> JsonObject:
        skipped: list[JsonValue] = [
            {"path": file.path, "detail": file.detail} for file in self.opened.skipped[:SKIPPED_SHOWN]
        ]
        return {
            "path": self.opened.source.path,
            "role": self.role,
            "format": self.opened.format,
            "files": len(self.opened.files),
            "accepted": self.accepted,
            "rejected": self.rejected,
            "num_skipped_files": len(self.opened.skipped),
            "skipped_files": skipped,
        }


@dataclass(slots=True)
class Summary:
    """Grows with each prompt and reject; memory is 8 bytes a prompt and some 100 for each group. Groups are those of training sources."""

    sources: list[SourceCounts] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[Reject]] = field(default_factory=dict)
    splits: Counter[str] = field(default_factory=Counter)
    categories: Counter[str] = field(default_factory=Counter)
    tools_per_prompt: Counter[int] = field(default_factory=Counter)
    turns: Counter[int] = field(default_factory=Counter)
    groups: Counter[int] = field(default_factory=Counter)
    largest_group: int = 0
    one_of_largest: Source | None = None
    lengths: array[int] = field(default_factory=lambda: array("L"))
    own_replies: int = 0
    logged_replies: int = 0

    @property
    def accepted(self) -> int:
        return len(self.lengths)

    @property
    def rejected(self) -> int:
        return self.reasons.total()

    def add(self, result: Prompt | Reject, counts: SourceCounts) -> None:
        """One result of a source."""
        if isinstance(result, Prompt):
            counts.accepted += 1
            self._add_prompt(result)
            if counts.role == "train":
                self._add_to_group(result)
            return
        counts.rejected += 1
        counts.rejected_by_us_alone += result.reason in NOT_BEDROCKS
        self.reasons[result.reason] += 1
        examples = self.examples.setdefault(result.reason, [])
        if len(examples) < EXAMPLES_PER_REASON:
            examples.append(result)

    def _add_prompt(self, prompt: Prompt) -> None:
        self.splits[prompt.split if prompt.test_set is None else f"{prompt.split}/{prompt.test_set}"] += 1
        self.categories[prompt.category] += 1
        self.tools_per_prompt[len(prompt.tools)] += 1
        self.turns[sum(message.role != "system" for message in prompt.messages)] += 1
        self.lengths.append(sum(len(message.content) for message in prompt.messages))
        if prompt.given_reply is not None:
            self.own_replies += prompt.given_reply.model is None
            self.logged_replies += prompt.given_reply.model is not None

    def _add_to_group(self, prompt: Prompt) -> None:
        group = int(prompt.group, 16)
        self.groups[group] += 1
        if self.groups[group] > self.largest_group:
            self.largest_group, self.one_of_largest = self.groups[group], prompt.source

    def bedrock_limits(self) -> list[str]:
        """Which of Bedrock's limits these training records break, each as a sentence. Records that only we reject count for Bedrock."""
        train = [counts for counts in self.sources if counts.role == "train"]
        size = sum(counts.opened.size_bytes for counts in train)
        number = sum(counts.accepted + counts.rejected_by_us_alone for counts in train)
        found = []
        if number < BEDROCK_MIN_PROMPTS:
            found.append(f"{number} training prompts by Bedrock's rules; it wants at least {BEDROCK_MIN_PROMPTS}")
        if number > BEDROCK_MAX_PROMPTS:
            found.append(f"{number} training prompts by Bedrock's rules; it takes at most {BEDROCK_MAX_PROMPTS}")
        if size > BEDROCK_MAX_BYTES:
            found.append(f"{size} bytes of training files; Bedrock takes at most 1 GiB")
        return found

    def to_json(self) -> JsonObject:
        """What stands in `report.json` of the stage and in the file of `distill validate --json`."""
        return {
            "accepted": self.accepted,
            "rejected": self.rejected,
            "reasons": dict(self.reasons.most_common()),
            "examples": {reason: [_shown(reject) for reject in self.examples[reason]] for reason in self.reasons},
            "sources": [counts.to_json() for counts in self.sources],
            "splits": dict(sorted(self.splits.items())),
            "categories": dict(self.categories.most_common()),
            "tools_per_prompt": {str(number): count for number, count in sorted(self.tools_per_prompt.items())},
            "messages_per_prompt": {str(number): count for number, count in sorted(self.turns.items())},
            "characters": _distribution(self.lengths),
            "groups": {"number": len(self.groups), "largest": self.largest_group},
            "own_replies": self.own_replies,
            "logged_replies": self.logged_replies,
            "bedrock_limits": list(self.bedrock_limits()),
        }


def table_lines(summary: Summary) -> list[str]:
    """The summary for people: what was read, what is usable, and what is not with up to three examples of each reason."""
    lines = []
    for counts in summary.sources:
        skipped = f", {len(counts.opened.skipped)} files skipped" if counts.opened.skipped else ""
        lines.append(
            f"{counts.opened.source.path} ({counts.opened.format}): {counts.accepted} accepted, {counts.rejected} rejected{skipped}"
        )
        lines += [f"    skipped {file.path}: {file.detail}" for file in counts.opened.skipped[:EXAMPLES_PER_REASON]]
    for reason, count in summary.reasons.most_common():
        lines.append(f"  {count:>8} {reason}")
        lines += [printable(f"           {_place(reject)}: {reject.detail}") for reject in summary.examples[reason]]
    for name, counter in (("categories", summary.categories), ("tools per prompt", summary.tools_per_prompt)):
        shown = ", ".join(f"{key}: {count}" for key, count in counter.most_common(8))
        lines += [f"{name}: {shown}"] if shown else []
    return lines


def _shown(reject: Reject) -> JsonObject:
    source = reject.source
    if source is None:
        return {"detail": reject.detail}
    return {
        "detail": reject.detail,
        "path": source.path,
        "line": source.line,
        "offset": source.offset,
        "request_id": source.request_id,
    }


def _place(reject: Reject) -> str:
    source = reject.source
    if source is None:
        return reject.id
    request = f" (request {source.request_id})" if source.request_id else ""
    return f"{source.path}:{source.line}{request}"


def _distribution(values: Sequence[int]) -> JsonObject | None:
    """The smallest, middle, large and largest of some numbers; None for none. A percentile is the value at its rank, rounded up."""
    if not values:
        return None
    ordered = sorted(values)
    last = len(ordered) - 1
    at = {"min": 0, "median": (last + 1) // 2, "p90": -(-9 * last // 10), "p99": -(-99 * last // 100), "max": last}
    return {name: ordered[position] for name, position in at.items()}
