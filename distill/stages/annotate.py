"""Stage `annotate`: training and validation prompts in, the teacher's completions out; nothing answered is ever asked again.

Prompts are read twice and never held: first to see which are unanswered, then, one by one as the teacher has room, to be asked.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from pathlib import Path

from distill.config import Config, ConfigError, model_path
from distill.engines.choose import open_teacher, teacher_tokenizer
from distill.engines.golden import GoldenExamples, choose_golden
from distill.engines.protocol import Answer, Engine, Request
from distill.engines.request_log import RequestLog, open_log
from distill.engines.requests import Asking, prefix_order
from distill.engines.tokenizer import load_tokenizer, why_other_tokens
from distill.engines.transformers_engine import fingerprint
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
    """What a start of the stage has open, and what it has found out."""

    run: Path
    config: Config
    engine: Engine
    askings: Sequence[Asking]
    golden: GoldenExamples | None
    log: RequestLog
    usage: Usage
    errors: dict[str, str] = field(default_factory=dict)


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
        usage = open_usage(run / "annotate" / "usage.json", config.teacher.price)
        askings, errors = _ask_teacher(run, config, log, usage, limit)
        if limit is not None:
            return
        num_prompts = len({prompt.id for prompt in _prompts(run) if _given(prompt, config) is None})
        _check_error_rate(errors, num_prompts, config)
        rejects: list[Reject] = []
        counts: Counter[str] = Counter()
        golden = _golden(run, config)
        rows = _annotated(run, config, log, askings, golden, errors, rejects, counts)
        files = _write(run, config, rows, rejects, counts)
    reasons = Counter(reject.reason for reject in rejects)
    names = (
        "rows",
        "rejects",
        "logged",
        "golden",
        "few_shot",
        "reasoning_dropped",
        "prompt_tokens",
        "completion_tokens",
    )
    all_counts: JsonObject = {"prompts": num_prompts, **{name: counts[name] for name in names}}
    all_counts["reject_reasons"] = dict(reasons)
    finish_stage(run, "annotate", counts=all_counts, files=files)


def _inputs(run: Path, config: Config) -> dict[str, JsonValue]:
    teacher, annotate = config.teacher, config.annotate
    in_process = teacher.engine == "transformers"
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
        "teacher.model": teacher.model,
        "teacher.weights": fingerprint(model_path(teacher.model)) if in_process else None,
        "teacher.engine": teacher.engine,
        "teacher.dtype": teacher.dtype if in_process else None,
        "teacher.prompt_format": teacher.prompt_format,
        "teacher.tools": teacher.tools,
        "teacher.date_line": teacher.date_line,
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


def _ask_teacher(
    run: Path, config: Config, log: RequestLog, usage: Usage, limit: int | None
) -> tuple[list[Asking], dict[str, str]]:
    """How requests are made, and why prompts have no answer, by id. The teacher is open no longer than that, and not if all is answered."""
    if all(_given(prompt, config) is not None for prompt in _prompts(run)):
        return [], {}
    with closing(open_teacher(config.teacher, run / "annotate")) as engine:
        askings = _askings(engine.model, config)
        work = Work(run, config, engine, askings, _golden(run, config), log, usage)
        questions = list(_questions(work))
        missing = [question for question in questions if question.key not in log]
        for question in questions:
            if question.key in log:
                found = log.get(question.key)
                usage.add(found.completions, found.num_cached_tokens, is_new=False)
        try:
            if limit is not None:
                _look(work, sorted(missing, key=lambda question: question.rank)[:limit], len(missing))
            else:
                _ask(work, questions, missing)
        finally:
            usage.write()
    return askings, work.errors


def _askings(model: str, config: Config) -> list[Asking]:
    """One way of asking for each temperature."""
    annotate, teacher = config.annotate, config.teacher
    tokenizer = teacher_tokenizer(teacher)
    return [
        Asking(
            model=model,
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


def _ask(work: Work, questions: Sequence[Question], missing: Sequence[Question]) -> None:
    """All that is missing: first a few, to see whether the answers are of any use, then the rest in the order of their beginnings."""
    annotate = work.config.annotate
    with Progress(
        work.run, "annotate", total=len(questions), done=len(questions) - len(missing), unit=_unit(work)
    ) as bar:
        first: list[Question] = []
        if annotate.mode == "complete" and 0 < annotate.smoke_prompts < len(questions):
            first = sorted(questions, key=lambda question: question.rank)[: annotate.smoke_prompts * len(work.askings)]
            unasked = [question for question in first if question.key not in work.log]
            _drain(work, unasked, bar)
            _check_usable(work, first, len(missing) - len(unasked))
        asked = {question.key for question in first}
        rest = sorted((item for item in missing if item.key not in asked), key=lambda item: (item.order, item.key))
        _drain(work, rest, bar, num_prompts=len(questions))


def _unit(work: Work) -> str:
    return "prompts" if len(work.askings) == 1 else "requests"


def _drain(work: Work, questions: Sequence[Question], bar: Progress | None, num_prompts: int | None = None) -> None:
    """Ask and log. With `num_prompts`, stop as soon as more failed than may."""
    for answer in work.log.ask(work.engine, _requests(work, questions)) if questions else ():
        _take(work, answer)
        if bar is not None:
            bar.advance(note=work.usage.note())
        allowed = work.config.annotate.max_error_rate * (num_prompts or 0)
        if num_prompts is not None and len(work.errors) > max(FEW, allowed):
            raise _too_many(work.errors, num_prompts)


def _requests(work: Work, questions: Sequence[Question]) -> Iterator[Request]:
    """Requests made as they are taken. A prompt that cannot be written as a request is an error of its own."""
    with (work.run / "prompts" / "rows.jsonl").open("rb") as handle:
        for question in questions:
            prompt = read_row_at(handle, question.offset, Prompt)
            scored = _scored(prompt, work.config)
            try:
                yield work.askings[question.asking].prompt_request(prompt, _messages(prompt, work.golden), scored)
            except DataError as error:
                work.errors[prompt.id] = str(error)


def _take(work: Work, answer: Answer) -> None:
    if answer.error is not None:
        work.errors[answer.request.prompt_id] = answer.error
    else:
        work.usage.add(answer.completions, answer.num_cached_tokens, is_new=True)


def _check_usable(work: Work, first: Sequence[Question], num_left: int) -> None:
    """The smoke gate: `DataError` if too few of the first answers can be used; else a line with what the rest will take."""
    usable, reasons, num = 0, Counter[str](), 0
    with (work.run / "prompts" / "rows.jsonl").open("rb") as handle:
        for question in first:
            prompt = read_row_at(handle, question.offset, Prompt)
            if question.key not in work.log:
                num += 1
                reasons[f"teacher_error ({work.errors.get(prompt.id, '')})"[:SHOWN_CHARACTERS]] += 1
                continue
            for completion in work.log.get(question.key).completions:
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
    projection = work.usage.projection(num_left)
    print(
        f"annotate: {usable} of the first {num} answers are usable" + (f"; {projection}" if projection else ""),
        file=sys.stderr,
        flush=True,
    )


def _look(work: Work, questions: Sequence[Question], num_missing: int) -> None:
    """Ask a few and print what came of each."""
    _drain(work, questions, None)
    with (work.run / "prompts" / "rows.jsonl").open("rb") as handle:
        for question in questions:
            prompt = read_row_at(handle, question.offset, Prompt)
            print(f"\n{prompt.source.path}:{prompt.source.line}  {prompt.messages[-1].content[-SHOWN_CHARACTERS:]!r}")
            if question.key not in work.log:
                print(f"  no answer: {work.errors.get(prompt.id)}")
                continue
            for completion in work.log.get(question.key).completions:
                reading = read_completion(completion, prompt)
                verdict = "usable" if reading.reason is None else f"{reading.reason}: {reading.detail}"
                print(f"  {completion.text!r}\n    {verdict}")
    print(f"\n{work.usage.projection(num_missing - len(questions))}", flush=True)
    set_state(work.run, "annotate", "Stopped", message=f"after --limit {len(questions)}")


def _check_error_rate(errors: dict[str, str], num_prompts: int, config: Config) -> None:
    if len(errors) > config.annotate.max_error_rate * num_prompts:
        raise _too_many(errors, num_prompts)


def _too_many(errors: dict[str, str], num_prompts: int) -> DataError:
    return DataError(
        f"the teacher failed on {len(errors)} of {num_prompts} prompts, more than annotate.max_error_rate allows: "
        f"{_most_common(Counter(errors.values()))}. What it did answer is kept; mend the cause and start again"
    )


def _most_common(reasons: Counter[str]) -> str:
    return "; ".join(f"{count} x {reason}" for reason, count in reasons.most_common(3))


def _annotated(
    run: Path,
    config: Config,
    log: RequestLog,
    askings: Sequence[Asking],
    golden: GoldenExamples | None,
    errors: dict[str, str],
    rejects: list[Reject],
    counts: Counter[str],
) -> Iterator[tuple[Annotation, AnnotationLogprobs | None]]:
    """A row for every completion, in the order of the prompts; `rejects` and `counts` are filled beside it."""
    for prompt in _prompts(run):
        given = _given(prompt, config)
        if isinstance(given, Reject):
            rejects.append(given)
        elif given is not None:
            counts["golden" if given.model == GOLDEN_MODEL else "logged"] += 1
            yield given, None
        elif prompt.id in errors:
            rejects.append(Reject(prompt.id, "teacher_error", errors[prompt.id], prompt.source))
        else:
            messages = _messages(prompt, golden)
            counts["few_shot"] += messages != prompt.messages
            for index, asking in enumerate(askings):
                found = log.get(_key(asking, prompt, messages, config)).completions
                yield from _annotations(prompt, messages, found, asking, index * asking.num_samples, config)


def _annotations(
    prompt: Prompt,
    messages: Sequence[Message],
    completions: Sequence[Completion],
    asking: Asking,
    first: int,
    config: Config,
) -> Iterator[tuple[Annotation, AnnotationLogprobs | None]]:
    scored = _scored(prompt, config)
    for index, completion in enumerate(completions):
        logprobs = None
        if completion.logprobs is not None:
            request = asking.prompt_request(prompt, messages, scored)
            tokens_hash = content_id(list(completion.logprobs.token_ids))
            logprobs = AnnotationLogprobs(
                prompt.id, first + index, content_id(list(request.prompt_ids)), tokens_hash, completion.logprobs
            )
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


def _write(
    run: Path,
    config: Config,
    rows: Iterator[tuple[Annotation, AnnotationLogprobs | None]],
    rejects: list[Reject],
    counts: Counter[str],
) -> list[str]:
    """The stage's files. Log-probabilities go to a file of their own, since they are a hundred times as long as the text."""
    folder = run / "annotate"
    files = ["rows.jsonl"]
    with ExitStack() as stack:
        annotations_file = stack.enter_context(atomic_file(folder / "rows.jsonl"))
        logprobs_file = None
        if config.annotate.num_logprobs or config.annotate.mode == "score":
            logprobs_file = stack.enter_context(atomic_file(folder / "logprobs.jsonl"))
            files.append("logprobs.jsonl")
        for annotation, logprobs in rows:
            annotations_file.write(row_line(annotation))
            if logprobs is not None and logprobs_file is not None:
                logprobs_file.write(row_line(logprobs))
            counts["rows"] += 1
            counts["prompt_tokens"] += annotation.completion.num_prompt_tokens if annotation.sample_index == 0 else 0
            counts["completion_tokens"] += annotation.completion.num_completion_tokens
            counts["reasoning_dropped"] += annotation.completion.num_reasoning_characters > 0
    counts["rejects"] = write_rows(folder / "rejects.jsonl", rejects)
    return [*files, "rejects.jsonl"]
