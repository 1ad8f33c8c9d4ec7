"""Whatever happens to the process, every prompt is answered exactly once and the rows are those of an uninterrupted run."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from transformers import LlamaForCausalLM

from distill.config import ConfigError, load_config
from distill.records import Annotation, DataError, Message, Prompt, Reject, Source, content_id
from distill.run_dir import finish_stage, read_json, read_rows, start_stage, write_stage_rows
from distill.stages.annotate import run_annotate
from tests.customer_world import config_values, customer_prompts

ROOT = Path(__file__).parents[2]
NUM_PROMPTS = 40
OUTPUTS = ("rows.jsonl", "rejects.jsonl", "manifest.json")


def make_prompt(text: str, *, split: Any = "train") -> Prompt:
    return Prompt(
        id=content_id(text), messages=(Message("user", text),), tools=(), tools_span=None, category="simple", group="g", split=split,
        test_set="mine" if split == "test" else None, expected_calls=None, source=Source("train.jsonl", 1),
    )  # fmt: skip


PROMPTS = [
    make_prompt(prompt.request.text, split="validation" if index % 5 == 0 else "train")
    for index, prompt in enumerate(customer_prompts(NUM_PROMPTS, seed=5))
]
TESTED = make_prompt("Nobody may ask the teacher this.", split="test")


def prepare(folder: Path, model: Path, prompts: list[Prompt], **sections: Any) -> Path:
    """A run whose `prompts` stage is done, and its configuration's path."""
    run, path = folder / "run", folder / "config.yaml"
    start_stage(run, "prompts", {}, redo=False)
    write_stage_rows(run, "prompts", prompts, [])
    finish_stage(run, "prompts", counts={}, files=["rows.jsonl", "rejects.jsonl"])
    # Some 60 tokens each: few rows in a batch, so that a kill finds some answered and some not.
    values = config_values(folder, str(model), train=[Path("unused")], **{"teacher": {"batch_tokens": 256}, **sections})
    path.write_text(yaml.safe_dump(values))
    return path


def annotate(config: Path, *overrides: str) -> Path:
    loaded = load_config(config, overrides)
    run_annotate(Path(loaded.run.dir), loaded, redo=False)
    return Path(loaded.run.dir) / "annotate"


def logged(folder: Path) -> list[Any]:
    return [json.loads(line) for line in (folder / "requests.jsonl").read_bytes().split(b"\n") if line]


@pytest.fixture(scope="module")
def uninterrupted(llama_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return annotate(prepare(tmp_path_factory.mktemp("uninterrupted"), llama_folder, [*PROMPTS, TESTED]))


@pytest.fixture
def finished(uninterrupted: Path, tmp_path: Path) -> Path:
    """A copy of the uninterrupted run to spoil; returns its configuration's path."""
    shutil.copytree(uninterrupted.parents[1], tmp_path / "copy")
    path = tmp_path / "copy" / "config.yaml"
    values = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump({**values, "run": {"dir": str(tmp_path / "copy" / "run")}}))
    return path


def test_every_prompt_to_learn_from_is_asked_once(uninterrupted: Path) -> None:
    rows = list(read_rows(uninterrupted / "rows.jsonl", Annotation))
    assert [row.prompt_id for row in rows] == [prompt.id for prompt in PROMPTS]
    entries = logged(uninterrupted)
    assert sorted(entry["prompt_id"] for entry in entries) == sorted(prompt.id for prompt in PROMPTS)
    assert len({entry["key"] for entry in entries}) == NUM_PROMPTS
    assert {row.completion.finish_reason for row in rows} <= {"stop", "length"}
    counts: Any = read_json(uninterrupted / "manifest.json")["counts"]
    assert (counts["prompts"], counts["rows"], counts["rejects"]) == (NUM_PROMPTS, NUM_PROMPTS, 0)
    assert counts["completion_tokens"] == sum(row.completion.num_completion_tokens for row in rows)


