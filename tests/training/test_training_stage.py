"""The stage as it is called: students on disk, skipped when done, refused when they cannot be trained."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from distill.config import Config, ConfigError, load_config
from distill.records import DataError, Example, Message, Reject
from distill.run_dir import file_hash, read_json, read_rows
from distill.stages.train import run_train
from distill.training.loop import CHECKPOINT, METRICS

MakeRun = Callable[..., Path]


def _loaded(path: Path, *overrides: str) -> tuple[Path, Config]:
    config = load_config(path, overrides)
    return Path(config.run.dir), config


def test_every_student_and_seed_is_trained_saved_and_then_skipped(make_run: MakeRun) -> None:
    run, config = _loaded(make_run(students=["vanilla", "augmented"], seeds=[0, 3], max_steps=3, dtype="bfloat16"))
    run_train(run, config, redo=False)
    names = {f"{kind}-seed{seed}" for kind in ("vanilla", "augmented") for seed in (0, 3)}
    assert {path.name for path in (run / "train").iterdir() if path.is_dir()} == names
    for name in names:
        assert sorted(path.name for path in (run / "train" / name).iterdir()) == [
            "adapter",
            "manifest.json",
            "merged",
            METRICS,
        ]
        assert len((run / "train" / name / METRICS).read_text().splitlines()) == 3
    counts = read_json(run / "train" / "manifest.json")["counts"]
    assert counts == {
        "rows": 12 + 4 + 23 + 4, "rejects": 0,
        "vanilla/train": 12, "vanilla/validation": 4, "augmented/train": 23, "augmented/validation": 4,
    }  # fmt: skip
    adapters = {name: load_file(run / "train" / name / "adapter" / "adapter_model.safetensors") for name in names}
    for name in names - {"vanilla-seed0"}:
        assert any(not torch.equal(adapters["vanilla-seed0"][key], value) for key, value in adapters[name].items())
    before = file_hash(run / "train")
    run_train(run, config, redo=False)
    assert file_hash(run / "train") == before
    run_train(run, config, redo=True)
    assert file_hash(run / "train") == before


def test_a_finished_student_is_not_trained_again(make_run: MakeRun) -> None:
    run, config = _loaded(make_run(seeds=[0, 1], max_steps=2))
    run_train(run, config, redo=False)
    weights = run / "train" / "augmented-seed0" / "merged" / "model.safetensors"
    changed = weights.stat().st_mtime_ns
    expected = file_hash(run / "train")
    (run / "train" / "manifest.json").unlink()  # as if killed while the second was being trained
    (run / "train" / "augmented-seed1" / "manifest.json").unlink()
    (run / "train" / "augmented-seed0" / CHECKPOINT).write_text("left by a kill")
    run_train(run, config, redo=False)
    assert weights.stat().st_mtime_ns == changed
    assert file_hash(run / "train") == expected


def test_epochs_are_counted_in_examples(make_run: MakeRun) -> None:
    run, config = _loaded(make_run(max_steps=None, num_epochs=1.5))
    run_train(run, config, redo=False)
    assert read_json(run / "train" / "augmented-seed0" / "manifest.json")["counts"]["steps"] == -(-23 * 3 // 2 // 6)  # type: ignore[index,call-overload]  # an object


def test_rows_in_are_rows_out_and_rejects(make_run: MakeRun, examples: list[Example]) -> None:
    long = replace(examples[0], id="long", messages=(Message(role="user", content="seats " * 600),))
    weightless = replace(examples[1], id="weightless", weight=0.0)
    run, config = _loaded(make_run(training=[long, weightless, *examples[2:9]], max_steps=1))
    run_train(run, config, redo=False)
    rejects = list(read_rows(run / "train" / "rejects.jsonl", Reject))
    assert [(reject.id, reject.reason) for reject in rejects] == [
        ("long", "too_long"),
        ("weightless", "nothing_to_train"),
    ]
    counts = read_json(run / "train" / "augmented-seed0" / "manifest.json")["counts"]
    assert counts == {"train": 7, "validation": 4, "rejects": {"too_long": 1, "nothing_to_train": 1}, "steps": 1}
    assert read_json(run / "train" / "manifest.json")["counts"] == {
        "rows": 11, "rejects": 2, "augmented/train": 7, "augmented/validation": 4,
    }  # fmt: skip


def test_no_example_at_all_is_refused(make_run: MakeRun) -> None:
    run, config = _loaded(make_run(max_length=10))
    with pytest.raises(DataError, match=r"none of 23 examples can be trained on \{'too_long': 23\}"):
        run_train(run, config, redo=False)


def test_a_foreign_tokenizer_is_refused_before_anything_is_written(
    make_run: MakeRun, student_folder: Path, tmp_path: Path
) -> None:
    words = Tokenizer(models.WordLevel({"<unk>": 0, "Heat": 1}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    foreign = tmp_path / "foreign"
    AutoModelForCausalLM.from_pretrained(student_folder).save_pretrained(foreign)
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>").save_pretrained(foreign)
    run, config = _loaded(make_run(), f"student.model={foreign}")
    with pytest.raises(ConfigError, match=r"the tokenizer lacks <\|begin_of_text\|>"):
        run_train(run, config, redo=False)
    assert not (run / "train").exists()


def test_a_missing_stage_or_student_is_refused_before_anything_is_written(make_run: MakeRun, tmp_path: Path) -> None:
    run, config = _loaded(make_run(), "run.dir=" + str(tmp_path / "empty"))
    with pytest.raises(ConfigError, match="stage `curate` is not finished"):
        run_train(run, config, redo=False)
    assert not run.exists()
    run, config = _loaded(make_run(), f"student.model={tmp_path / 'nothing'}")
    with pytest.raises(ConfigError, match="cannot load its tokenizer"):
        run_train(run, config, redo=False)
    assert not (run / "train").exists()


def test_other_settings_stop_but_a_checkpoint_interval_does_not(make_run: MakeRun) -> None:
    run, config = _loaded(make_run(max_steps=2))
    run_train(run, config, redo=False)
    _, other = _loaded(make_run(max_steps=2), "train.learning_rate=0.5")
    with pytest.raises(ConfigError, match=r"train\.learning_rate: was 0\.003, now 0\.5"):
        run_train(run, other, redo=False)
    _, same = _loaded(make_run(max_steps=2), "train.checkpoint_every=1")
    run_train(run, same, redo=False)


def test_processes_that_cannot_reach_each_other_are_refused(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a GPU and without ACCELERATE_USE_CPU each of two processes would take itself for the only one."""
    if torch.cuda.is_available():
        pytest.skip("there is a GPU to train on")
    monkeypatch.delenv("ACCELERATE_USE_CPU")
    monkeypatch.setenv("WORLD_SIZE", "2")
    AcceleratorState._reset_state(reset_partial_state=True)
    run, config = _loaded(make_run())
    with pytest.raises(ConfigError, match="ACCELERATE_USE_CPU=true"):
        run_train(run, config, redo=False)
    assert not (run / "train").exists()


def test_metrics_say_what_was_trained(make_run: MakeRun) -> None:
    run, config = _loaded(make_run(max_steps=6))
    run_train(run, config, redo=False)
    lines = [json.loads(line) for line in (run / "train" / "augmented-seed0" / METRICS).read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 7))
    assert [line["step"] for line in lines if line["validation_loss"] is not None] == [5, 6]
    for line in lines:
        assert line["num_examples"] == 6
        assert 0 < line["num_trained_tokens"] < line["num_tokens"]
        assert line["learning_rate"] <= 3e-3


@pytest.mark.parametrize("variable", ["ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"])
def test_a_distribution_that_is_not_there_is_refused_by_name(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    run, config = _loaded(make_run())
    monkeypatch.setenv(variable, "true")
    with pytest.raises(ConfigError, match=variable):
        run_train(run, config, redo=False)
    assert not (run / "train").exists()


def test_a_forward_pass_too_small_for_the_longest_example_is_refused(make_run: MakeRun) -> None:
    with pytest.raises(ConfigError, match=r"micro_batch_tokens \(1024\) is less than max_length \(1025\)"):
        load_config(make_run(), ["train.max_length=1025"])
