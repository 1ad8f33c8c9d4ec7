"""Stage `annotate`: training and validation prompts in, the teacher's completions out; nothing answered is ever asked again.

Prompts are read several times and never held: to see which are unanswered, one by one as the teacher has room, to be asked, and to
write the rows in their order.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from pathlib import Path

from distill.config import Config, ConfigError
from distill.engines.choose import open_teacher, teacher_inputs, teacher_label, teacher_tokenizer
from distill.engines.golden import GoldenExamples, choose_golden
from distill.engines.protocol import Engine, Request
from distill.engines.request_log import RequestLog, open_log
from distill.engines.requests import Asking, prefix_order
from distill.engines.tokenizer import load_tokenizer, why_other_tokens
from distill.engines.usage import Usage, open_usage
from distill.reading import read_completion
from distill.records import (
    Annotation,
    AnnotationLogprobs,
    Completion,
    DataError,
    JsonObject,
    JsonValue,
    Message,
    Prompt,
    Reject,
    content_id,
)
from distill.run_dir import (
    Progress,
    atomic_file,
    finish_stage,
    read_row_at,
    read_rows,
    read_rows_with_offsets,
    row_line,
    set_state,
    stage_hash,
    start_stage,
    write_rows,
)

GOLDEN_MODEL = "golden"
SHOWN_CHARACTERS = 200
FEW = 10  # so many failures may be an accident whatever their share


@dataclass(frozen=True, slots=True)
class Question:
    """One request to be: where its prompt stands in the rows, its key, how it is asked, and what it is sorted by."""

    key: str
    offset: int
    asking: int
    order: bytes
    rank: str


@dataclass(slots=True)
class Work:
    """What a start of the stage works with, and what it has found out: how many prompts the teacher is for, and which it failed on."""

    run: Path
    config: Config
    askings: Sequence[Asking]
    golden: GoldenExamples | None
    log: RequestLog
    num_prompts: int = 0
    errors: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Asked:
    """The open teacher, what it costs, and the bar."""

    engine: Engine
    usage: Usage
    bar: Progress


def run_annotate(run: Path, config: Config, *, redo: bool, limit: int | None = None) -> None:
    """Ask the teacher about every prompt that may be learned from or chosen by. Test prompts are not read.

    Answers that a log or, if so configured, the user brought along are taken instead. With `limit` only so many requests are made and
    shown, and the stage is left unfinished. Raises `DataError` if too few of the first answers are usable or too many prompts fail;
    what was answered until then is kept.
    """
    if not start_stage(run, "annotate", _inputs(run, config), redo=redo):
        return
    _check_tokenizers(config)
    with open_log(run / "annotate" / "requests.jsonl") as log:
        is_asked = any(_given(prompt, config) is None for prompt in _prompts(run))
        work = Work(run, config, _askings(config) if is_asked else [], _golden(run, config), log)
        _ask_teacher(work, limit)
        if limit is not None:
            return
        _check_error_rate(work)
        counts = _write(work)
    finish_stage(run, "annotate", counts=counts, files=_files(config))


def _inputs(run: Path, config: Config) -> dict[str, JsonValue]:
    annotate = config.annotate
    asked = (
        "mode",
        "num_samples",
        "sampling_temperature",
        "sampling_parameters",
        "max_new_tokens",
        "num_logprobs",
        "golden",
    )
    inputs: dict[str, JsonValue] = {
        "prompts": stage_hash(run, "prompts"),
        "run.seed": config.run.seed,
        **teacher_inputs(config.teacher),
    }
    inputs |= {f"annotate.{name}": getattr(annotate, name) for name in asked}
    if annotate.golden == "few_shot":
        inputs["annotate.num_few_shot"] = annotate.num_few_shot
    return inputs


def _check_tokenizers(config: Config) -> None:
    """Log-probabilities by token id are of use to a student that has the same tokens, and to no other."""
    if not config.annotate.num_logprobs:
        return
    tokenizer = teacher_tokenizer(config.teacher)
    if tokenizer is None:
        raise ConfigError(
            "annotate.num_logprobs: token ids of a teacher whose prompts the server renders (teacher.prompt_format: messages) cannot "
            "be matched with the student's; use prompt_format token_ids with a Llama teacher, or set num_logprobs to 0"
        )
    why = why_other_tokens(tokenizer, load_tokenizer(config.student.model))
    if why is not None:
        raise ConfigError(
            f"annotate.num_logprobs: the tokenizers of teacher {config.teacher.model!r} and student {config.student.model!r} "
            f"differ ({why}), so that log-probabilities by token id mean nothing to the student; set num_logprobs to 0"
        )


def _prompts(run: Path) -> Iterator[Prompt]:
    """Those to be annotated."""
    return (prompt for prompt in read_rows(run / "prompts" / "rows.jsonl", Prompt) if prompt.split != "test")


def _golden(run: Path, config: Config) -> GoldenExamples | None:
    if config.annotate.golden != "few_shot":
        return None
    return choose_golden(_prompts(run), num_shown=config.annotate.num_few_shot, seed=config.run.seed)


def _given(prompt: Prompt, config: Config) -> Annotation | Reject | None:
    """What stands in for the teacher: the answer of a log, the user's own if wanted, or a reject where there is nothing to score."""
    given = prompt.given_reply
    if config.annotate.mode == "score":
        if given is not None:
            return None
        detail = "annotate.mode is `score`, and the prompt brings no answer to be scored"
        return Reject(id=prompt.id, reason="no_answer_to_score", detail=detail, source=prompt.source)
    if given is None or (given.model is None and config.annotate.golden != "answers"):
        return None
    completion = Completion(text=given.text, finish_reason="stop", num_prompt_tokens=0, num_completion_tokens=0)
    return Annotation(
        prompt_id=prompt.id,
        sample_index=0,
        completion=completion,
        model=given.model or GOLDEN_MODEL,
        sampling_temperature=0.0,
        seed=0,
    )


