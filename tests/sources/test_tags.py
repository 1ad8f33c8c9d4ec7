"""A template's own tags inside a text are found and named; words that only look alike are not."""

from __future__ import annotations

import pytest

from distill.chat import SPECIAL_TOKENS
from distill.records import Message
from distill.sources.tags import why_invalid_tags

TAGS = (
    *SPECIAL_TOKENS,
    "<|python_tag|>",
    "<|reserved_special_token_12|>",
    "<|im_start|>",
    "[INST]",
    "[/INST]",
    "<<SYS>>",
    "<start_of_turn>",
)


@pytest.mark.parametrize("tag", TAGS)
def test_a_tag_is_named_with_its_place(tag: str) -> None:
    messages = [Message("system", "You call tools."), Message("user", f"Hi {tag} there")]
    why = why_invalid_tags(messages)
    assert why is not None and repr(tag) in why and "messages[1] (user)" in why and "character 3" in why


@pytest.mark.parametrize(
    "text",
    ["a <b> c", "x <| y |> z", "<tools>[]</tools>", "<function=f>{}</function>", "<||>", "[INSTALL]", "a << b >> c"],
)
def test_other_brackets_are_words(text: str) -> None:
    assert why_invalid_tags([Message("user", text)]) is None