def test_a_kill_costs_nothing_but_time(uninterrupted: Path, llama_folder: Path, tmp_path: Path) -> None:
    config = prepare(tmp_path, llama_folder, [*PROMPTS, TESTED])
    log = tmp_path / "run" / "annotate" / "requests.jsonl"
    process = subprocess.Popen(
        [sys.executable, "-m", "distill.cli", "annotate", str(config)],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    deadline = time.monotonic() + 200
    while not (log.exists() and log.read_bytes().count(b"\n") >= 3):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[1]
        time.sleep(0.002)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    before = log.read_bytes()
    answered = before.count(b"\n")
    assert 3 <= answered < NUM_PROMPTS, "killed in the middle"
    assert not (log.parent / "manifest.json").exists() and not (log.parent / "rows.jsonl").exists()
    assert read_json(tmp_path / "run" / "status.json")["stages"]["annotate"]["state"] == "InProgress"  # type: ignore[index,call-overload]  # JSON
    folder = annotate(config)
    assert log.read_bytes().startswith(before[: before.rfind(b"\n") + 1]), "what was answered stays"
    entries = logged(folder)
    assert sorted(entry["prompt_id"] for entry in entries) == sorted(prompt.id for prompt in PROMPTS)
    for name in OUTPUTS:
        assert (folder / name).read_bytes() == (uninterrupted / name).read_bytes(), name


@pytest.mark.parametrize("cut", [1, 40])
def test_a_torn_last_line_is_asked_again_and_no_other(cut: int, uninterrupted: Path, finished: Path) -> None:
    folder = finished.parent / "run" / "annotate"
    log = folder / "requests.jsonl"
    whole = log.read_bytes()
    log.write_bytes(whole[:-cut])
    (folder / "manifest.json").unlink()
    (folder / "rows.jsonl").unlink()
    last = logged(uninterrupted)[-1]["prompt_id"]
    annotate(finished)
    assert log.read_bytes() == whole, f"only {last} is missing, and greedy answers are the same again"
    for name in OUTPUTS:
        assert (folder / name).read_bytes() == (uninterrupted / name).read_bytes(), name


def test_a_line_broken_in_the_middle_is_named(finished: Path) -> None:
    folder = finished.parent / "run" / "annotate"
    log = folder / "requests.jsonl"
    lines = log.read_bytes().split(b"\n")
    log.write_bytes(b"\n".join([lines[0], lines[1][:-3], *lines[2:]]))
    (folder / "manifest.json").unlink()
    with pytest.raises(DataError, match=f"{log}:2: not a logged answer"):
        annotate(finished)


def test_redo_asks_nothing_that_was_answered(uninterrupted: Path, finished: Path) -> None:
    loaded = load_config(finished)
    log = Path(loaded.run.dir) / "annotate" / "requests.jsonl"
    before = log.stat().st_mtime_ns
    run_annotate(Path(loaded.run.dir), loaded, redo=True)
    assert log.stat().st_mtime_ns == before
    assert (log.parent / "rows.jsonl").read_bytes() == (uninterrupted / "rows.jsonl").read_bytes()


def test_another_teacher_under_the_same_name_is_noticed(llama_folder: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(llama_folder, model)
    config = prepare(tmp_path, model, PROMPTS[:2])
    annotate(config)
    annotate(config)
    network = LlamaForCausalLM.from_pretrained(model)
    network.lm_head.weight.data[0, 0] += 1
    network.save_pretrained(model)
    with pytest.raises(ConfigError, match=r"teacher\.weights: was"):
        annotate(config)


def test_a_prompt_without_an_answer_is_a_reject_and_too_many_stop_the_stage(llama_folder: Path, tmp_path: Path) -> None:
    prompts = [*PROMPTS[:9], make_prompt("so long " * 1500)]
    config = prepare(tmp_path, llama_folder, prompts, annotate={"max_new_tokens": 8, "max_error_rate": 0.05})
    with pytest.raises(
        DataError, match=r"the teacher failed on 1 of 10 prompts, .*max_error_rate allows: 1 x needs \d+ tokens"
    ):
        annotate(config)
    folder = tmp_path / "run" / "annotate"
    assert {item.name for item in folder.iterdir()} == {"inputs.json", "requests.jsonl", "usage.json"}
    paid = (folder / "requests.jsonl").read_bytes()
    annotate(config, "annotate.max_error_rate=0.1")
    assert (folder / "requests.jsonl").read_bytes() == paid
    rejects = list(read_rows(folder / "rejects.jsonl", Reject))
    assert [(reject.id, reject.reason, reject.source) for reject in rejects] == [
        (prompts[-1].id, "teacher_error", prompts[-1].source)
    ]
    assert len(list(read_rows(folder / "rows.jsonl", Annotation))) + len(rejects) == len(prompts)


def test_samples_of_a_prompt_differ_and_say_how_they_were_drawn(llama_folder: Path, tmp_path: Path) -> None:
    sampled = {"num_samples": 3, "sampling_temperature": 1.5, "max_new_tokens": 8}
    folder = annotate(prepare(tmp_path, llama_folder, PROMPTS[:4], annotate=sampled))
    rows = list(read_rows(folder / "rows.jsonl", Annotation))
    assert [(row.prompt_id, row.sample_index) for row in rows] == [
        (prompt.id, index) for prompt in PROMPTS[:4] for index in range(3)
    ]
    assert all(row.seed - row.sample_index == rows[3 * (number // 3)].seed for number, row in enumerate(rows))
    assert len({row.completion.text for row in rows}) == len(rows)
    assert {(row.model.split("@")[0], row.sampling_temperature) for row in rows} == {(str(llama_folder), 1.5)}