def _ask_teacher(work: Work, limit: int | None) -> None:
    """Ask what is missing. The teacher is open no longer than that, and not at all if nothing is."""
    questions = list(_questions(work))
    work.num_prompts = len({question.offset for question in questions})
    missing = [question for question in questions if question.key not in work.log]
    if not missing:
        if limit is not None:
            print(f"all {work.num_prompts} prompts are answered; the command without --limit writes the rows")
        return
    run, config, done = work.run, work.config, len(questions) - len(missing)
    usage = open_usage(run / "annotate" / "usage.json", config.teacher.price)
    with closing(open_teacher(config.teacher, run / "annotate")) as engine:
        usage.start_asking()
        try:
            with Progress(run, "annotate", total=len(questions), done=done, unit=_unit(work)) as bar:
                asked = Asked(engine, usage, bar)
                if limit is None:
                    _ask(work, asked, questions, missing)
                    return
                shown = sorted(missing, key=lambda question: question.rank)[: limit * len(work.askings)]
                _drain(work, asked, shown)
            _look(work, usage, shown, len(missing))
        finally:
            usage.write()


def _askings(config: Config) -> list[Asking]:
    """One way of asking for each temperature."""
    annotate, teacher = config.annotate, config.teacher
    tokenizer, label = teacher_tokenizer(teacher), teacher_label(teacher)
    return [
        Asking(
            model=label,
            tokenizer=tokenizer,
            run_seed=config.run.seed,
            max_new_tokens=annotate.max_new_tokens,
            num_samples=1 if annotate.mode == "score" else annotate.num_samples,
            sampling_temperature=temperature,
            num_logprobs=annotate.num_logprobs,
            sampling_parameters=annotate.sampling_parameters,
            date_line=teacher.date_line,
            native_tools=teacher.tools == "native",
        )
        for temperature in (annotate.temperatures if annotate.mode == "complete" else (0.0,))
    ]


def _questions(work: Work) -> Iterator[Question]:
    rows = read_rows_with_offsets(work.run / "prompts" / "rows.jsonl", Prompt)
    seen: set[str] = set()
    for offset, prompt in rows:
        if prompt.split == "test" or _given(prompt, work.config) is not None or prompt.id in seen:
            continue
        seen.add(prompt.id)
        messages = _messages(prompt, work.golden)
        order, rank = prefix_order(messages), content_id(work.config.run.seed, "smoke", prompt.id)
        for index, asking in enumerate(work.askings):
            yield Question(_key(asking, prompt, messages, work.config), offset, index, order, rank)


def _messages(prompt: Prompt, golden: GoldenExamples | None) -> tuple[Message, ...]:
    return prompt.messages if golden is None else golden.before(prompt)


def _key(asking: Asking, prompt: Prompt, messages: Sequence[Message], config: Config) -> str:
    return asking.key(prompt.id, messages, prompt.tools, _scored(prompt, config))


def _scored(prompt: Prompt, config: Config) -> str | None:
    return prompt.given_reply.text if config.annotate.mode == "score" and prompt.given_reply is not None else None


