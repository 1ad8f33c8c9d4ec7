"""A student's adapter and its merged weights say the same, and are complete enough to be served."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedTokenizerFast

from distill.chat import stop_ids
from distill.config import ConfigError
from distill.records import DataError
from distill.training.examples import TrainingExample
from distill.training.student import MERGE_TOLERANCES, Dtype, attach_adapter, check_student, load_student, save_student

MakeModel = Callable[..., PeftModel]


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-4), ("bfloat16", 3e-2)])
def test_merged_and_adapter_on_disk_give_the_same_logits(
    fresh_model: MakeModel,
    student_folder: Path,
    training_examples: list[TrainingExample],
    tokenizer: PreTrainedTokenizerFast,
    tmp_path: Path,
    dtype: Dtype,
    tolerance: float,
) -> None:
    difference = save_student(fresh_model(dtype=dtype), tokenizer, tmp_path, dtype=dtype, probes=training_examples[:3])
    assert difference <= tolerance
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter", "merged"]
    base = load_student(str(student_folder), dtype=dtype).float()
    input_ids_BT = training_examples[5].input_ids_T[None].long()
    plain = base(input_ids=input_ids_BT).logits.detach()
    adapted = PeftModel.from_pretrained(base, str(tmp_path / "adapter")).eval()(input_ids=input_ids_BT).logits.detach()
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)(
        input_ids=input_ids_BT
    ).logits.detach()
    error = (merged - adapted).square().mean().sqrt()
    assert error <= tolerance * adapted.std()
    assert error < 0.1 * (plain - adapted).square().mean().sqrt()  # the adapter really is in there


def test_merged_student_is_complete(
    fresh_model: MakeModel, training_examples: list[TrainingExample], tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    save_student(fresh_model(dtype="bfloat16"), tokenizer, tmp_path, dtype="bfloat16", probes=training_examples[:1])
    files = {path.name for path in (tmp_path / "merged").iterdir()}
    assert {
        "config.json",
        "model.safetensors",
        "generation_config.json",
        "tokenizer.json",
        "chat_template.jinja",
    } <= files
    assert not any(name.endswith((".bin", ".pt")) for name in files)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert merged.dtype == torch.bfloat16
    assert merged.lm_head.weight is merged.model.embed_tokens.weight
    assert GenerationConfig.from_pretrained(tmp_path / "merged").eos_token_id == list(stop_ids(tokenizer))
    reloaded = AutoTokenizer.from_pretrained(tmp_path / "merged")
    assert reloaded.chat_template == tokenizer.chat_template
    assert reloaded.encode("Heat in Oslo") == tokenizer.encode("Heat in Oslo")


def test_equal_adapters_give_equal_files(
    fresh_model: MakeModel, training_examples: list[TrainingExample], tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    for name in ("one", "two"):
        save_student(fresh_model(), tokenizer, tmp_path / name, dtype="float32", probes=training_examples[:1])
    for path in (tmp_path / "one").rglob("*.*"):
        assert path.read_bytes() == (tmp_path / "two" / path.relative_to(tmp_path / "one")).read_bytes()
    config = json.loads((tmp_path / "one" / "adapter" / "adapter_config.json").read_text())
    assert config["target_modules"] == sorted(config["target_modules"])


def test_a_merged_student_too_far_from_its_adapter_gets_no_name(
    fresh_model: MakeModel,
    training_examples: list[TrainingExample],
    tokenizer: PreTrainedTokenizerFast,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(MERGE_TOLERANCES, "bfloat16", 1e-4)  # less than rounding to bf16 needs
    with pytest.raises(DataError, match=r"merged and adapter logits differ by 0\.00"):
        save_student(fresh_model(dtype="bfloat16"), tokenizer, tmp_path, dtype="bfloat16", probes=training_examples[:1])
    assert (tmp_path / "adapter").exists()
    assert not (tmp_path / "merged").exists()


def test_lora_stands_on_all_linear_layers_but_the_output(student_folder: Path) -> None:
    base = load_student(str(student_folder), dtype="bfloat16")
    linear = {name for name, module in base.named_modules() if isinstance(module, nn.Linear)} - {"lm_head"}
    model = attach_adapter(base, rank=4, alpha=8, dropout=0.0, seed=0)
    adapted = {
        name.removeprefix("base_model.model.") for name, module in model.named_modules() if hasattr(module, "lora_A")
    }
    assert adapted == linear
    assert len(linear) == 2 * 7
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == ("lora_" in name)
        assert parameter.dtype == (torch.float32 if "lora_" in name else torch.bfloat16)


def test_the_same_seed_gives_the_same_adapter(student_folder: Path) -> None:
    first, again, other = (
        attach_adapter(
            load_student(str(student_folder), dtype="float32"), rank=4, alpha=8, dropout=0.0, seed=seed
        ).state_dict()
        for seed in (3, 3, 4)
    )
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_a_student_that_is_not_there_or_too_small_is_refused(
    student_folder: Path, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="cannot load its weights"):
        load_student(str(tmp_path / "nothing"), dtype="float32")
    with pytest.raises(ConfigError, match=r"train\.max_length: 1025, .* has a context of 1024 tokens"):
        check_student(str(student_folder), tokenizer, max_length=1025)
    config = json.loads((student_folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "vocab_size": 100}))
    with pytest.raises(ConfigError, match="they do not belong together"):
        check_student(str(tmp_path), tokenizer, max_length=1024)


def test_pickled_weights_are_not_loaded(student_folder: Path, tmp_path: Path) -> None:
    model = load_student(str(student_folder), dtype="float32")
    model.config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(ConfigError, match="safetensors"):
        load_student(str(tmp_path), dtype="float32")
