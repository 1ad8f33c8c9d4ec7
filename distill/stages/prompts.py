"""Stage `prompts`: the user's files in, validated prompts with category, group and split out; every other line a reject with its reason."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from distill.calls.match import exactly
from distill.calls.parse import ParseError, looks_like_calls, parse_calls
from distill.chat import prompt_ids
from distill.config import Config, ConfigError, SplitConfig
from distill.engines.tokenizer import load_tokenizer
from distill.json_schema import why_not_allowed
from distill.records import Category, DataError, ExpectedCall, JsonValue, Prompt, Reject, Split, Tool, content_id
from distill.run_dir import Progress, file_hash, finish_stage, start_stage, write_stage_rows
from distill.sources.bedrock_jsonl import read_bedrock_jsonl
from distill.sources.files import input_file, read_lines
from distill.sources.problem import RecordProblem
from distill.sources.record import SourceRecord
from distill.sources.tools_in_text import find_tools, why_bad_schema

LARGEST_GROUP_SHARE = 0.3


def run_prompts(run: Path, config: Config, *, redo: bool) -> None:
    """Read, check, group and split all prompt files of the configuration."""
    if not start_stage(run, "prompts", _inputs(config), redo=redo):
        return
    tokenizer = load_tokenizer(config.student.model)
    prompts: list[Prompt] = []
    rejects: list[Reject] = []
    files = _files(config)
    with Progress(run, "prompts", total=len(files), unit="files") as progress:
        for split, test_set, path, answers in files:
            for result in _read(Path(path), split, test_set, answers, tokenizer, config):
                if isinstance(result, Prompt):
                    prompts.append(result)
                else:
                    rejects.append(result)
            progress.advance()
    prompts, more = _without_repeats(prompts)
    if not any(prompt.split == "train" for prompt in prompts):
        raise DataError(f"{', '.join(config.prompts.train)}: no usable training prompt; {_why_none([*rejects, *more])}")
    prompts = _split(prompts, config.prompts.split)
    num_rows, num_rejects = write_stage_rows(run, "prompts", prompts, [*rejects, *more])
    counts: dict[str, JsonValue] = {"rows": num_rows, "rejects": num_rejects}
    for prompt in prompts:
        key = f"{prompt.split}{'/' + prompt.test_set if prompt.test_set else ''}/{prompt.category}"
        counts[key] = int(str(counts.get(key, 0))) + 1
    finish_stage(run, "prompts", counts=counts, files=["rows.jsonl", "rejects.jsonl"])


def _why_none(rejects: Sequence[Reject]) -> str:
    if not rejects:
        return "the files are empty, a prompt is one line of JSON in the form bedrock-conversation-2024"
    reasons = ", ".join(
        f"{count} x {reason}" for reason, count in Counter(reject.reason for reject in rejects).most_common()
    )
    first = next(reject for reject in rejects if reject.source)
    assert first.source is not None
    return f"{reasons}. The first: {first.source.path}:{first.source.line}: {first.detail}"


def _inputs(config: Config) -> dict[str, JsonValue]:
    inputs: dict[str, JsonValue] = {
        "prompts.split": config.prompts.split.model_dump(),
        "prompts.max_prompt_tokens": config.prompts.max_prompt_tokens,
        "student.model": config.student.model,
    }
    for split, test_set, path, answers in _files(config):
        for name in (path, *([answers] if answers else [])):
            if not Path(name).is_file():
                raise ConfigError(
                    f"prompts: {name}: no such file; give the path of a {'BFCL answer' if name == answers else 'Bedrock JSONL'} file"
                )
            inputs[f"{test_set or split}: {name}"] = file_hash(Path(name))
    return inputs


def _files(config: Config) -> list[tuple[Split, str | None, str, str | None]]:
    return [
        *(("train", None, path, None) for path in config.prompts.train),
        *(("validation", None, path, None) for path in config.prompts.validation),
        *(("test", test.name, test.path, test.answers) for test in config.prompts.test),
    ]


def _read(
    path: Path,
    split: Split,
    test_set: str | None,
    answers: str | None,
    tokenizer: PreTrainedTokenizerFast,
    config: Config,
) -> Iterator[Prompt | Reject]:
    expected = _read_answers(Path(answers)) if answers else None
    position = 0
    for result in read_bedrock_jsonl(read_lines(input_file(str(path))), name=str(path)):
        gold = None
        if expected is not None:
            if position >= len(expected):
                raise DataError(
                    f"{answers}: {len(expected)} answers for more records in {path}; line k answers record k"
                )
            gold = expected[position]
        position += 1
        yield result if isinstance(result, Reject) else _check(result, split, test_set, gold, tokenizer, config)
    if expected is not None and position != len(expected):
        raise DataError(f"{answers}: {len(expected)} answers for {position} records in {path}; line k answers record k")


def _check(
    record: SourceRecord,
    split: Split,
    test_set: str | None,
    gold: tuple[ExpectedCall, ...] | None,
    tokenizer: PreTrainedTokenizerFast,
    config: Config,
) -> Prompt | Reject:
    """The prompt that a record holds, or why it cannot be used."""
    identity = content_id(*[[message.role, message.content] for message in record.messages])

    def reject(reason: str, detail: str) -> Reject:
        return Reject(id=identity, reason=reason, detail=detail, source=record.source)

    if record.tools is not None:
        return reject(
            "no_tools_in_text", "the tools stand in a structured field; only tools in the text are read so far"
        )
    try:
        found = find_tools(record.messages)
    except RecordProblem as problem:
        return reject(problem.reason, problem.detail)
    why = why_bad_schema(found.tools)
    if why is not None:
        return reject("bad_tool_schema", why)
    num_tokens = len(prompt_ids(record.messages, tokenizer))
    if num_tokens > config.prompts.max_prompt_tokens:
        return reject(
            "too_long", f"{num_tokens} tokens, prompts.max_prompt_tokens is {config.prompts.max_prompt_tokens}"
        )
    expected = gold
    if expected is None and record.reply is not None:
        try:
            expected = _expected_of_reply(record.reply.text, found.tools)
        except ParseError as error:
            return reject("bad_answer", f"the reply is not a list of calls: {error}")
        except DataError as error:
            return reject("invalid_answer", str(error))
    return Prompt(
        id=identity,
        messages=record.messages,
        tools=found.tools,
        tools_span=found.span,
        category=_category(len(found.tools), expected),
        group=_group(record, found.tools, config.prompts.split),
        split=split,
        test_set=test_set,
        expected_calls=expected,
        source=record.source,
    )


def _expected_of_reply(reply: str, tools: Sequence[Tool]) -> tuple[ExpectedCall, ...]:
    """The calls of the user's own reply; a reply that is a sentence means that nothing is to be called."""
    if not looks_like_calls(reply):
        return ()
    calls = parse_calls(reply, mode="strict")
    problem = why_not_allowed(calls, tools)
    if problem is not None:
        raise DataError(f"the reply calls what the tools do not offer: {problem.message}")
    by_name = {tool.name: tool for tool in tools}
    return tuple(exactly(call, tool=by_name[call.name]) for call in calls)


