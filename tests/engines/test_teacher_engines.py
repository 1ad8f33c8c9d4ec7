"""The embedded teacher annotates alike in this process and behind a real vLLM server, through the same stage."""

from __future__ import annotations

import json
from itertools import chain
from pathlib import Path

import pytest

from distill.config import load_config, model_path
from distill.embedded.customer import write_customer_files
from distill.engines.requests import Asking
from distill.engines.transformers_engine import open_transformers
from distill.instructions.jobs import JOBS, instruction, split_request_and_calls
from distill.records import Annotation, Message
from distill.run_dir import read_rows
from distill.stages.annotate import run_annotate
from distill.stages.prompts import run_prompts
from tests.vllm_server import StartVllm

CONFIG = """
run: {{dir: {folder}/run}}
prompts: {{train: [{folder}/train.jsonl], split: {{group_by: request}}}}
teacher: {{model: embedded:teacher, dtype: float32}}
annotate: {{max_new_tokens: 96}}
student: {{model: embedded:student}}
train: {{max_steps: 1}}
"""


@pytest.fixture
def config_path(tmp_path: Path) -> Path:
    write_customer_files(tmp_path / "all", seed=0)
    lines = (tmp_path / "all" / "train.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "train.jsonl").write_text("".join(lines[:60]))
    (tmp_path / "config.yaml").write_text(CONFIG.format(folder=tmp_path))
    return tmp_path / "config.yaml"


@pytest.mark.slow
@pytest.mark.vllm
def test_annotations_in_process_and_from_vllm_are_equal_at_temperature_zero(
    config_path: Path, tmp_path: Path, start_vllm: StartVllm
) -> None:
    server = start_vllm(Path(model_path("embedded:teacher")), "--dtype", "float32", "--enforce-eager")
    here = load_config(config_path)
    settings = [
        "teacher.engine=server",
        f"teacher.base_url={server.base_url}",
        f"teacher.model={server.model}",
        "teacher.tokenizer=embedded:teacher",
    ]
    there = load_config(config_path, [*settings, f"run.dir={tmp_path / 'server'}"])
    for config in (here, there):
        run_prompts(Path(config.run.dir), config, redo=False)
        run_annotate(Path(config.run.dir), config, redo=False)
    rows = [list(read_rows(Path(config.run.dir) / "annotate" / "rows.jsonl", Annotation)) for config in (here, there)]
    assert len(rows[0]) == 60
    assert [row.completion for row in rows[0]] == [row.completion for row in rows[1]]


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
