"""Stage `annotate`: training and validation prompts in, the teacher's completions out; nothing answered is ever asked again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from distill.config import Config, model_path
from distill.engines.choose import open_teacher, teacher_tokenizer
from distill.engines.protocol import Answer, Engine, Request
from distill.engines.request_log import complete_durably
from distill.engines.requests import make_request
from distill.engines.tokenizer import load_tokenizer
from distill.engines.transformers_engine import fingerprint
from distill.records import Annotation, Completion, DataError, JsonValue, Prompt, Reject
from distill.run_dir import Progress, finish_stage, read_rows, stage_hash, start_stage, write_stage_rows


def run_annotate(run: Path, config: Config, *, redo: bool) -> None:
    """Ask the teacher about every prompt that may be learned from or chosen by and whose answer is in no log. Test prompts are not read."""
    if not start_stage(run, "annotate", _inputs(run, config), redo=redo):
        return
    learned_from = [prompt for prompt in read_rows(run / "prompts" / "rows.jsonl", Prompt) if prompt.split != "test"]
    annotations: list[Annotation] = []
    prompts: list[Prompt] = []
    for prompt in learned_from:
        logged = _logged(prompt)
        if logged is None:
            prompts.append(prompt)
        else:
            annotations.append(logged)
    num_logged = len(annotations)
    asked, rejects = _ask_teacher(run, prompts, config) if prompts else ([], [])
    annotations += asked
    _check_error_rate(rejects, len(prompts), config)
    num_rows, num_rejects = write_stage_rows(run, "annotate", annotations, rejects)
    counts: dict[str, JsonValue] = {
        "prompts": len(prompts),
        "logged": num_logged,
        "rows": num_rows,
        "rejects": num_rejects,
        "prompt_tokens": sum(row.completion.num_prompt_tokens for row in annotations if row.sample_index == 0),
        "completion_tokens": sum(row.completion.num_completion_tokens for row in annotations),
    }
    finish_stage(run, "annotate", counts=counts, files=["rows.jsonl", "rejects.jsonl"])


def _logged(prompt: Prompt) -> Annotation | None:
    """The answer that a log holds of the prompt, if one does: the teacher is not asked. No tokens were paid for here, so it has none."""
    given = prompt.given_reply
    if given is None or given.model is None:
        return None
    completion = Completion(text=given.text, finish_reason="stop", num_prompt_tokens=0, num_completion_tokens=0)
    return Annotation(prompt.id, 0, completion, model=given.model, sampling_temperature=0.0, seed=0)


def _ask_teacher(run: Path, prompts: Sequence[Prompt], config: Config) -> tuple[list[Annotation], list[Reject]]:
    engine = open_teacher(config.teacher)
    try:
        requests = _requests(prompts, engine, config)
        answers = _ask(run, engine, requests)
    finally:
        engine.close()
    annotations: list[Annotation] = []
    rejects: list[Reject] = []
    for prompt, request in zip(prompts, requests, strict=True):
        answer = answers[request.key]
        if answer.error is not None:
            rejects.append(Reject(id=prompt.id, reason="teacher_error", detail=answer.error, source=prompt.source))
        annotations += _annotations(prompt, answer, engine.model)
    return annotations, rejects


def _inputs(run: Path, config: Config) -> dict[str, JsonValue]:
    return {
        "prompts": stage_hash(run, "prompts"),
        "run.seed": config.run.seed,
        "teacher.model": config.teacher.model,
        "teacher.weights": fingerprint(model_path(config.teacher.model))
        if config.teacher.engine == "transformers"
        else None,
        "teacher.engine": config.teacher.engine,
        "teacher.dtype": config.teacher.dtype if config.teacher.engine == "transformers" else None,
        "annotate.num_samples": config.annotate.num_samples,
        "annotate.sampling_temperature": config.annotate.sampling_temperature,
        "annotate.max_new_tokens": config.annotate.max_new_tokens,
    }


def _requests(prompts: Sequence[Prompt], engine: Engine, config: Config) -> list[Request]:
    tokenizer = load_tokenizer(teacher_tokenizer(config.teacher))
    return [
        make_request(
            prompt.id,
            prompt.messages,
            tokenizer,
            model=engine.model,
            num_samples=config.annotate.num_samples,
            sampling_temperature=config.annotate.sampling_temperature,
            max_new_tokens=config.annotate.max_new_tokens,
            run_seed=config.run.seed,
        )
        for prompt in prompts
    ]


def _ask(run: Path, engine: Engine, requests: Sequence[Request]) -> dict[str, Answer]:
    with Progress(run, "annotate", total=len(requests), unit="prompts") as progress:
        return complete_durably(engine, requests, run / "annotate" / "requests.jsonl", lambda _: progress.advance())


def _annotations(prompt: Prompt, answer: Answer, model: str) -> list[Annotation]:
    return [
        Annotation(
            prompt_id=prompt.id,
            sample_index=index,
            completion=completion,
            model=model,
            sampling_temperature=answer.request.sampling_temperature,
            seed=answer.request.seed + index,
        )
        for index, completion in enumerate(answer.completions)
    ]


def _check_error_rate(rejects: Sequence[Reject], num_prompts: int, config: Config) -> None:
    if len(rejects) <= config.annotate.max_error_rate * num_prompts:
        return
    reasons = "; ".join(
        f"{count} x {detail}" for detail, count in Counter(reject.detail for reject in rejects).most_common(3)
    )
    message = (
        f"the teacher failed on {len(rejects)} of {num_prompts} prompts, more than annotate.max_error_rate allows: {reasons}. "
        "What it did answer is kept; mend the cause and start again"
    )
    raise DataError(message)
