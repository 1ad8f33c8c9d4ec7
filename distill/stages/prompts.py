"""Stage `prompts`: the user's records in, checked prompts with category, group and split out; every other record a reject with its reason.

All is a stream: a prompt is written as soon as it is checked, and what is remembered of it is a few hundred bytes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from distill.chat import prompt_ids
from distill.config import Config, ConfigError, PromptSource
from distill.engines.tokenizer import load_tokenizer
from distill.records import DataError, JsonValue, Reject, Split
from distill.run_dir import Progress, atomic_file, finish_stage, row_line, start_stage, write_json
from distill.sources.checks import PromptChecks, TokenLimit
from distill.sources.collect import RoleOfSource, collect
from distill.sources.inputs import open_source, source_hash
from distill.sources.repeats import Repeats
from distill.sources.summary import Summary

LARGEST_GROUP_SHARE = 0.3


def run_prompts(run: Path, config: Config, *, redo: bool) -> None:
    """Read, check, compare, group and split all prompts of the configuration."""
    sources = list(_sources(config))
    if not start_stage(run, "prompts", _inputs(config, sources), redo=redo):
        return
    tokenizer = load_tokenizer(config.student.model)
    limit = TokenLimit(lambda messages: len(prompt_ids(messages, tokenizer)), config.prompts.max_prompt_tokens)
    checks = PromptChecks(group_by=config.prompts.split.group_by, token_limit=limit)
    repeats = Repeats(
        drop_near_duplicates=config.prompts.drop_near_duplicates, drop_contaminated=config.prompts.drop_contaminated
    )
    summary, counts = Summary(), Counter[str]()
    folder = run / "prompts"
    total = sum(role.opened.size_bytes for role in sources)
    with (
        Progress(run, "prompts", total=total, unit="bytes") as progress,
        atomic_file(folder / "rows.jsonl") as rows,
        atomic_file(folder / "rejects.jsonl") as rejects,
    ):
        for result in collect(sources, checks, repeats, config.prompts.split, summary, progress.advance):
            if isinstance(result, Reject):
                rejects.write(row_line(result))
                continue
            rows.write(row_line(result))
            counts[f"{result.split}{'/' + result.test_set if result.test_set else ''}/{result.category}"] += 1
        _check_usable(config, summary)
        _check_groups(config, summary)
    write_json(folder / "report.json", summary.to_json())
    all_counts: dict[str, JsonValue] = {"rows": summary.accepted, "rejects": summary.rejected, **counts}
    finish_stage(run, "prompts", counts=all_counts, files=["rows.jsonl", "rejects.jsonl", "report.json"])


def _sources(config: Config) -> Iterator[RoleOfSource]:
    prompts = config.prompts
    plain: tuple[tuple[str, Split | None, Sequence[PromptSource]], ...] = (
        ("benchmarks", None, prompts.benchmarks),
        ("validation", "validation", prompts.validation),
        ("train", "train", prompts.train),
    )
    for key, split, sources in plain:
        for index, source in enumerate(sources):
            opened = open_source(source, where=f"prompts.{key}[{index}]", teacher=config.teacher.model)
            yield RoleOfSource(opened, split)
    for test in prompts.test:
        opened = open_source(test, where=f"prompts.test[{test.name}]", teacher=config.teacher.model)
        yield RoleOfSource(opened, "test", test.name)


def _inputs(config: Config, sources: Sequence[RoleOfSource]) -> dict[str, JsonValue]:
    prompts = config.prompts
    inputs: dict[str, JsonValue] = {
        "prompts.split": prompts.split.model_dump(),
        "prompts.max_prompt_tokens": prompts.max_prompt_tokens,
        "prompts.drop_near_duplicates": prompts.drop_near_duplicates,
        "prompts.drop_contaminated": prompts.drop_contaminated,
        "student.model": config.student.model,
    }
    for role in sources:
        source = role.opened.source
        settings = source.model_dump(exclude={"path", "name"}, exclude_defaults=True)
        if role.opened.teacher is not None:
            settings["logged_model"] = role.opened.teacher
        inputs[f"{role.name}: {source.path}"] = (
            [source_hash(role.opened), settings] if settings else source_hash(role.opened)
        )
    return inputs


def _check_usable(config: Config, summary: Summary) -> None:
    if any(counts.accepted for counts in summary.sources if counts.role == "train"):
        return
    paths = ", ".join(source.path for source in config.prompts.train)
    raise DataError(f"{paths}: no usable training prompt; {_why_none(summary)}")


def _why_none(summary: Summary) -> str:
    if not summary.reasons:
        return "the files are empty; a prompt is one line of JSON, such as a record of bedrock-conversation-2024"
    reasons = ", ".join(f"{count} x {reason}" for reason, count in summary.reasons.most_common())
    first = next(iter(summary.examples.values()))[0]
    assert first.source is not None
    return f"{reasons}. The first: {first.source.path}:{first.source.line}: {first.detail}"


def _check_groups(config: Config, summary: Summary) -> None:
    """A split by groups of which one holds nearly everything is none."""
    split = config.prompts.split
    number = summary.groups.total()
    if split.group_by == "request" or split.validation_share + split.test_share == 0:
        return
    if summary.largest_group <= LARGEST_GROUP_SHARE * number:
        return
    assert summary.one_of_largest is not None
    example = f"{summary.one_of_largest.path}:{summary.one_of_largest.line}"
    raise ConfigError(
        f"prompts.split.group_by is `{split.group_by}` and one group holds {summary.largest_group} of {number} prompts (such as "
        f"{example}); no fair split is possible. Set prompts.split.group_by=request"
    )
