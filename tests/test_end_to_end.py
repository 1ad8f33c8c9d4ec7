"""The whole path on the embedded models: killed or not it ends in the same artifacts, and it takes prompts that nobody here wrote."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from distill.embedded.customer import write_customer_files
from distill.run_dir import file_hash
from tests.bfcl_entertainment import DATA as BFCL_DATA
from tests.bfcl_entertainment import entertainment_records, write_entertainment_files

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

OUTPUTS = (
    "prompts/rows.jsonl", "annotate/rows.jsonl", "curate/rows.jsonl", "augment/rows.jsonl", "train/vanilla-seed0/adapter",
    "train/augmented-seed0/adapter", "train/augmented-seed0/merged", "train/augmented-seed0/metrics.jsonl", "evaluate/rows.jsonl",
)  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small part of the demo customer's files."""
    folder = tmp_path_factory.mktemp("customer")
    write_customer_files(folder / "all", seed=0)
    for name, count in (("train.jsonl", 40), ("same_tools.jsonl", 12), ("same_tools.answers.jsonl", 12)):
        lines = (folder / "all" / name).read_text().splitlines(keepends=True)
        (folder / name).write_text("".join(lines[:count]))
    return folder


def write_config(folder: Path, data: Path) -> Path:
    config = {
        "run": {"dir": str(folder / "run")},
        "prompts": {
            "train": [str(data / "train.jsonl")],
            "test": [
                {
                    "name": "same_tools",
                    "path": str(data / "same_tools.jsonl"),
                    "answers": str(data / "same_tools.answers.jsonl"),
                }
            ],
            "split": {"group_by": "request"},
        },
        "teacher": {"model": "embedded:teacher", "dtype": "float32", "batch_tokens": 2048},
        "annotate": {"max_new_tokens": 96},
        "student": {"model": "embedded:student"},
        "train": {
            "students": ["vanilla", "augmented"],
            "max_steps": 12,
            "checkpoint_every": 4,
            "validate_every": 6,
            "batch_size": 8,
        },
        "evaluate": {"max_new_tokens": 96, "dtype": "float32"},
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder / "config.yaml"


def start(config: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "distill.cli", "run", str(config)],
        stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "2"},
    )


def finish(config: Path) -> None:
    process = start(config)
    _, errors = process.communicate()
    assert process.returncode == 0, errors.decode()


def kill_when(config: Path, ready: Callable[[], bool]) -> None:
    """Start the run, kill -9 it as soon as `ready`."""
    process = start(config)
    while not ready():
        assert process.poll() is None, (process.stderr.read() if process.stderr else b"").decode()
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()


def num_lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def test_a_run_killed_in_annotate_and_in_train_ends_in_the_artifacts_of_an_uninterrupted_one(
    tmp_path: Path, data: Path
) -> None:
    whole, killed = write_config(tmp_path / "whole", data), write_config(tmp_path / "killed", data)
    finish(whole)
    run = tmp_path / "killed" / "run"
    kill_when(killed, lambda: num_lines(run / "annotate" / "requests.jsonl") > 5)
    answered = num_lines(run / "annotate" / "requests.jsonl")
    assert not (run / "annotate" / "manifest.json").exists()
    kill_when(killed, lambda: (run / "train" / "vanilla-seed0" / "checkpoint.safetensors").exists())
    assert (run / "annotate" / "manifest.json").exists()
    finish(killed)
    keys = [json.loads(line)["key"] for line in (run / "annotate" / "requests.jsonl").read_text().splitlines()]
    assert answered < len(keys) == len(set(keys)) == 40
    for output in OUTPUTS:
        assert file_hash(tmp_path / "whole" / "run" / output) == file_hash(run / output), output
    finish(killed)  # and once more: nothing left to do


@pytest.mark.skipif(not BFCL_DATA.exists(), reason="BFCL's data is not beside the repository")
def test_bfcl_entertainment_records_go_through_the_pipeline(tmp_path: Path) -> None:
    assert len(list(entertainment_records())) == 442
    count = write_entertainment_files(tmp_path, every=20)
    config: dict[str, Any] = yaml.safe_load(write_config(tmp_path, tmp_path).read_text())
    files = {"path": str(tmp_path / "prompts.jsonl"), "answers": str(tmp_path / "answers.jsonl")}
    write_entertainment_files(tmp_path / "train", every=23)
    config["prompts"] |= {
        "train": [str(tmp_path / "train" / "prompts.jsonl")],
        "test": [{"name": "bfcl", **files}],
        "max_prompt_tokens": 4096,
    }
    config["annotate"]["min_usable"] = 0.0  # what the nano teacher says of these tools is of little use
    config["evaluate"]["models"] = ["base", "teacher"]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    for stage in ("prompts", "annotate", "curate", "evaluate"):
        subprocess.run([sys.executable, "-m", "distill.cli", stage, str(tmp_path / "config.yaml")], check=True)
    prompts = json.loads((tmp_path / "run" / "prompts" / "manifest.json").read_text())["counts"]
    assert prompts["rows"] + prompts["rejects"] == count + 20
    verdicts = json.loads((tmp_path / "run" / "evaluate" / "manifest.json").read_text())["counts"]["verdicts"]
    tested = sum(value for key, value in prompts.items() if key.startswith("test/"))
    for model in ("base", "teacher"):
        assert sum(sum(counts.values()) for cell, counts in verdicts.items() if cell.startswith(f"{model}/")) == tested
