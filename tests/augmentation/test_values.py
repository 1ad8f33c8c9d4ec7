"""Other values stand in the request and in the call alike, where and only where the world that made the request had said them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from random import Random
from typing import Any

import pytest

from distill.augmentation.located import locate
from distill.augmentation.rename import rename_tools
from distill.augmentation.values import build_pools, replace_values
from distill.calls.parse import parse_calls
from distill.calls.render import render_calls
from distill.calls.schema import why_invalid
from distill.embedded.customer import CustomerPrompt
from distill.embedded.domains import CUSTOMER
from distill.records import Example, JsonObject, Lineage, Message, Tool, ToolCall, ToolsSpan
from distill.sources.tools_in_text import find_tools, render_tools
from tests.customer_world import customer_prompts, gold_example

DOMAINS = (CUSTOMER, "travel", "food", "finance")
Made = list[tuple[CustomerPrompt, Example, Example]]


@pytest.fixture(scope="module", params=DOMAINS)
def made(request: pytest.FixtureRequest) -> Made:
    """World prompt, gold example, and an example with other values, for every try that gave one."""
    prompts = customer_prompts(60, seed=8, domain=request.param)
    examples = [gold_example(prompt) for prompt in prompts]
    pools = build_pools(examples)
    tries = [
        (p, e, replace_values(e, pools, Random(f"{index}-{e.id}"), seed=index))
        for p, e in zip(prompts, examples, strict=True)
        for index in range(3)
    ]
    done = [(prompt, example, new) for prompt, example, new in tries if new is not None]
    assert len(done) > 0.5 * len(tries)
    return done


def changes(old: Example, new: Example) -> Iterator[tuple[int, str, Any, Any]]:
    for index, (before, after) in enumerate(zip(old.calls, new.calls, strict=True)):
        for name, value in before.arguments.items():
            if after.arguments[name] != value:
                yield index, name, value, after.arguments[name]


def test_the_reply_is_right_for_the_tools_and_says_the_calls(made: Made) -> None:
    for _, _, new in made:
        assert why_invalid(new.calls, new.tools) is None
        assert parse_calls(new.reply, mode="strict") == new.calls
        assert new.reply == render_calls(new.calls)


def test_only_values_change(made: Made) -> None:
    for _, old, new in made:
        kept = {"prompt_id", "split", "tools", "tools_span", "category", "weight"}
        assert all(getattr(new, name) == getattr(old, name) for name in kept)
        assert new.messages[:-1] == old.messages[:-1]
        assert [(call.name, list(call.arguments)) for call in new.calls] == [
            (call.name, list(call.arguments)) for call in old.calls
        ]
        assert all(type(before) is type(after) for _, _, before, after in changes(old, new))
        assert list(changes(old, new)), "a copy is no new example"
        assert new.id != old.id


def test_a_request_changes_exactly_where_it_said_the_changed_values(made: Made) -> None:
    for prompt, old, new in made:
        request = old.messages[-1].content
        located = [
            (locate(request, before), prompt.request.calls[index], name, after)
            for index, name, before, after in changes(old, new)
        ]
        for place, call, name, after in sorted(located, key=lambda item: -item[0].start if item[0] else 0):
            assert place is not None
            key = next(key for key, given in call.world_tool.names.items() if given == name)
            spoken = call.values[key].spoken
            assert old.messages[-1].content[place.start : place.end] in spoken, (
                f"{request}: this is not what says {name}"
            )
            request = request[: place.start] + place.say(after) + request[place.end :]
        assert new.messages[-1].content == request


def test_a_value_that_did_not_change_is_still_said(made: Made) -> None:
    for prompt, old, new in made:
        changed = {(index, name) for index, name, _, _ in changes(old, new)}
        for index, call in enumerate(prompt.request.calls):
            for key, value in call.values.items():
                if (index, call.world_tool.names[key]) not in changed and not isinstance(value.written, bool):
                    assert all(part in new.messages[-1].content for part in value.spoken.split("\n")), (
                        new.messages[-1].content,
                        value,
                    )


def test_a_choice_between_given_words_stays(made: Made) -> None:
    for _, old, new in made:
        by_name: dict[str, Any] = {tool.name: tool.parameters["properties"] for tool in old.tools}
        assert not any("enum" in by_name[old.calls[index].name][name] for index, name, _, _ in changes(old, new))


def test_the_same_seed_gives_the_same_example_and_lineage_says_which(made: Made) -> None:
    pools = build_pools(old for _, old, _ in made)
    differing = 0
    for _, old, new in made[:40]:
        one, two = (replace_values(old, pools, Random(5), seed=5) for _ in range(2))
        assert one == two
        assert one is None or one.lineage == Lineage(example_id=old.id, method="values", seed=5)
        differing += replace_values(old, pools, Random(6), seed=6) != one
        assert new.lineage is not None and new.lineage.example_id == old.id
    assert differing > 20


def test_pools_do_not_depend_on_the_order_of_examples(made: Made) -> None:
    examples = [old for _, old, _ in made]
    assert build_pools(examples) == build_pools(examples[::-1])


def make_example(request: str, arguments: JsonObject, *, tools_in_request: str | None = None) -> Example:
    """One call of a tool that takes anything; its list stands in the system message, or in the request as given."""
    tool = Tool("do", "", {"type": "dict", "properties": {name: {} for name in arguments}})
    listed = render_tools([tool], ToolsSpan(0, 0, 0, None, ", ", ": ", False, False))
    if tools_in_request is None:
        messages: tuple[Message, ...] = (Message("system", listed), Message("user", request))
    else:
        messages = (Message("user", request.replace("TOOLS", tools_in_request.replace("LIST", listed))),)
    call = ToolCall("do", arguments)
    found = find_tools(messages)
    return Example(
        "e", "p", "train", messages, found.tools, found.span, "simple", render_calls([call]), (call,), 1.0, None
    )


POOLS: dict[str, Any] = {
    name: ["Ran", "Stalker", "Playtime", "Brief Encounter", "2031-01-01", 77, 88, 99, 9.5] for name in "abcd"
}


@pytest.mark.parametrize(
    ("request_text", "arguments", "changing"),
    [
        ("Show Heat at 8 with 3 seats", {"a": "Heat", "b": 3}, "ab"),
        ("In 2024, on 2024-05-03", {"a": "2024-05-03", "b": 2024}, "ab"),
        ("On May 3, 2024", {"a": "2024-05-03", "b": 2024}, ""),
        ("Three of us on May 3, 2024", {"a": "2024-05-03", "b": 3}, "a"),
        ("Show Heat and Dust", {"a": "Heat and Dust", "b": "Heat"}, ""),
        ("Show Heat and Ran", {"a": ["Heat", "Dune"], "b": "Heat", "c": "Ran"}, "c"),
        ("A party of five in row 5", {"a": 5, "b": {"row": 5}}, ""),
        ("A party in row 5", {"a": 5, "b": {"row": 5}}, ""),
        ("Take 2", {"a": 2, "b": "2"}, ""),
        ("Take 2 or 2.5", {"a": 2, "b": 2.5}, "ab"),
        ("Both Heat", {"a": "Heat", "b": "Heat"}, ""),
        ("On 2024-02-30", {"a": "2024-02-30"}, ""),
        ("Until 9999-12-31", {"a": "9999-12-31"}, "a"),
        (
            "At \u0661\u0662:\u0663\u0660 or \uff12\uff10\uff12\uff14-01-01",
            {"a": "\u0661\u0662:\u0663\u0660", "b": "\uff12\uff10\uff12\uff14-01-01"},
            "a",
        ),
        ("Nothing of it", {"a": "Heat", "b": True, "c": None, "d": []}, ""),
    ],
)
def test_a_place_that_says_more_than_one_value_is_left_alone(
    request_text: str, arguments: JsonObject, changing: str
) -> None:
    example = make_example(request_text, arguments)
    changed: set[str] = set()
    for seed in range(40):
        new = replace_values(example, POOLS, Random(seed), seed=seed)
        if new is not None:
            changed |= {name for _, name, _, _ in changes(example, new)}
    assert changed == set(changing)


@pytest.mark.parametrize(
    "pools",
    [{}, {"a": []}, {"a": ["Heat"]}, {"a": ["One Two Three"]}, {"a": ["Heat of the Sun"]}, {"a": ["Heat and Dust", 3]}],
)
def test_a_parameter_of_which_the_corpus_knows_little_is_no_trouble(pools: Any) -> None:
    for text in ("Heat", "Heat and Dust"):
        for seed in range(10):
            new = replace_values(make_example(f"Show {text}", {"a": text}), pools, Random(seed), seed=seed)
            assert new is None or new.calls[0].arguments["a"] in pools["a"]


def test_several_words_are_put_together_anew_in_their_places() -> None:
    pools = {"a": ["Silent Harbor", "Golden River", "Broken Garden"]}
    example = make_example("Show Silent Harbor", {"a": "Silent Harbor"})
    found = [replace_values(example, pools, Random(seed), seed=seed) for seed in range(60)]
    titles = {str(new.calls[0].arguments["a"]) for new in found if new is not None}
    assert {"Golden River", "Broken Garden"} < titles
    assert {title.split()[0] for title in titles} == {"Silent", "Golden", "Broken"}
    assert {title.split()[1] for title in titles} == {"Harbor", "River", "Garden"}


@pytest.mark.parametrize("text", ["Show Heat. TOOLS", "TOOLS Show Heat.", "Show Heat on 2024-05-03. TOOLS at 7 pm"])
def test_tools_in_the_request_stay_where_and_what_they_are(text: str) -> None:
    example = make_example(text, {"a": "Heat", "b": "2024-05-03", "c": "19:00"}, tools_in_request="LIST")
    found = [new for seed in range(20) if (new := replace_values(example, POOLS, Random(seed), seed=seed)) is not None]
    assert len({new.messages[-1].content for new in found}) > 3
    for new in found:
        assert new.tools_span is not None
        assert new.messages[0].content[new.tools_span.start : new.tools_span.end] == render_tools(
            new.tools, new.tools_span
        )
        assert find_tools(new.messages).span == new.tools_span
        again = rename_tools(new, Random(0), seed=0)
        assert again is not None and find_tools(again.messages).tools == again.tools


def test_what_only_the_tool_list_says_is_left_alone() -> None:
    shown = make_example("Show it. TOOLS", {"a": "dict", "b": 0}, tools_in_request="LIST")
    unknown = replace(make_example("Show Heat. TOOLS", {"a": "Heat"}, tools_in_request="LIST"), tools_span=None)
    for example in (shown, unknown):
        assert all(replace_values(example, POOLS, Random(seed), seed=seed) is None for seed in range(20))


def test_numbers_stay_in_the_range_and_form_of_the_corpus() -> None:
    pools: dict[str, Any] = {"a": [2, 9, 2.5, "x"], "b": [1.5, 9.5, 100]}
    for seed in range(60):
        new = replace_values(make_example("Take 5 at 7.5", {"a": 5, "b": 7.5}), pools, Random(seed), seed=seed)
        if new is not None:
            a, b = new.calls[0].arguments["a"], new.calls[0].arguments["b"]
            assert type(a) is int and 2 <= a <= 9
            assert type(b) is float and 1.5 <= b <= 9.5 and round(b, 1) == b


def test_times_and_dates_are_other_times_and_dates() -> None:
    example = make_example("On May 3, 2024 at 7 pm", {"a": "2024-05-03", "b": "19:00"})
    found = [new for seed in range(30) if (new := replace_values(example, {}, Random(seed), seed=seed)) is not None]
    values = sorted({(str(new.calls[0].arguments["a"]), str(new.calls[0].arguments["b"])) for new in found})
    assert len(values) > 15
    assert all("2023-03-01" < day < "2025-06-10" and "07:00" <= clock <= "22:45" for day, clock in values)