def _category(num_tools: int, expected: tuple[ExpectedCall, ...] | None) -> Category:
    if expected is not None and not expected:
        return "irrelevance"
    if expected is not None and len(expected) > 1:
        return "parallel" if num_tools == 1 else "parallel_multiple"
    return "simple" if num_tools == 1 else "multiple"


def _group(record: SourceRecord, tools: Sequence[Tool], split: SplitConfig) -> str:
    if split.group_by == "tools":
        return content_id(*sorted(content_id(tool.name, tool.description, tool.parameters) for tool in tools))
    if split.group_by == "conversation":
        return content_id(*[[message.role, message.content] for message in record.messages[:-1]])
    return content_id(record.messages[-1].content.strip().lower())


def _without_repeats(prompts: Sequence[Prompt]) -> tuple[list[Prompt], list[Reject]]:
    """Without equal prompts inside a split, and without training or validation prompts that stand in a later split."""
    order: dict[Split, int] = {"test": 0, "validation": 1, "train": 2}
    kept: dict[str, Prompt] = {}
    rejects: list[Reject] = []
    for prompt in sorted(prompts, key=lambda prompt: order[prompt.split]):
        first = kept.get(prompt.id)
        if first is None:
            kept[prompt.id] = prompt
            continue
        reason = "duplicate" if first.split == prompt.split else "contaminated"
        detail = f"equal to {first.source.path}:{first.source.line} ({first.split})"
        rejects.append(Reject(id=prompt.id, reason=reason, detail=detail, source=prompt.source))
    return [prompt for prompt in prompts if kept[prompt.id] is prompt], rejects


def _split(prompts: Sequence[Prompt], split: SplitConfig) -> list[Prompt]:
    """Move whole groups of training prompts to validation and test by a hash of the group, so that more prompts move nobody."""
    train = [prompt for prompt in prompts if prompt.split == "train"]
    if split.validation_share == 0 and split.test_share == 0:
        return list(prompts)
    largest, size = Counter(prompt.group for prompt in train).most_common(1)[0]
    if size > LARGEST_GROUP_SHARE * len(train) and split.group_by != "request":
        example = next(prompt for prompt in train if prompt.group == largest)
        raise ConfigError(
            f"prompts.split.group_by is `{split.group_by}` and one group holds {size} of {len(train)} prompts (such as "
            f"{example.source.path}:{example.source.line}); no fair split is possible. Set prompts.split.group_by=request"
        )
    return [prompt if prompt.split != "train" else _assigned(prompt, split) for prompt in prompts]


def _assigned(prompt: Prompt, split: SplitConfig) -> Prompt:
    position = int(content_id("split", prompt.group), 16) / 16**16
    if position < split.validation_share:
        return replace(prompt, split="validation")
    if position < split.validation_share + split.test_share:
        return replace(prompt, split="test", test_set="own")
    return prompt


def _read_answers(path: Path) -> list[tuple[ExpectedCall, ...]]:
    """Expected calls per line of a file in BFCL's possible-answer shape."""
    answers: list[tuple[ExpectedCall, ...]] = []
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            answers.append(tuple(_expected_call(call) for call in _listed(json.loads(line)["ground_truth"])))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise DataError(
                f'{path}:{number}: expected {{"id": ..., "ground_truth": [{{name: {{parameter: [values]}}}}]}} ({error})'
            ) from None
    return answers


def _expected_call(call: Any) -> ExpectedCall:
    """One `{name: {parameter: [values]}}`; raises what `_read_answers` catches."""
    ((name, options),) = call.items()
    return ExpectedCall(name=name, options={parameter: _listed(values) for parameter, values in options.items()})


def _listed(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError(f"found {type(value).__name__} instead of a list")
    return value
