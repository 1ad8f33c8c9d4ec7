"""Under new names everything means what it did, and nothing changes but the tool list and the calls."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Any

import pytest

from distill.augmentation.rename import rename_tools
from distill.calls.parse import parse_calls
from distill.calls.schema import why_invalid
from distill.embedded.domains import CUSTOMER, NEW_TOOLS
from distill.records import Example, Lineage, Message, Tool
from distill.sources.tools_in_text import find_tools
from tests.customer_world import customer_prompts, gold_example

Made = list[tuple[Example, Example]]


@pytest.fixture(scope="module", params=[CUSTOMER, NEW_TOOLS])
def made(request: pytest.FixtureRequest) -> Made:
    examples = [gold_example(prompt) for prompt in customer_prompts(45, seed=9, domain=request.param)]
    renamed = [(example, rename_tools(example, Random(example.id), seed=3)) for example in examples]
    return [(example, new) for example, new in renamed if new is not None]


def properties(tool: Tool) -> dict[str, Any]:
    found: Any = tool.parameters["properties"]
    return dict(found)


def names(old: Example, new: Example) -> dict[str, tuple[str, dict[str, str]]]:
    """From a tool's new name to its old one and from its parameters' new names to their old ones, by their places in the lists."""
    return {
        after.name: (before.name, dict(zip(properties(after), properties(before), strict=True)))
        for before, after in zip(old.tools, new.tools, strict=True)
    }


def test_every_example_of_known_layout_can_be_renamed(made: Made) -> None:
    assert len(made) == 45


def test_only_the_tool_list_and_the_calls_change(made: Made) -> None:
    for old, new in made:
        assert old.tools_span is not None and new.tools_span is not None
        (before, after), index = (old.tools_span, new.tools_span), old.tools_span.message_index
        assert new.messages[:index] + new.messages[index + 1 :] == old.messages[:index] + old.messages[index + 1 :]
        old_text, new_text = old.messages[index].content, new.messages[index].content
        assert (new_text[: after.start], new_text[after.end :]) == (old_text[: before.start], old_text[before.end :])
        found = find_tools(new.messages)
        assert (found.tools, found.span) == (new.tools, new.tools_span)
        kept = {"prompt_id", "split", "category", "weight"}
        assert all(getattr(new, name) == getattr(old, name) for name in kept)
        assert new.id != old.id and new.lineage == Lineage(old.id, "rename", 3)


def test_the_new_names_translate_back_to_the_old_example(made: Made) -> None:
    for old, new in made:
        back = names(old, new)
        assert [
            (back[call.name][0], {back[call.name][1][name]: value for name, value in call.arguments.items()})
            for call in new.calls
        ] == [(call.name, call.arguments) for call in old.calls]
        for before, after in zip(old.tools, new.tools, strict=True):
            translated = back[after.name][1]
            assert after.description == before.description
            assert {translated[name]: schema for name, schema in properties(after).items()} == properties(before)
            required: Any = after.parameters["required"]
            assert [translated[name] for name in required] == before.parameters["required"]
            assert {key: value for key, value in after.parameters.items() if key not in ("properties", "required")} == {
                key: value for key, value in before.parameters.items() if key not in ("properties", "required")
            }


def test_no_old_name_is_left_and_no_new_one_given_twice(made: Made) -> None:
    for old, new in made:
        assert not {tool.name for tool in old.tools} & {tool.name for tool in new.tools}
        assert len({tool.name for tool in new.tools}) == len(old.tools)
        for before, after in zip(old.tools, new.tools, strict=True):
            assert len(properties(after)) == len(properties(before))
            assert not set(properties(before)) & set(properties(after))
            assert all(name.isidentifier() for name in (after.name, *properties(after)))


def test_the_reply_is_right_for_the_renamed_tools(made: Made) -> None:
    for _, new in made:
        assert why_invalid(new.calls, new.tools) is None
        assert parse_calls(new.reply, mode="strict") == new.calls


def test_the_same_seed_gives_the_same_names(made: Made) -> None:
    for old, new in made[:10]:
        assert rename_tools(old, Random(old.id), seed=3) == new
        assert rename_tools(old, Random("another"), seed=4) != new


def test_what_has_no_known_place_is_not_renamed(made: Made) -> None:
    assert rename_tools(replace(made[0][0], tools_span=None), Random(0), seed=0) is None


def test_a_refusal_is_kept_unless_it_speaks_of_a_tool(made: Made) -> None:
    refusal = replace(made[0][0], calls=(), reply="None of the functions can do that.", category="irrelevance")
    new = rename_tools(refusal, Random(0), seed=0)
    assert new is not None and (new.reply, new.calls) == (refusal.reply, ())
    assert new.tools != refusal.tools
    named = replace(refusal, reply=f"The function {refusal.tools[0].name} needs a date.")
    assert rename_tools(named, Random(0), seed=0) is None


def test_tools_without_parameters_and_with_arguments_of_any_name_are_renamed() -> None:
    text = '[{"name": "now", "description": "", "parameters": {}}, {"name": "any", "description": "", "parameters": {"additionalProperties": true}}]'
    found = find_tools([Message("user", text)])
    calls = parse_calls("[now(), any(x=1)]", mode="strict")
    example = Example(
        "e", "p", "train", (Message("user", text),), found.tools, found.span, "parallel_multiple", "", calls, 1.0, None
    )
    new = rename_tools(example, Random(0), seed=0)
    assert new is not None
    assert [call.arguments for call in new.calls] == [{}, {"x": 1}]
    assert [tool.parameters for tool in new.tools] == [{}, {"additionalProperties": True}]
