"""The embedded teacher annotates alike in this process and behind a real vLLM server, through the same stage."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from random import Random
from typing import Any

import pytest

from distill.config import load_config, model_path
from distill.embedded.conventions import TARGET, reply_text
from distill.embedded.corpus import draw_invented_conversation
from distill.embedded.customer import bedrock_record, customer_prompts, write_customer_files
from distill.engines.requests import Asking
from distill.engines.transformers_engine import open_transformers
from distill.instructions.jobs import JOBS, instruction, split_request_and_calls
from distill.records import Annotation, AnnotationLogprobs, Completion, JsonObject, Message
from distill.run_dir import read_rows
from distill.sources.bedrock_jsonl import SCHEMA_VERSION
from distill.stages.annotate import run_annotate
from distill.stages.prompts import run_prompts
from tests.vllm_server import StartVllm, VllmServer

CONFIG = """
run: {{dir: {folder}/run}}
prompts: {{train: [{folder}/train.jsonl], split: {{group_by: request}}}}
teacher: {{model: embedded:teacher, dtype: float32}}
annotate: {{max_new_tokens: 96, min_usable: 0}}
student: {{model: embedded:student}}
train: {{max_steps: 1}}
"""
NUM_PROMPTS = 220
NEAR_TIE = 0.25  # nats: two steps of bfloat16 between 8 and 16, where the largest logits lie


@pytest.fixture
def config_path(tmp_path: Path) -> Path:
    write_customer_files(tmp_path / "all", seed=0)
    lines = (tmp_path / "all" / "train.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "train.jsonl").write_text("".join(lines[:NUM_PROMPTS]))
    (tmp_path / "config.yaml").write_text(CONFIG.format(folder=tmp_path))
    return tmp_path / "config.yaml"


def annotate_both(config_path: Path, server: VllmServer, *overrides: str) -> tuple[Path, Path]:
    """The stage's folder of a run in this process, and of one through the server."""
    settings = [
        "teacher.engine=server",
        f"teacher.base_url={server.base_url}",
        f"teacher.model={server.model}",
        "teacher.tokenizer=embedded:teacher",
        f"run.dir={config_path.parent / 'server'}",
    ]
    configs = (load_config(config_path, overrides), load_config(config_path, [*overrides, *settings]))
    for config in configs:
        run_prompts(Path(config.run.dir), config, redo=False)
        run_annotate(Path(config.run.dir), config, redo=False)
    here, there = (Path(config.run.dir) / "annotate" for config in configs)
    return here, there


def record_of(system: str, user: str) -> JsonObject:
    return {
        "schemaVersion": SCHEMA_VERSION,
        "system": [{"text": system}],
        "messages": [{"role": "user", "content": [{"text": user}]}],
    }


