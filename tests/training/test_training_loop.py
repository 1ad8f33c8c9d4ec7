"""The loop's identities: splits of a batch, interruptions and refusals change nothing but rounding."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from peft import PeftModel
from torch import Tensor

from distill.records import DataError
from distill.training.checkpoint import read_checkpoint, steps_done
from distill.training.examples import TrainingExample
from distill.training.loop import (
    CHECKPOINT,
    METRICS,
    Recipe,
    accumulate_gradients,
    mean_loss,
    prepare,
    train,
    trainable,
)
from distill.training.metrics import StepMetrics
from distill.training.student import attach_adapter, load_student

MakeModel = Callable[..., PeftModel]
RECIPE = Recipe(
    seed=7, num_steps=9, batch_size=5, micro_batch_tokens=400, learning_rate=3e-3, weight_decay=0.01, warmup_share=0.2,
    max_grad_norm=1.0, validate_every=4, checkpoint_every=3, dtype="float32",
)  # fmt: skip


def _gradients(
    model: PeftModel, batch: Sequence[TrainingExample], *, micro_batch_tokens: int
) -> tuple[float, dict[str, Tensor]]:
    trainee, _ = prepare(
        model, replace(RECIPE, micro_batch_tokens=micro_batch_tokens), Accelerator(mixed_precision="no")
    )
    loss = accumulate_gradients(trainee, batch)
    gradients = {name: weight.grad.clone() for name, weight in trainable(trainee).items() if weight.grad is not None}
    assert gradients.keys() == trainable(trainee).keys()
    return loss, gradients


def _reference(model: PeftModel, batch: Sequence[TrainingExample]) -> Tensor:
    """Every example alone, logits of all positions, the sum written out."""
    total = torch.zeros(())
    weights = 0.0
    for example in batch:
        log_probs_TV = model(input_ids=example.input_ids_T[None].long()).logits[0].log_softmax(dim=-1)
        for position in range(1, example.num_tokens):
            if example.loss_mask_T[position]:
                total = total - example.weight * log_probs_TV[position - 1, int(example.input_ids_T[position])]
                weights += example.weight
    return total / weights


def test_loss_and_gradients_are_those_of_the_examples_one_by_one(
    fresh_model: MakeModel, training_examples: list[TrainingExample]
) -> None:
    model = fresh_model()
    expected = _reference(model, training_examples[:6])
    expected.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    gradients = {name: weight.grad for name, weight in model.named_parameters() if weight.requires_grad}
    loss, got = _gradients(fresh_model(), training_examples[:6], micro_batch_tokens=400)
    assert loss == pytest.approx(expected.item(), abs=1e-5)
    for name, gradient in gradients.items():
        torch.testing.assert_close(got[name], gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("micro_batch_tokens", [1, 150, 300, 700])
def test_any_split_into_micro_batches_gives_the_same_gradients(
    fresh_model: MakeModel, training_examples: list[TrainingExample], micro_batch_tokens: int
) -> None:
    whole_loss, whole = _gradients(fresh_model(), training_examples, micro_batch_tokens=10**6)
    loss, split = _gradients(fresh_model(), training_examples, micro_batch_tokens=micro_batch_tokens)
    assert loss == pytest.approx(whole_loss, abs=1e-6)
    for name, gradient in whole.items():
        assert gradient.abs().max() > 0
        torch.testing.assert_close(split[name], gradient, rtol=1e-4, atol=1e-6)


def test_only_trained_positions_reach_the_output_layer(
    fresh_model: MakeModel, training_examples: list[TrainingExample]
) -> None:
    model = fresh_model()
    rows: list[int] = []
    model.get_output_embeddings().register_forward_hook(
        lambda module, inputs, output: rows.append(output.numel() // output.shape[-1])
    )
    _gradients(model, training_examples, micro_batch_tokens=300)
    assert sum(rows) == sum(example.num_trained_tokens for example in training_examples)


def test_bf16_loss_is_near_that_of_fp32(fresh_model: MakeModel, training_examples: list[TrainingExample]) -> None:
    accelerator = Accelerator(mixed_precision="no")
    exact, _ = prepare(fresh_model(), RECIPE, accelerator)
    rough, _ = prepare(fresh_model(dtype="bfloat16"), replace(RECIPE, dtype="bfloat16"), accelerator)
    assert mean_loss(rough, training_examples) == pytest.approx(mean_loss(exact, training_examples), rel=5e-3)
    accumulate_gradients(rough, training_examples)
    assert {weight.dtype for weight in trainable(rough).values()} == {torch.float32}


class Interrupted(Exception):
    """Stands for whatever stops a run between two steps."""


def _train(
    model: PeftModel,
    examples: Sequence[TrainingExample],
    folder: Path,
    *,
    interrupt_at: Sequence[int] = (),
    after_step: Callable[[StepMetrics], None] = lambda metrics: None,
) -> dict[str, Tensor]:
    def on_step(metrics: StepMetrics) -> None:
        if metrics.step in interrupt_at:
            raise Interrupted
        after_step(metrics)

    train(
        model,
        examples[4:],
        validation=examples[:4],
        recipe=RECIPE,
        folder=folder,
        accelerator=Accelerator(mixed_precision="no"),
        on_step=on_step,
    )
    return {name: weight.detach() for name, weight in model.named_parameters() if weight.requires_grad}


def test_a_resumed_run_is_an_uninterrupted_one_bit_for_bit(
    fresh_model: MakeModel, training_examples: list[TrainingExample], tmp_path: Path
) -> None:
    whole = _train(fresh_model(dropout=0.3), training_examples, tmp_path / "whole")
    for steps in (1, 5, 8, 9):
        with pytest.raises(Interrupted):
            _train(fresh_model(dropout=0.3), training_examples, tmp_path / "resumed", interrupt_at=[steps])
        torch.rand(steps)  # the state of the global generator is not to matter
    resumed = _train(fresh_model(dropout=0.3), training_examples, tmp_path / "resumed")
    for name, weight in whole.items():
        assert torch.equal(resumed[name], weight)
    lines = (tmp_path / "whole" / METRICS).read_text().splitlines()
    assert (tmp_path / "resumed" / METRICS).read_text().splitlines() == lines
    steps_seen = [json.loads(line)["step"] for line in lines]
    assert steps_seen == list(range(1, 10))
    assert [json.loads(line)["step"] for line in lines if json.loads(line)["validation_loss"] is not None] == [4, 8, 9]


def test_training_lowers_the_loss(
    fresh_model: MakeModel, training_examples: list[TrainingExample], tmp_path: Path
) -> None:
    losses: list[float] = []
    _train(fresh_model(), training_examples, tmp_path, after_step=lambda metrics: losses.append(metrics.loss))
    assert max(losses[-2:]) < min(losses[:2]) - 0.1


def test_a_loss_that_is_not_a_number_stops_and_keeps_the_checkpoint(
    fresh_model: MakeModel, training_examples: list[TrainingExample], tmp_path: Path
) -> None:
    model = fresh_model()
    weight = next(parameter for parameter in model.parameters() if parameter.requires_grad)

    def spoil(metrics: StepMetrics) -> None:
        if metrics.step == 7:
            weight.data.fill_(float("nan"))

    with pytest.raises(
        DataError, match=r"step 8 has loss nan .* lower train\.learning_rate .* The last checkpoint is kept"
    ):
        _train(model, training_examples, tmp_path, after_step=spoil)
    checkpoint = read_checkpoint(tmp_path / CHECKPOINT)
    assert checkpoint is not None
    assert checkpoint.step == 6
    assert all(bool(tensor.isfinite().all()) for tensor in checkpoint.tensors.values())
    resumed = _train(fresh_model(), training_examples, tmp_path)
    whole = _train(fresh_model(), training_examples, tmp_path / "whole")
    assert all(torch.equal(resumed[name], value) for name, value in whole.items())


def test_there_is_one_checkpoint_and_a_broken_one_is_refused(
    fresh_model: MakeModel, training_examples: list[TrainingExample], tmp_path: Path
) -> None:
    _train(fresh_model(), training_examples, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [CHECKPOINT, METRICS]
    assert steps_done(tmp_path / CHECKPOINT) == RECIPE.num_steps
    lines = (tmp_path / METRICS).read_bytes()
    (tmp_path / METRICS).write_bytes(lines[:100])
    with pytest.raises(DataError, match="shorter than at the last checkpoint"):
        _train(fresh_model(), training_examples, tmp_path)
    (tmp_path / METRICS).write_bytes(lines)
    (tmp_path / CHECKPOINT).write_bytes((tmp_path / CHECKPOINT).read_bytes()[:5000])
    with pytest.raises(DataError, match="delete it to train this student from the beginning"):
        _train(fresh_model(), training_examples, tmp_path)


def test_a_checkpoint_of_another_model_is_refused(
    fresh_model: MakeModel, training_examples: list[TrainingExample], tmp_path: Path, student_folder: Path
) -> None:
    _train(fresh_model(), training_examples, tmp_path)
    other = attach_adapter(load_student(str(student_folder), dtype="float32"), rank=2, alpha=8, dropout=0.0, seed=1)
    with pytest.raises(DataError, match="it holds the weights of another model"):
        _train(other, training_examples, tmp_path)
