"""Keys tell apart what determines an answer, and the order brings together what begins alike."""

from __future__ import annotations

import itertools
from dataclasses import replace
from random import Random
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from distill.chat import prompt_ids
from distill.engines.requests import Asking, prefix_order
from distill.engines.tokenizer import why_other_tokens
from distill.records import Message, Tool

MESSAGES = (Message("system", "Be kind."), Message("user", "Hi"))
TOOL = Tool("f", "F.", {"type": "dict", "properties": {}})


def test_a_key_tells_apart_every_setting(llama_tokenizer: PreTrainedTokenizerFast) -> None:
    base: dict[str, Any] = {"model": "m", "tokenizer": llama_tokenizer, "run_seed": 0, "max_new_tokens": 5}
    changes: list[dict[str, Any]] = [
        {}, {"model": "n"}, {"run_seed": 1}, {"max_new_tokens": 6}, {"num_samples": 2}, {"sampling_temperature": 0.5},
        {"num_logprobs": 2}, {"sampling_parameters": {"top_p": 0.9}}, {"date_line": "26 Jul 2024"}, {"tokenizer": None},
    ]  # fmt: skip
    keys = [Asking(**{**base, **change}).key("p", MESSAGES) for change in changes]
    asking = Asking(**base)
    keys += [asking.key("q", MESSAGES), asking.key("p", MESSAGES[1:]), asking.key("p", MESSAGES, (), "scored")]
    native = Asking(**{**base, "tokenizer": None, "native_tools": True})
    keys += [native.key("p", MESSAGES), native.key("p", MESSAGES, [TOOL])]
    assert len(set(keys)) == len(keys)
    assert asking.key("p", MESSAGES, [TOOL]) == keys[0], "tools in the text are in the messages already"
    assert asking.request("p", MESSAGES).key == keys[0]


def test_the_date_line_is_that_of_llama_3_1s_own_template(llama_tokenizer: PreTrainedTokenizerFast) -> None:
    asking = Asking(model="m", tokenizer=llama_tokenizer, run_seed=0, max_new_tokens=5, date_line="26 Jul 2024")
    header = "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n"
    end = "<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
    for messages, said in ((MESSAGES, "Be kind."), (MESSAGES[1:], "")):
        ids = asking.request("p", messages).prompt_ids
        assert llama_tokenizer.decode(list(ids)) == header + said + end
        assert list(ids) == prompt_ids(messages, llama_tokenizer, date_line="26 Jul 2024")


def test_what_begins_alike_stands_together() -> None:
    random = Random(0)
    words = [str(random.random()) for _ in range(3000)]
    systems = [" ".join(random.choices(words, k=length)) for length in (5, 40, 200, 900) for _ in range(5)]
    shared = [systems[7] + " ".join(random.choices(words, k=300)) for _ in range(5)]
    prompts = [
        (Message("system", system), Message("user", " ".join(random.choices(words, k=9))))
        for system in (*systems, *shared)
        for _ in range(20)
    ]
    random.shuffle(prompts)
    ordered = [prompt[0].content for prompt in sorted(prompts, key=prefix_order)]
    changes = sum(one != other for one, other in itertools.pairwise(ordered))
    assert changes == len(set(ordered)) - 1, "prompts of one system text are neighbours"
    places = [index for index, system in enumerate(ordered) if system.startswith(systems[7])]
    assert places == list(range(places[0], places[0] + len(places))), "so are system texts that begin alike"


def test_two_vocabularies_are_compared_token_by_token(llama_tokenizer: PreTrainedTokenizerFast) -> None:
    assert why_other_tokens(llama_tokenizer, llama_tokenizer) is None

    class Swapped:
        def get_vocab(self) -> dict[str, int]:
            vocabulary = dict(llama_tokenizer.get_vocab())
            vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
            return vocabulary

    why = why_other_tokens(llama_tokenizer, Swapped())  # type: ignore[arg-type]  # all that is asked of it
    assert why is not None and why.startswith("token 'a' is ")


@pytest.mark.parametrize("added", [0, 4])
def test_a_prompts_tool_list_is_found_behind_golden_examples(added: int) -> None:
    from distill.records import Prompt, Source, ToolsSpan

    text = 'Tools: [{"name": "f", "description": "F.", "parameters": {"type": "dict", "properties": {}}}] Hi'
    span = ToolsSpan(0, 7, len(text) - 3, None, ", ", ": ", False, True)
    prompt = Prompt("p", (Message("user", text),), (TOOL,), span, "simple", "g", "train", None, None, Source("s", 1))
    shown = (Message("user", "Hm"), Message("assistant", "[f()]")) * (added // 2)
    asking = Asking(model="m", tokenizer=None, run_seed=0, max_new_tokens=5, native_tools=True)
    request = asking.prompt_request(replace(prompt), (*shown, *prompt.messages))
    assert request.chat is not None and request.chat.tools == (TOOL,)
    assert [message.content for message in request.chat.messages[-1:]] == ["Tools:  Hi"]