def write_records(path: Path, records: Sequence[JsonObject]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def completions(folder: Path) -> list[Completion]:
    return [row.completion for row in read_rows(folder / "rows.jsonl", Annotation)]


@pytest.mark.slow
@pytest.mark.vllm
def test_annotations_in_process_and_from_vllm_are_equal_at_temperature_zero(
    config_path: Path, start_vllm: StartVllm
) -> None:
    server = start_vllm(Path(model_path("embedded:teacher")), "--dtype", "float32", "--enforce-eager")
    here, there = annotate_both(config_path, server)
    assert len(completions(here)) >= NUM_PROMPTS - 5
    assert completions(here) == completions(there)


@pytest.mark.slow
@pytest.mark.vllm
def test_in_bfloat16_they_differ_at_near_ties_alone(config_path: Path, start_vllm: StartVllm) -> None:
    """On prompts of the kind that the teacher was trained on: where it is at a loss, near ties are many (docs/experiments.md)."""
    server = start_vllm(Path(model_path("embedded:teacher")), "--dtype", "bfloat16", "--enforce-eager")
    drawn = [draw_invented_conversation(1, Random(number)) for number in range(NUM_PROMPTS)]
    write_records(
        config_path.parent / "train.jsonl",
        [record_of(one.system.content, one.exchanges[0][0].content) for one in drawn],
    )
    here, there = annotate_both(config_path, server, "teacher.dtype=bfloat16", "annotate.num_logprobs=5")
    texts = [[completion.text for completion in completions(folder)] for folder in (here, there)]
    told = [list(read_rows(folder / "logprobs.jsonl", AnnotationLogprobs)) for folder in (here, there)]
    different = [pair for pair in zip(*told, strict=True) if pair[0].logprobs.token_ids != pair[1].logprobs.token_ids]
    equal = sum(one == other for one, other in zip(*texts, strict=True))
    chosen = sum(len(row.logprobs.token_ids) for row in told[0])
    for pair in different:
        for one, other in (pair, pair[::-1]):
            ids, others = one.logprobs.token_ids, other.logprobs.token_ids
            place = next(index for index in range(len(ids)) if ids[index] != others[index])
            values = dict(zip(one.logprobs.top_ids[place], one.logprobs.top_logprobs[place], strict=True))
            assert values[ids[place]] - values[others[place]] <= NEAR_TIE, (one.prompt_id, place)
    # 216 of 220 answers were equal: the nano teacher has one near tie in 2,000 tokens, and the two round at different places.
    assert equal >= 0.97 * len(texts[0]), f"{len(texts[0]) - equal} of {len(texts[0])} differ, all at near ties"
    assert len(different) <= 0.001 * chosen, f"{len(different)} of {chosen} tokens"


@pytest.mark.slow
@pytest.mark.vllm
def test_vllm_scores_in_bfloat16_as_transformers_does(config_path: Path, start_vllm: StartVllm) -> None:
    server = start_vllm(Path(model_path("embedded:teacher")), "--dtype", "bfloat16", "--enforce-eager")
    records = []
    for prompt in customer_prompts("same_tools", 20, Random(0)):
        record: Any = bedrock_record(prompt)
        reply = reply_text(prompt.request.calls, TARGET)
        record["messages"].append({"role": "assistant", "content": [{"text": reply}]})
        records.append(record)
    write_records(config_path.parent / "train.jsonl", records)
    here, there = annotate_both(
        config_path, server, "teacher.dtype=bfloat16", "annotate.mode=score", "annotate.num_logprobs=3"
    )
    told = [list(read_rows(folder / "logprobs.jsonl", AnnotationLogprobs)) for folder in (here, there)]
    assert len(told[0]) >= 38
    gaps = []
    for one, other in zip(*told, strict=True):
        assert (one.prompt_hash, one.tokens_hash) == (other.prompt_hash, other.tokens_hash)
        for place, token in enumerate(one.logprobs.token_ids):
            first, second = (
                dict(zip(row.logprobs.top_ids[place], row.logprobs.top_logprobs[place], strict=True))[token]
                for row in (one, other)
            )
            gaps.append(abs(first - second))
    assert sum(gaps) / len(gaps) < 1e-2, f"mean {sum(gaps) / len(gaps):.4f}, largest {max(gaps):.4f}"


@pytest.mark.slow
def test_the_embedded_teacher_does_its_other_jobs_in_the_asked_form() -> None:
    director = {"type": "string", "description": "Director of the film"}
    parameters = {"type": "dict", "properties": {"director": director}, "required": ["director"]}
    tools = json.dumps([{"name": "find_films", "description": "Find films.", "parameters": parameters}])
    request = "Please find films directed by Nora Lund."
    user = {
        "new_request": "Write a new request.",
        "paraphrase": request,
        "judge": f'Request: {request}\nCalls: [find_films(director="Nora Lund")]',
    }
    engine = open_transformers("embedded:teacher", dtype="float32", batch_tokens=4096)
    asking = Asking(model=engine.model, tokenizer=engine.tokenizer, run_seed=0, max_new_tokens=96)
    requests = [
        asking.request(
            job, [Message("system", instruction(job, "compact", tools_text=tools)), Message("user", user[job])]
        )
        for job in JOBS
    ]
    replies = {
        answer.request.prompt_id: answer.completions[0].text
        for answer in chain.from_iterable(engine.complete(requests))
    }
    written = split_request_and_calls(replies["new_request"])
    assert written is not None and "find_films(" in written[1]
    assert "Nora Lund" in replies["paraphrase"]
    assert replies["judge"] in ("yes", "no")