def _ask(work: Work, asked: Asked, questions: Sequence[Question], missing: Sequence[Question]) -> None:
    """All that is missing: first a few, to see whether the answers are of any use, then the rest in the order of their beginnings."""
    annotate = work.config.annotate
    first: list[Question] = []
    if annotate.mode == "complete" and 0 < annotate.smoke_prompts < work.num_prompts:
        first = sorted(questions, key=lambda question: question.rank)[: annotate.smoke_prompts * len(work.askings)]
        unasked = [question for question in first if question.key not in work.log]
        _drain(work, asked, unasked)
        _check_usable(work, asked.usage, first, len(missing) - len(unasked))
    keys = {question.key for question in first}
    rest = sorted((item for item in missing if item.key not in keys), key=lambda item: (item.order, item.key))
    _drain(work, asked, rest)


def _unit(work: Work) -> str:
    return "prompts" if len(work.askings) == 1 else "requests"


def _drain(work: Work, asked: Asked, questions: Sequence[Question]) -> None:
    """Ask and log; stop as soon as more prompts failed than may."""
    for answer in work.log.ask(asked.engine, _requests(work, questions)) if questions else ():
        if answer.error is not None:
            work.errors[answer.request.prompt_id] = answer.error
        else:
            asked.usage.add(answer.completions, answer.num_cached_tokens)
        asked.bar.advance(note=asked.usage.note())
        if len(work.errors) > FEW:
            _check_error_rate(work)


def _requests(work: Work, questions: Sequence[Question]) -> Iterator[Request]:
    """Requests made as they are taken. A prompt that cannot be written as a request is an error of its own."""
    for question, prompt in _with_prompts(work, questions):
        scored = _scored(prompt, work.config)
        try:
            yield work.askings[question.asking].prompt_request(prompt, _messages(prompt, work.golden), scored)
        except DataError as error:
            work.errors[prompt.id] = str(error)


def _answered(work: Work, questions: Sequence[Question]) -> Iterator[tuple[Prompt, tuple[Completion, ...]]]:
    """Prompts with their completions, none where the teacher failed."""
    for question, prompt in _with_prompts(work, questions):
        yield prompt, work.log.get(question.key).completions if question.key in work.log else ()


def _with_prompts(work: Work, questions: Sequence[Question]) -> Iterator[tuple[Question, Prompt]]:
    with (work.run / "prompts" / "rows.jsonl").open("rb") as handle:
        for question in questions:
            yield question, read_row_at(handle, question.offset, Prompt)


def _check_usable(work: Work, usage: Usage, first: Sequence[Question], num_left: int) -> None:
    """The smoke gate: `DataError` if too few of the first answers can be used; else a line with what the rest will take."""
    usable, reasons, num = 0, Counter[str](), 0
    for prompt, completions in _answered(work, first):
        if not completions:
            num += 1
            reasons[f"teacher_error ({work.errors.get(prompt.id, '')})"[:SHOWN_CHARACTERS]] += 1
        for completion in completions:
            reading = read_completion(completion, prompt)
            num += 1
            usable += reading.reason is None
            if reading.reason is not None:
                reasons[f"{reading.reason} ({reading.detail})"[:SHOWN_CHARACTERS]] += 1
    if usable < work.config.annotate.min_usable * num:
        raise DataError(
            f"only {usable} of the first {num} answers of the teacher are usable, fewer than annotate.min_usable "
            f"({work.config.annotate.min_usable:g}) allows: {_most_common(reasons)}. They are kept. Look at more of them with "
            "`distill annotate CONFIG --limit 20`; then mend the prompts' instruction or the teacher, or lower annotate.min_usable"
        )
    projection = usage.projection(num_left)
    print(
        f"annotate: {usable} of the first {num} answers are usable" + (f"; {projection}" if projection else ""),
        file=sys.stderr,
        flush=True,
    )


def _look(work: Work, usage: Usage, questions: Sequence[Question], num_missing: int) -> None:
    """Print what came of each."""
    for prompt, completions in _answered(work, questions):
        print(f"\n{prompt.source.path}:{prompt.source.line}  {prompt.messages[-1].content[-SHOWN_CHARACTERS:]!r}")
        if not completions:
            print(f"  no answer: {work.errors.get(prompt.id)}")
        for completion in completions:
            reading = read_completion(completion, prompt)
            verdict = "usable" if reading.reason is None else f"{reading.reason}: {reading.detail}"
            print(f"  {completion.text!r}\n    {verdict}")
    print(f"\n{usage.projection(num_missing - len(questions))}", flush=True)
    set_state(work.run, "annotate", "Stopped", message=f"after --limit {len(questions)}")


