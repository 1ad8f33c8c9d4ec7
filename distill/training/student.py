"""A model's folder or hub name in, a student with a LoRA adapter out; a trained one in, its adapter and merged weights on disk out.

Weights are read and written as safetensors only, and code that comes with a model is never run.

Legend: P probed positions, V vocabulary.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, cast

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from distill.chat import stop_ids
from distill.config import ConfigError, model_path
from distill.records import DataError
from distill.training.examples import TrainingExample
from distill.training.files import partial_path, publish

Dtype = Literal["bfloat16", "float32"]

DTYPES: dict[Dtype, torch.dtype] = {"bfloat16": torch.bfloat16, "float32": torch.float32}

# How far merged logits may be from the adapter's, both computed in fp32, as a share of the logits' own spread.
# What is left is the rounding of the merged weights to the student's dtype.
MERGE_TOLERANCES: dict[Dtype, float] = {"bfloat16": 3e-2, "float32": 1e-4}
PROBED_POSITIONS = 32


def load_student(name: str, *, dtype: Dtype) -> PreTrainedModel:
    """The weights of a folder, hub name or `embedded:...` on the CPU; `ConfigError` if they cannot be had as safetensors."""
    try:
        model = AutoModelForCausalLM.from_pretrained(
            model_path(name),
            dtype=DTYPES[dtype],
            attn_implementation="sdpa",
            use_safetensors=True,
            trust_remote_code=False,
        )
    except (OSError, ValueError) as error:
        raise _unloadable(name, "weights", error) from None
    return cast(PreTrainedModel, model)


def check_student(name: str, tokenizer: PreTrainedTokenizerFast, *, max_length: int) -> None:
    """Raise `ConfigError` if the model's vocabulary or context is too small for the tokenizer or for `max_length` tokens."""
    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(model_path(name), trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise _unloadable(name, "configuration", error) from None
    if len(tokenizer) > config.vocab_size:
        raise ConfigError(
            f"model {name!r}: its tokenizer has {len(tokenizer)} tokens, its embedding {config.vocab_size}; they do not belong together"
        )
    if max_length > config.max_position_embeddings:
        raise ConfigError(
            f"train.max_length: {max_length}, but model {name!r} has a context of {config.max_position_embeddings} tokens; lower it"
        )


def attach_adapter(model: PreTrainedModel, *, rank: int, alpha: int, dropout: float, seed: int) -> PeftModel:
    """LoRA on every linear layer but `lm_head`, freshly initialised from `seed`; everything else is frozen.

    The adapter's weights are fp32, whatever the model's are (LoRA: Hu et al. 2021, arXiv 2106.09685).
    """
    config = LoraConfig(
        task_type="CAUSAL_LM", r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=linear_layers(model)
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return cast(PeftModel, get_peft_model(model, config))


def linear_layers(model: PreTrainedModel) -> list[str]:
    """The last names of all linear layers but the output layer, such as `q_proj`."""
    output_layer = model.get_output_embeddings()
    found = {
        name.rsplit(".", 1)[-1]
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module is not output_layer
    }
    return sorted(found)


def save_student(
    model: PeftModel,
    tokenizer: PreTrainedTokenizerFast,
    folder: Path,
    *,
    dtype: Dtype,
    probes: Sequence[TrainingExample],
) -> float:
    """Write `adapter/` and `merged/` into `folder`; returns how far their logits are apart on the probes, in logit spreads.

    The adapter is folded in at fp32 and rounded to `dtype` once; `model` is used up. `merged/` carries the tokenizer with its chat
    template and a generation config that stops where Llama's turns end. It gets its name only after it was read back from disk and
    found to say what the adapter says; else `DataError`.
    """
    partial = partial_path(folder / "adapter")
    save_adapter(model, partial)
    publish(partial, folder / "adapter")
    model.float().eval()
    expected = [_last_logits(model, probe) for probe in probes]

    partial = partial_path(folder / "merged")
    save_merged(model, tokenizer, partial, dtype=dtype)
    merged = load_student(str(partial), dtype="float32").to(model.device).eval()
    difference = max(
        _difference(_last_logits(merged, probe), logits) for probe, logits in zip(probes, expected, strict=True)
    )
    if not difference <= MERGE_TOLERANCES[dtype]:
        raise DataError(
            f"{folder}: merged and adapter logits differ by {difference:.2g} of their spread, more than {MERGE_TOLERANCES[dtype]:.2g} "
            f"in {dtype}; {partial} is not to be used, the adapter is whole"
        )
    publish(partial, folder / "merged")
    return difference


def save_adapter(model: PeftModel, folder: Path) -> None:
    """The adapter's weights and configuration as PEFT reads them; equal adapters give equal files."""
    model.save_pretrained(
        str(folder), save_embedding_layers=False
    )  # asking for them would look for the base model on the hub
    (folder / "README.md").unlink()  # a form left blank
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["target_modules"].sort()  # a set, in another order in every process
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def save_merged(model: PeftModel, tokenizer: PreTrainedTokenizerFast, folder: Path, *, dtype: Dtype) -> None:
    """Fold the adapter into its base and write a model folder that transformers and vLLM load; `model` is used up."""
    merged = cast(PreTrainedModel, model.merge_and_unload().to(DTYPES[dtype]))
    stops = stop_ids(tokenizer)
    merged.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=list(stops),
        pad_token_id=stops[0] if tokenizer.pad_token_id is None else tokenizer.pad_token_id,
        do_sample=False,  # as it is evaluated
    )
    merged.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@torch.no_grad()
def _last_logits(model: nn.Module, example: TrainingExample) -> Tensor:
    device = next(model.parameters()).device
    input_ids_BT = example.input_ids_T[None].long().to(device)
    logits_BPV: Tensor = model(input_ids=input_ids_BT, logits_to_keep=PROBED_POSITIONS, use_cache=False).logits
    return logits_BPV[0].cpu()


def _difference(got_PV: Tensor, expected_PV: Tensor) -> float:
    """Root mean square of the difference over the standard deviation of what was expected."""
    return float((got_PV - expected_PV).square().mean().sqrt() / expected_PV.std())


def _unloadable(name: str, what: str, error: Exception) -> ConfigError:
    reason = str(error).splitlines()[0]
    return ConfigError(
        f"model {name!r}: cannot load its {what} ({reason}); give a folder with safetensors or a hub name you can reach"
    )
