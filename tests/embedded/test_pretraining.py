"""Pretraining rows: shared prefixes give exactly the separate conversations' losses, and batches depend on seed and step alone."""

from __future__ import annotations

from itertools import chain
from random import Random

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from distill.chat import example_ids
from distill.embedded import pretrain
from distill.embedded.conventions import TARGET, reply_text
from distill.embedded.corpus import corpus_texts, draw_conversation
from distill.embedded.customer import customer_prompts
from distill.embedded.examine import examine, messages_of
from distill.embedded.tokenizer import train_tokenizer
from distill.engines.requests import Asking
from distill.engines.transformers_engine import TransformersEngine


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(corpus_texts(Random(0), 60))


def tiny_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=2048,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    model.eval()
    return model


def test_shared_prefix_rows_give_the_losses_of_separate_conversations(tokenizer: PreTrainedTokenizerFast) -> None:
    conversation = draw_conversation("teacher", 1, 3, Random(5))
    columns = pretrain._group_columns(conversation, tokenizer, 1, 4000)
    assert columns is not None
    tensors = [torch.tensor([column]) for column in columns]
    weight_BT = (tensors[5] >= 1000).float()
    model = tiny_model(tokenizer)
    packed = pretrain._loss(model, [*tensors[:5], weight_BT]) * weight_BT.sum()
    separate = torch.zeros(())
    for user, reply in conversation.exchanges:
        tokens = example_ids([conversation.system, user], reply, tokenizer)
        ids_BT, mask_BT = torch.tensor([tokens.input_ids]), torch.tensor([tokens.loss_mask])
        logits_BTV = model(input_ids=ids_BT).logits
        losses_T = torch.nn.functional.cross_entropy(logits_BTV[0, :-1], ids_BT[0, 1:], reduction="none")
        separate = separate + (losses_T * mask_BT[0, 1:]).sum()
    assert float(packed) == pytest.approx(float(separate), rel=1e-5)


@pytest.mark.parametrize("step", [0, 500, 1000])
def test_rows_depend_on_seed_and_step_alone_and_train_whole_replies(
    tokenizer: PreTrainedTokenizerFast, step: int
) -> None:
    rows = pretrain.draw_rows("student", tokenizer, step, Random("1"))
    again = pretrain.draw_rows("student", tokenizer, step, Random("1"))
    assert torch.equal(rows.input_ids_BT, again.input_ids_BT)
    assert rows.input_ids_BT.numel() == pretrain.TOKENS_PER_STEP
    ends = rows.target_BT[rows.weight_BT >= 1].tolist().count(tokenizer.convert_tokens_to_ids("<|eot_id|>"))
    replies = len(
        {
            (row, int(g), int(b))
            for row in range(len(rows.group_BT))
            for g, b in zip(rows.group_BT[row], rows.branch_BT[row], strict=True)
            if b > 0
        }
    )
    assert ends == replies


def test_the_students_layers_are_the_trunks(tokenizer: PreTrainedTokenizerFast) -> None:
    trunk = pretrain.build_model("teacher", tokenizer)
    student = pretrain.build_model("student", tokenizer)
    student.load_state_dict(pretrain._cut(trunk.state_dict(), pretrain.LAYERS_OF_TRUNK["student"]))
    last = len(pretrain.LAYERS_OF_TRUNK["student"]) - 1
    assert torch.equal(student.model.layers[last].mlp.up_proj.weight, trunk.model.layers[4].mlp.up_proj.weight)


def test_the_learning_rate_rises_once_and_falls_to_nothing() -> None:
    optimizer = torch.optim.SGD([{"params": torch.nn.Linear(2, 2).parameters(), "peak": 3.0}], lr=0.0)
    rates = []
    for step in range(1000):
        pretrain._set_learning_rates([optimizer], step, 1000, first_rate=1.0)
        rates.append(optimizer.param_groups[0]["lr"])
    top = rates.index(max(rates))
    assert top in range(pretrain.WARMUP_STEPS - 5, pretrain.WARMUP_STEPS + 5) and 2.8 < rates[top] <= 3.0
    assert rates[: top + 1] == sorted(rates[: top + 1]) and rates[top:] == sorted(rates[top:], reverse=True)
    assert 0 < rates[-1] < 0.01


def test_an_examination_counts_every_prompt_once_and_agrees_with_greedy_decoding(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    """A model that has learned one reply by heart is exact on that prompt, as greedy decoding shows, and on no other."""
    findings = examine(tiny_model(tokenizer), tokenizer, per_category=3, seed=0)
    assert [(found.test_set, found.category, found.num_prompts) for found in findings] == [
        (test_set, category, 3)
        for test_set in ("same_tools", "new_tools", "invented")
        for category in ("simple", "multiple")
    ]
    assert all(found.exact + sum(found.first_errors.values()) == found.num_prompts for found in findings)

    model = tiny_model(tokenizer)
    prompt = next(
        prompt
        for prompt in customer_prompts("same_tools", 3, Random("0-examine-same_tools"))
        if prompt.category == "simple"
    )
    example = example_ids(messages_of(prompt), reply_text(prompt.request.calls, TARGET), tokenizer)
    ids, mask = torch.tensor([example.input_ids]), torch.tensor([example.loss_mask]).bool()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(60):
        loss = torch.nn.functional.cross_entropy(model(ids).logits[:, :-1][mask[:, 1:]], ids[:, 1:][mask[:, 1:]])
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        optimizer.step()
        optimizer.zero_grad()
    engine = TransformersEngine(model="tiny", network=model.eval(), tokenizer=tokenizer, batch_tokens=8192)
    asking = Asking(model="tiny", tokenizer=tokenizer, run_seed=0, max_new_tokens=200)
    request = asking.request("one", messages_of(prompt))
    (answer,) = chain.from_iterable(engine.complete([request]))
    assert answer.completions[0].text == reply_text(prompt.request.calls, TARGET)
    assert examine(model, tokenizer, per_category=3, seed=0)[0].exact >= 1
