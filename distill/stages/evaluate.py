"""Stage `evaluate`: test prompts in; what base student, trained students and teacher answer, and whether it is right, out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedTokenizerFast

from distill.calls.match import score_text
from distill.config import Config, model_path
from distill.engines.choose import LateEngine, open_teacher, teacher_inputs, teacher_label, teacher_tokenizer
from distill.engines.fingerprint import fingerprint, model_label
from distill.engines.protocol import Answer, Engine
from distill.engines.request_log import complete_durably
from distill.engines.requests import Asking
from distill.engines.tokenizer import load_tokenizer
from distill.engines.transformers_engine import open_transformers
from distill.evaluation.accuracy import BASE, TEACHER, seeded_model_name
from distill.evaluation.statistics import count_verdicts
from distill.records import Completion, DataError, JsonObject, JsonValue, Prediction, Prompt, Reject, Verdict
from distill.run_dir import (
    Progress,
    finish_stage,
    read_rows,
    require_stage,
    stage_hash,
    start_stage,
    write_stage_rows,
)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model to be evaluated: its name in predictions and in request keys, how to open it, and how its prompts are rendered."""

    name: str
    model: str
    open: Callable[[], Engine]
    tokenizer: Callable[[], PreTrainedTokenizerFast | None]
    date_line: str | None = None
    native_tools: bool = False


def run_evaluate(run: Path, config: Config, *, redo: bool) -> None:
    """Ask every model named in `evaluate.models` about every test prompt, greedily, and score the answers.

    Raises `DataError` if there is no test prompt with expected calls, or if an engine failed on more prompts than
    `evaluate.max_error_rate` allows; what was answered until then is kept and not asked again.
    """
    require_stage(run, "prompts")
    prompts, rejects = _test_prompts(run)
    if not start_stage(run, "evaluate", _inputs(run, config), redo=redo):
        return
    candidates = _candidates(run, config)
    predictions: list[Prediction] = []
    for number, candidate in enumerate(candidates):
        total, done = len(prompts) * len(candidates), len(prompts) * number
        with Progress(
            run, "evaluate", total=total, done=done, unit="prompts", label=f"evaluate {candidate.name}"
        ) as bar:
            answers = _ask(candidate, prompts, run / "evaluate", config, bar)
        _check_errors(candidate.name, answers, config)
        predictions += [_score(prompt, a, candidate.name) for prompt, a in zip(prompts, answers, strict=True)]
    num_rows, num_rejects = write_stage_rows(run, "evaluate", predictions, rejects)
    counts: JsonObject = {"rows": num_rows, "rejects": num_rejects, "verdicts": _verdicts(predictions)}
    finish_stage(run, "evaluate", counts=counts, files=["rows.jsonl", "rejects.jsonl"])


def _test_prompts(run: Path) -> tuple[list[Prompt], list[Reject]]:
    """Test prompts that can be scored, and a reject for each that cannot."""
    tests = [prompt for prompt in read_rows(run / "prompts" / "rows.jsonl", Prompt) if prompt.split == "test"]
    usable = [prompt for prompt in tests if prompt.expected_calls is not None]
    if not usable:
        raise DataError(
            f"{run / 'prompts'}: none of {len(tests)} test prompts has expected calls; give prompts.test files with replies "
            "or answers, or set prompts.split.test_share"
        )
    detail = "nobody knows the right calls; add a reply to the record or give the test set an answers file"
    return usable, [
        Reject(id=prompt.id, reason="no_expected_calls", detail=detail, source=prompt.source)
        for prompt in tests
        if prompt.expected_calls is None
    ]


def _inputs(run: Path, config: Config) -> dict[str, JsonValue]:
    inputs: dict[str, JsonValue] = {
        "prompts": stage_hash(run, "prompts"),
        "evaluate.models": list(config.evaluate.models),
        "evaluate.max_new_tokens": config.evaluate.max_new_tokens,
        "evaluate.dtype": config.evaluate.dtype,
    }
    if "base" in config.evaluate.models:
        inputs["student.model"] = config.student.model
        inputs["student.weights"] = fingerprint(model_path(config.student.model))
    if "students" in config.evaluate.models:
        inputs["train"] = stage_hash(run, "train")
    if "teacher" in config.evaluate.models:
        inputs |= teacher_inputs(config.teacher)
    return inputs


