"""Which example is trained when, and which tokens of it: each exactly once."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from distill.chat import stop_ids
from distill.records import Example
from distill.training.batches import collate, deal, examples_of_step
from distill.training.examples import TrainingExample, tokenise
from distill.training.schedule import learning_rate_at

CPU = torch.device("cpu")


@given(
    num_examples=st.integers(1, 40),
    batch_size=st.integers(1, 16),
    num_epochs=st.integers(1, 4),
    seed=st.integers(0, 2**63 - 1),
)
def test_every_batch_is_full_and_every_epoch_holds_every_example_once(
    num_examples: int, batch_size: int, num_epochs: int, seed: int
) -> None:
    steps = -(-num_epochs * num_examples // batch_size)
    batches = [
        examples_of_step(step, seed=seed, num_examples=num_examples, batch_size=batch_size) for step in range(steps)
    ]
    stream = [index for batch in batches for index in batch]
    assert {len(batch) for batch in batches} == {batch_size}
    for epoch in range(num_epochs):
        assert sorted(stream[epoch * num_examples : (epoch + 1) * num_examples]) == list(range(num_examples))


@given(
    lengths=st.lists(st.integers(1, 100), min_size=1, max_size=40),
    micro_batch_tokens=st.integers(50, 400),
    num_processes=st.integers(1, 5),
)
def test_dealt_examples_count_once_and_processes_stay_in_step(
    lengths: list[int], micro_batch_tokens: int, num_processes: int
) -> None:
    dealt = deal(lengths, micro_batch_tokens=micro_batch_tokens, num_processes=num_processes)
    counted = Counter(index for shares in dealt for share in shares if share.counts for index in share.indices)
    assert counted == Counter(range(len(lengths)))
    assert len(dealt) == num_processes
    assert len({len(shares) for shares in dealt}) == 1
    for shares in dealt:
        for share in shares:
            padded = len(share.indices) * max(lengths[index] for index in share.indices)
            assert padded <= micro_batch_tokens or len(share.indices) == 1


def test_trained_tokens_are_the_reply_and_its_end_of_turn(
    examples: list[Example], training_examples: list[TrainingExample], tokenizer: PreTrainedTokenizerFast
) -> None:
    batch = collate(training_examples, counts=True, device=CPU)
    targets = torch.split(batch.target_N, batch.keep_BT.sum(dim=1).tolist())
    end_of_turn = stop_ids(tokenizer)[0]
    for row, (target, example) in enumerate(zip(targets, examples, strict=True)):
        assert target[-1] == end_of_turn
        assert tokenizer.decode(target[:-1]) == example.reply
        predicting = batch.keep_BT[row].nonzero().flatten()
        assert torch.equal(training_examples[row].input_ids_T[predicting + 1].long(), target)


def test_a_filler_weighs_nothing(training_examples: list[TrainingExample]) -> None:
    batch = collate(training_examples[:2], counts=False, device=CPU)
    assert batch.weight_N.sum() == 0
    assert batch.num_tokens == 0


def test_an_example_that_is_too_long_is_rejected_whole(
    examples: list[Example], training_examples: list[TrainingExample], tokenizer: PreTrainedTokenizerFast
) -> None:
    limit = sorted(example.num_tokens for example in training_examples)[len(examples) // 2]
    kept, rejects = tokenise(examples, tokenizer, max_length=limit)
    assert len(kept) + len(rejects) == len(examples)
    assert {example.id for example in kept} == {
        example.id for example in training_examples if example.num_tokens <= limit
    }
    assert {reject.reason for reject in rejects} == {"too_long"}


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan")])
def test_an_example_that_weighs_nothing_is_rejected(
    examples: list[Example], tokenizer: PreTrainedTokenizerFast, weight: float
) -> None:
    kept, rejects = tokenise([replace(examples[0], weight=weight), examples[1]], tokenizer, max_length=1024)
    assert [reject.reason for reject in rejects] == ["nothing_to_train"]
    assert [example.id for example in kept] == [examples[1].id]


def test_learning_rate_warms_up_and_ends_near_zero() -> None:
    rates = [learning_rate_at(step, peak=1.0, num_steps=100, warmup_share=0.1) for step in range(100)]
    assert rates[:11] == sorted(rates[:11])
    assert rates[10] == 1.0
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert 0 < rates[0] < 0.1
    assert 0 < rates[99] < 0.001
