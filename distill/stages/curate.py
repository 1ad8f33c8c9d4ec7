"""Stage `curate`: the teacher's completions in, examples with verified calls out; everything else a reject with its reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from distill.calls.match import canonical_key, match
from distill.config import Config
from distill.reading import read_completion
from distill.records import (
    Annotation,
    Completion,
    Example,
    JsonValue,
    Prompt,
    Reject,
    category_of,
    content_id,
)
from distill.run_dir import finish_stage, read_rows, set_state, stage_hash, start_stage, write_stage_rows


def run_curate(run: Path, config: Config, *, redo: bool) -> None:
    """Turn each annotated prompt into one example, or into one reject."""
    inputs: dict[str, JsonValue] = {
        "prompts": stage_hash(run, "prompts"),
        "annotate": stage_hash(run, "annotate"),
        "curate.min_agreement": config.curate.min_agreement,
    }
    if not start_stage(run, "curate", inputs, redo=redo):
        return
    set_state(run, "curate", "InProgress")
    completions: dict[str, list[Completion]] = {}
    for annotation in read_rows(run / "annotate" / "rows.jsonl", Annotation):
        completions.setdefault(annotation.prompt_id, []).append(annotation.completion)
    examples: list[Example] = []
    rejects: list[Reject] = []
    disagreements = 0
    for prompt in read_rows(run / "prompts" / "rows.jsonl", Prompt):
        if prompt.id not in completions:
            continue
        result = curate_prompt(prompt, completions[prompt.id], min_agreement=config.curate.min_agreement)
        if isinstance(result, Reject):
            rejects.append(result)
            continue
        examples.append(result)
        disagreements += _disagrees(result, prompt)
    num_rows, num_rejects = write_stage_rows(run, "curate", examples, rejects)
    counts: dict[str, JsonValue] = {"rows": num_rows, "rejects": num_rejects, "disagree_with_own_answer": disagreements}
    counts.update(Counter(f"{example.split}/{example.category}" for example in examples))
    finish_stage(run, "curate", counts=counts, files=["rows.jsonl", "rejects.jsonl"])


def curate_prompt(prompt: Prompt, completions: Sequence[Completion], *, min_agreement: float) -> Example | Reject:
    """The example that most of a prompt's completions agree on, weighted by their share, or why there is none."""
    readings = [read_completion(completion, prompt) for completion in completions]
    usable = [reading for reading in readings if reading.reason is None]

    def reject(reason: str, detail: str) -> Reject:
        return Reject(id=prompt.id, reason=reason, detail=detail, source=prompt.source)

    if not usable:
        first = readings[0]
        return reject(first.reason or "", first.detail)
    votes = Counter(canonical_key(reading.calls) for reading in usable).most_common()
    agreement = votes[0][1] / len(readings)
    if len(votes) > 1 and votes[0][1] == votes[1][1]:
        return reject("tie", f"{len(readings)} completions, the first two answers with {votes[0][1]} each")
    if agreement < min_agreement:
        return reject(
            "low_agreement",
            f"{votes[0][1]} of {len(readings)} completions agree; curate.min_agreement is {min_agreement}",
        )
    chosen = next(reading for reading in usable if canonical_key(reading.calls) == votes[0][0])
    return Example(
        id=content_id(prompt.id, chosen.reply), prompt_id=prompt.id, split=prompt.split, messages=prompt.messages, tools=prompt.tools,
        tools_span=prompt.tools_span, category=category_of(len(prompt.tools), chosen.calls), reply=chosen.reply, calls=chosen.calls,
        weight=agreement, lineage=None,
    )  # fmt: skip


def _disagrees(example: Example, prompt: Prompt) -> bool:
    if prompt.expected_calls is None:
        return False
    return (
        match(example.calls, prompt.expected_calls, tools=prompt.tools, category=prompt.category).verdict != "correct"
    )
