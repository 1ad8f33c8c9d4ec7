"""Training as it is really started and really killed: `scripts/train.py` in processes of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import launch_command_parser
from safetensors.torch import load_file

from distill.run_dir import file_hash, read_json
from distill.training.checkpoint import steps_done
from distill.training.loop import CHECKPOINT, METRICS

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = str(ROOT / "scripts" / "train.py")
STUDENT = Path("train") / "augmented-seed0"
LAUNCH = [sys.executable, "-m", "accelerate.commands.launch"]
MakeRun = Callable[..., Path]


def _environment() -> dict[str, str]:
    return {
        **os.environ,
        "ACCELERATE_USE_CPU": "true",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
        "HF_HUB_OFFLINE": "1",
    }


def _run(command: list[str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*command, *arguments], env=_environment(), cwd=ROOT, capture_output=True, text=True, timeout=280, check=False
    )


def _losses(run: Path) -> list[tuple[int, float, float | None]]:
    lines = [json.loads(line) for line in (run / STUDENT / METRICS).read_text().splitlines()]
    return [(line["step"], line["loss"], line["validation_loss"]) for line in lines]


@pytest.mark.slow
def test_two_processes_train_what_one_trains(make_run: MakeRun) -> None:
    """A batch of five is dealt unevenly, and with so small micro-batches one process has fewer of them than the other."""
    one, two = (make_run(name, max_steps=5, batch_size=5, micro_batch_tokens=512) for name in ("one", "two"))
    alone = _run([sys.executable, SCRIPT], str(one))
    assert alone.returncode == 0, alone.stderr
    launched = _run([*LAUNCH, "--multi_gpu", "--num_processes", "2", "--main_process_port", "0", SCRIPT], str(two))
    assert launched.returncode == 0, launched.stderr
    runs = [one.with_suffix(""), two.with_suffix("")]
    for (step, loss, validation), (other_step, other_loss, other_validation) in zip(*map(_losses, runs), strict=True):
        assert step == other_step
        assert other_loss == pytest.approx(loss, abs=1e-5)
        assert other_validation == pytest.approx(validation, abs=1e-5)
    first, second = (load_file(run / STUDENT / "adapter" / "adapter_model.safetensors") for run in runs)
    assert first.keys() == second.keys()
    for name, weight in first.items():
        torch.testing.assert_close(second[name], weight, rtol=0, atol=1e-5)
    for run in runs:
        assert read_json(run / "train" / "manifest.json")["counts"] == {
            "rows": 27, "rejects": 0, "augmented/train": 23, "augmented/validation": 4,
        }  # fmt: skip


@pytest.mark.slow
def test_a_killed_run_started_again_ends_like_an_uninterrupted_one(make_run: MakeRun) -> None:
    whole, killed = (make_run(name, max_steps=60, checkpoint_every=7, lora_dropout=0.1) for name in ("whole", "killed"))
    checkpoint = killed.with_suffix("") / STUDENT / CHECKPOINT
    metrics = killed.with_suffix("") / STUDENT / METRICS
    process = subprocess.Popen([sys.executable, SCRIPT, str(killed)], env=_environment(), stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if checkpoint.exists() and len(metrics.read_bytes().splitlines()) > 16:
            break
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert 0 < steps_done(checkpoint) < 60
    assert not (killed.with_suffix("") / STUDENT / "manifest.json").exists()
    for path in (killed, whole):
        done = _run([sys.executable, SCRIPT], str(path))
        assert done.returncode == 0, done.stderr
    assert file_hash(killed.with_suffix("") / "train") == file_hash(whole.with_suffix("") / "train")
    assert [step for step, *_ in _losses(killed.with_suffix(""))] == list(range(1, 61))


@pytest.mark.slow
@pytest.mark.parametrize(
    "command", [[sys.executable], [*LAUNCH, "--multi_gpu", "--num_processes", "2", "--main_process_port", "0"]]
)
def test_bad_input_is_one_message_and_leaves_nothing(make_run: MakeRun, command: list[str]) -> None:
    path = make_run()
    (path.with_suffix("") / "augment" / "manifest.json").unlink()
    failed = _run([*command, SCRIPT], str(path))
    message = "stage `augment` is not finished"
    assert failed.stderr.count(message) == failed.stderr.count("error: ") == 1
    assert not (path.with_suffix("") / "train").exists()
    if len(command) == 1:  # a launcher reports a child's exit code in words of its own and returns 1
        assert failed.returncode == 2
        assert "Traceback" not in failed.stderr
    else:
        assert failed.returncode != 0


@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "accelerate").glob("*.yaml")), ids=lambda path: path.stem)
def test_accelerate_loads_its_configurations(path: Path) -> None:
    """accelerate itself refuses unknown top-level keys; inside `fsdp_config` it does not, so these are compared with its own options."""
    config = load_config_from_file(str(path))
    assert config.mixed_precision == "no"  # precision is train.dtype's
    assert config.num_processes == {"cpu_2": 2, "gpu_1": 1, "ddp": 8}[path.stem]
    options = set(vars(launch_command_parser().parse_args(["script.py"])))
    assert set(yaml.safe_load(path.read_text()).get("fsdp_config", {})) <= options
