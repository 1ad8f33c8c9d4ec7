"""One rendering: the prompt is a prefix of the example, the mask is the reply, and it is what the model's own chat template gives."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from distill.chat import SPECIAL_TOKENS, example_ids, prompt_ids, stop_ids, why_unusable
from distill.records import DataError, Message, Role

ROLES: list[Role] = ["system", "user", "assistant", "tool"]
LOOKALIKES = st.sampled_from([*SPECIAL_TOKENS, "<|python_tag|>", "<|reserved_special_token_0|>", "<|", "|>"])
PLAIN = st.text(max_size=12)
CONTENT = st.lists(PLAIN | LOOKALIKES | st.sampled_from([" ", "\n", "\n\n", "\u3000", "12:30"]), max_size=5).map(
    "".join
)


def conversations(content: st.SearchStrategy[str]) -> st.SearchStrategy[list[Message]]:
    return st.lists(st.builds(Message, role=st.sampled_from(ROLES), content=content), min_size=1, max_size=4)


def special_ids(tokenizer: PreTrainedTokenizerFast) -> dict[str, int]:
    ids: dict[str, int] = tokenizer.get_added_vocab()
    return ids


@settings(max_examples=60, deadline=None)
@given(messages=conversations(CONTENT), reply=CONTENT)
def test_the_prompt_is_a_prefix_and_the_mask_is_the_reply_and_its_end(
    messages: list[Message], reply: str, llama_tokenizer: PreTrainedTokenizerFast
) -> None:
    prompt, example = prompt_ids(messages, llama_tokenizer), example_ids(messages, reply, llama_tokenizer)
    assert list(example.input_ids[: len(prompt)]) == prompt
    assert len(example.loss_mask) == len(example.input_ids)
    trained = [token for token, trains in zip(example.input_ids, example.loss_mask, strict=True) if trains]
    assert example.loss_mask == (0,) * len(prompt) + (1,) * len(trained)
    assert trained[-1] == special_ids(llama_tokenizer)["<|eot_id|>"] == stop_ids(llama_tokenizer)[0]
    assert llama_tokenizer.decode(trained[:-1]) == reply.strip()


@settings(max_examples=60, deadline=None)
@given(messages=conversations(CONTENT), reply=CONTENT)
def test_what_looks_like_a_special_token_inside_a_text_stays_text(
    messages: list[Message], reply: str, llama_tokenizer: PreTrainedTokenizerFast
) -> None:
    special = special_ids(llama_tokenizer)
    ids = example_ids(messages, reply, llama_tokenizer).input_ids
    turns = len(messages) + 1
    counts = {token: ids.count(number) for token, number in special.items()}
    expected = {"<|begin_of_text|>": 1, "<|start_header_id|>": turns, "<|end_header_id|>": turns, "<|eot_id|>": turns}
    assert counts == {token: expected.get(token, 0) for token in special}
    text = "<|begin_of_text|>" + "".join(
        f"<|start_header_id|>{'ipython' if message.role == 'tool' else message.role}<|end_header_id|>\n\n{message.content.strip()}<|eot_id|>"
        for message in [*messages, Message("assistant", reply)]
    )
    assert llama_tokenizer.decode(list(ids)) == text


@settings(max_examples=60, deadline=None)
@given(messages=conversations(PLAIN.filter(lambda text: "<|" not in text)), reply=PLAIN)
def test_ordinary_text_is_rendered_as_by_the_chat_template(
    messages: list[Message], reply: str, llama_tokenizer: PreTrainedTokenizerFast
) -> None:
    plain = [{"role": message.role, "content": message.content} for message in messages]
    template: Any = llama_tokenizer.apply_chat_template
    assert prompt_ids(messages, llama_tokenizer) == template(plain, add_generation_prompt=True, return_dict=False)
    if "<|" not in reply:
        whole = template([*plain, {"role": "assistant", "content": reply}], return_dict=False)
        assert list(example_ids(messages, reply, llama_tokenizer).input_ids) == whole


def test_a_turn_ends_in_one_of_three_ways(llama_tokenizer: PreTrainedTokenizerFast) -> None:
    assert llama_tokenizer.convert_ids_to_tokens(list(stop_ids(llama_tokenizer))) == [
        "<|eot_id|>",
        "<|eom_id|>",
        "<|end_of_text|>",
    ]
    assert why_unusable(llama_tokenizer) is None


def _tokenizer(model: Any, pre: Any) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre
    return tokenizer


BYTES = {symbol: index for index, symbol in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
FOREIGN = {
    "bytes without any special token": _tokenizer(models.BPE(vocab=BYTES, merges=[]), pre_tokenizers.ByteLevel()),
    "words, everything unknown is one token": _tokenizer(
        models.WordLevel(vocab={"[UNK]": 0, "hello": 1}, unk_token="[UNK]"), pre_tokenizers.WhitespaceSplit()
    ),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_a_foreign_tokenizer_is_refused_and_what_it_lacks_named(name: str) -> None:
    unknown = {"unk_token": "[UNK]"} if "words" in name else {}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=FOREIGN[name], **unknown)
    why = why_unusable(tokenizer)
    assert why is not None and all(token in why for token in SPECIAL_TOKENS)
    for use in (lambda: prompt_ids([Message("user", "hello")], tokenizer), lambda: stop_ids(tokenizer)):
        with pytest.raises(DataError, match=r"lacks .*eot_id.*Llama 3"):
            use()


def test_one_missing_special_token_is_enough(llama_tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=FOREIGN["bytes without any special token"])
    tokenizer.add_special_tokens(
        {"additional_special_tokens": [token for token in SPECIAL_TOKENS if token != "<|eom_id|>"]}
    )
    assert (
        why_unusable(tokenizer)
        == "the tokenizer lacks <|eom_id|>; use a model with Llama 3's tokenizer and chat format"
    )