def _check_error_rate(work: Work) -> None:
    if len(work.errors) > work.config.annotate.max_error_rate * work.num_prompts:
        raise DataError(
            f"the teacher failed on {len(work.errors)} of {work.num_prompts} prompts, more than annotate.max_error_rate allows: "
            f"{_most_common(Counter(work.errors.values()))}. What it did answer is kept; mend the cause and start again"
        )


def _most_common(reasons: Counter[str]) -> str:
    """The three most frequent; those that differ in numbers alone are one, shown by an example."""
    examples: dict[str, str] = {}
    counts: Counter[str] = Counter()
    for reason, count in reasons.items():
        kind = re.sub(r"\d+", "N", reason)
        examples.setdefault(kind, reason)
        counts[kind] += count
    return "; ".join(f"{count} x {examples[kind]}" for kind, count in counts.most_common(3))


def _write(work: Work) -> JsonObject:
    """The stage's files; returns the counts. Log-probabilities have a file of their own: they are a hundred times as long as the text."""
    folder = work.run / "annotate"
    rejects: list[Reject] = []
    counts: Counter[str] = Counter()
    with ExitStack() as stack:
        handles = {
            name: stack.enter_context(atomic_file(folder / name))
            for name in _files(work.config)
            if name != "rejects.jsonl"
        }
        for annotation, logprobs in _annotated(work, rejects, counts):
            handles["rows.jsonl"].write(row_line(annotation))
            if logprobs is not None:
                handles["logprobs.jsonl"].write(row_line(logprobs))
            counts["rows"] += 1
            counts["completion_tokens"] += annotation.completion.num_completion_tokens
            counts["reasoning_dropped"] += annotation.completion.num_reasoning_characters > 0
    counts["rejects"] = write_rows(folder / "rejects.jsonl", rejects)
    names = (
        "prompts",
        "rows",
        "rejects",
        "logged",
        "golden",
        "few_shot",
        "reasoning_dropped",
        "prompt_tokens",
        "completion_tokens",
    )
    return {**{name: counts[name] for name in names}, "reject_reasons": dict(Counter(r.reason for r in rejects))}


def _files(config: Config) -> list[str]:
    has_logprobs = config.annotate.num_logprobs or config.annotate.mode == "score"
    return ["rows.jsonl", *(["logprobs.jsonl"] if has_logprobs else []), "rejects.jsonl"]


def _annotated(
    work: Work, rejects: list[Reject], counts: Counter[str]
) -> Iterator[tuple[Annotation, AnnotationLogprobs | None]]:
    """A row for every completion, in the order of the prompts; `rejects` and `counts` are filled beside it."""
    for prompt in _prompts(work.run):
        counts["prompts"] += 1
        given = _given(prompt, work.config)
        if isinstance(given, Reject):
            rejects.append(given)
        elif given is not None:
            counts["golden" if given.model == GOLDEN_MODEL else "logged"] += 1
            yield given, None
        elif prompt.id in work.errors:
            rejects.append(Reject(prompt.id, "teacher_error", work.errors[prompt.id], prompt.source))
        else:
            counts["few_shot"] += _messages(prompt, work.golden) != prompt.messages
            for index, asking in enumerate(work.askings):
                rows = list(_annotations(work, prompt, asking, first=index * asking.num_samples))
                counts["prompt_tokens"] += rows[0][0].completion.num_prompt_tokens
                yield from rows


def _annotations(
    work: Work, prompt: Prompt, asking: Asking, *, first: int
) -> Iterator[tuple[Annotation, AnnotationLogprobs | None]]:
    messages, scored = _messages(prompt, work.golden), _scored(prompt, work.config)
    completions = work.log.get(_key(asking, prompt, messages, work.config)).completions
    prompt_hash = None
    if any(completion.logprobs is not None for completion in completions):
        prompt_hash = content_id(list(asking.prompt_request(prompt, messages, scored).prompt_ids))
    for index, completion in enumerate(completions):
        logprobs, told = None, completion.logprobs
        if told is not None and prompt_hash is not None:
            tokens_hash = content_id(list(told.token_ids))
            logprobs = AnnotationLogprobs(prompt.id, first + index, prompt_hash, tokens_hash, told)
        text = completion.text if scored is None else scored
        yield (
            Annotation(
                prompt_id=prompt.id,
                sample_index=first + index,
                completion=replace(completion, text=text, logprobs=None),
                model=asking.model,
                sampling_temperature=asking.sampling_temperature,
                seed=asking.seed(prompt.id) + index,
            ),
            logprobs,
        )
