"""A folder in; the demo customer's files written into it: training prompts, two test sets with answers, in Bedrock's and BFCL's shapes.

*Same tools* asks the customer's 30 fixed tools in requests never seen; *new tools* asks functions, in phrasings and with values, that
stand in no training at all.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from distill.calls.match import exactly
from distill.embedded.conventions import TARGET, USUAL_LAYOUT, tools_text, written_calls
from distill.embedded.domains import CUSTOMER, NEW_TOOLS, load_domain
from distill.embedded.values import Pool
from distill.embedded.world import WorldRequest, WorldTool, compose, draw_call, draw_tool
from distill.records import Category, JsonObject, JsonValue, Tool
from distill.run_dir import atomic_file
from distill.sources.bedrock_jsonl import SCHEMA_VERSION

NUM_TRAIN = 220
NUM_TEST_PER_CATEGORY = 500
CATEGORIES: tuple[Category, ...] = ("simple", "multiple")
TEST_SETS: dict[str, tuple[str, Pool]] = {"same_tools": (CUSTOMER, "seen"), "new_tools": (NEW_TOOLS, "new")}
SYSTEM = (
    "You are the assistant of Lumen Nights, an events and streaming company. You do what the user asks by calling functions. "
    "Put calls in the format of [func_name1(params_name1=params_value1, params_name2=params_value2...), func_name2(params)] "
    "and write nothing else. If none of the functions can be used, point it out.\n"
    "Here is a list of functions in JSON format that you can invoke.\n"
)


@dataclass(frozen=True, slots=True)
class CustomerPrompt:
    """A request, the tools shown with it, and the calls that answer it."""

    category: Category
    tools: tuple[Tool, ...]
    request: WorldRequest


def write_customer_files(folder: Path, *, seed: int) -> None:
    """Write `train.jsonl`, and for each test set its prompts, its answers and its BFCL questions. The same seed gives the same bytes."""
    customer = _fixed_tools(CUSTOMER)
    train = _prompts(customer, NUM_TRAIN // len(CATEGORIES), Random(f"{seed}-train"), "seen", avoid=set())
    said = {prompt.request.text for prompt in train}
    same = _prompts(customer, NUM_TEST_PER_CATEGORY, Random(f"{seed}-same"), "seen", avoid=said)
    new = _prompts(_fixed_tools(NEW_TOOLS), NUM_TEST_PER_CATEGORY, Random(f"{seed}-new"), "new", avoid=said)
    _write_lines(folder / "train.jsonl", map(bedrock_record, train))
    for name, prompts in (("same_tools", same), ("new_tools", new)):
        _write_lines(folder / f"{name}.jsonl", map(bedrock_record, prompts))
        _write_lines(
            folder / f"{name}.answers.jsonl",
            (bfcl_answer(prompt, f"{name}_{index}") for index, prompt in enumerate(prompts)),
        )
        _write_lines(
            folder / f"{name}.questions.jsonl",
            (bfcl_question(prompt, f"{name}_{index}") for index, prompt in enumerate(prompts)),
        )


def customer_prompts(test_set: str, per_category: int, random: Random) -> list[CustomerPrompt]:
    """Prompts as those of the test set `same_tools` or `new_tools`, drawn anew."""
    file_name, pool = TEST_SETS[test_set]
    return _prompts(_fixed_tools(file_name), per_category, random, pool, avoid=set())


def bedrock_record(prompt: CustomerPrompt) -> JsonObject:
    """The prompt as a `bedrock-conversation-2024` record without a reply."""
    return {
        "schemaVersion": SCHEMA_VERSION,
        "system": [{"text": SYSTEM + tools_text(prompt.tools, USUAL_LAYOUT)}],
        "messages": [{"role": "user", "content": [{"text": prompt.request.text}]}],
    }


def bfcl_question(prompt: CustomerPrompt, identity: str) -> JsonObject:
    """The prompt as a BFCL question."""
    functions: list[JsonValue] = [
        {"name": tool.name, "description": tool.description, "parameters": tool.parameters} for tool in prompt.tools
    ]
    return {
        "id": identity,
        "question": [[{"role": "user", "content": prompt.request.text}]],
        "function": functions,
    }


def bfcl_answer(prompt: CustomerPrompt, identity: str) -> JsonObject:
    """The expected calls in BFCL's possible-answer shape: exactly what the request says, nothing else."""
    by_name = {tool.name: tool for tool in prompt.tools}
    expected = [exactly(call, tool=by_name[call.name]) for call in written_calls(prompt.request.calls, TARGET)]
    return {
        "id": identity,
        "ground_truth": [
            {call.name: {name: list(options) for name, options in call.options.items()}} for call in expected
        ],
    }


def _fixed_tools(file_name: str) -> list[WorldTool]:
    domain = load_domain(file_name)
    return [
        draw_tool(domain, concept, Random(concept.key), naming="first", spelling="bfcl", all_optional=True)
        for concept in domain.concepts
    ]


def _prompts(
    tools: Sequence[WorldTool], per_category: int, random: Random, pool: Pool, *, avoid: set[str]
) -> list[CustomerPrompt]:
    """Both categories in turn, every tool equally often, no request twice."""
    said = set(avoid)
    prompts: list[CustomerPrompt] = []
    for category in CATEGORIES:
        for wanted in _in_turn(tools, per_category, random):
            while True:
                request = compose([draw_call(wanted, random, pool)], random, pool)
                if request.text not in said:
                    break
            said.add(request.text)
            prompts.append(CustomerPrompt(category, _shown(wanted, tools, category, random), request))
    random.shuffle(prompts)
    return prompts


def _in_turn(tools: Sequence[WorldTool], count: int, random: Random) -> Iterator[WorldTool]:
    for index in range(count):
        if index % len(tools) == 0:
            order = random.sample(list(tools), len(tools))
        yield order[index % len(tools)]


def _shown(wanted: WorldTool, tools: Sequence[WorldTool], category: Category, random: Random) -> tuple[Tool, ...]:
    if category == "simple":
        return (wanted.tool,)
    others = random.sample([tool for tool in tools if tool is not wanted], random.randint(1, 3))
    shown = [wanted.tool, *(tool.tool for tool in others)]
    random.shuffle(shown)
    return tuple(shown)


def _write_lines(path: Path, values: Iterator[JsonObject]) -> None:
    with atomic_file(path) as handle:
        for value in values:
            handle.write(json.dumps(value, ensure_ascii=False) + "\n")