def _candidates(run: Path, config: Config) -> list[Candidate]:
    """The models in the order of a report's bars: base, trained students, teacher."""
    candidates: list[Candidate] = []
    if "base" in config.evaluate.models:
        candidates.append(_student(BASE, config.student.model, config))
    if "students" in config.evaluate.models:
        names = [seeded_model_name(student, seed) for student in config.train.students for seed in config.train.seeds]
        candidates += [_student(name, str(run / "train" / name / "merged"), config) for name in names]
    if "teacher" in config.evaluate.models:
        teacher = config.teacher
        candidates.append(
            Candidate(
                name=TEACHER,
                model=teacher_label(teacher),
                open=lambda: open_teacher(teacher, run / "evaluate"),
                tokenizer=lambda: teacher_tokenizer(teacher),
                date_line=teacher.date_line,
                native_tools=teacher.tools == "native",
            )
        )
    return candidates


def _student(name: str, model: str, config: Config) -> Candidate:
    evaluate = config.evaluate
    return Candidate(
        name=name,
        model=model_label(model),
        open=lambda: open_transformers(model, dtype=evaluate.dtype, batch_tokens=evaluate.batch_tokens),
        tokenizer=lambda: load_tokenizer(model),
    )


def _ask(
    candidate: Candidate,
    prompts: Sequence[Prompt],
    folder: Path,
    config: Config,
    bar: Progress,
) -> list[Answer]:
    """One answer per prompt, in the order of the prompts. The engine is open no longer than that."""
    log = folder / f"requests-{candidate.name}.jsonl"
    asking = Asking(
        model=candidate.model,
        tokenizer=candidate.tokenizer(),
        run_seed=config.run.seed,
        max_new_tokens=config.evaluate.max_new_tokens,
        date_line=candidate.date_line,
        native_tools=candidate.native_tools,
    )
    requests = [asking.prompt_request(prompt, prompt.messages) for prompt in prompts]
    with closing(LateEngine(candidate.model, candidate.open)) as engine:
        answers = complete_durably(engine, requests, log, lambda _: bar.advance())
    return [answers[request.key] for request in requests]


def _check_errors(name: str, answers: Sequence[Answer], config: Config) -> None:
    errors = [answer.error for answer in answers if answer.error is not None]
    if len(errors) <= config.evaluate.max_error_rate * len(answers):
        return
    reasons = "; ".join(f"{count} x {error}" for error, count in Counter(errors).most_common(3))
    raise DataError(
        f"evaluate: {name} failed on {len(errors)} of {len(answers)} test prompts: {reasons}. A failure is not a wrong answer: mend "
        "the cause and start again (only these are asked), or let some count as wrong with evaluate.max_error_rate"
    )


def _score(prompt: Prompt, answer: Answer, model: str) -> Prediction:
    assert prompt.expected_calls is not None
    assert prompt.test_set is not None
    completion = _completion(answer)
    found = score_text(
        completion.text,
        prompt.expected_calls,
        tools=prompt.tools,
        category=prompt.category,
        finish_reason=completion.finish_reason,
    )
    return Prediction(
        prompt_id=prompt.id,
        model=model,
        test_set=prompt.test_set,
        category=prompt.category,
        completion=completion,
        verdict=found.verdict,
        bfcl_error=found.bfcl_error,
        explanation=found.explanation if answer.error is None else answer.error,
    )


def _completion(answer: Answer) -> Completion:
    if answer.error is None:
        return answer.completions[0]
    num_prompt_tokens = len(answer.request.prompt_ids)
    return Completion(text="", finish_reason="error", num_prompt_tokens=num_prompt_tokens, num_completion_tokens=0)


def _verdicts(predictions: Sequence[Prediction]) -> JsonObject:
    """`model/test_set/category` -> verdict -> count."""
    cells: dict[str, list[Verdict]] = {}
    for row in predictions:
        cells.setdefault(f"{row.model}/{row.test_set}/{row.category}", []).append(row.verdict)
    return {cell: dict(count_verdicts(verdicts).items()) for cell, verdicts in cells.items()}
