"""An example in, the same example with functions and parameters under neutral names out; descriptions stay.

Hammer's function masking (arXiv 2410.04587): a model that cannot go by names has to read the specification. Only the tool list in
the prompt and the calls change.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from random import Random

from distill.calls.render import render_calls
from distill.records import Example, JsonObject, Lineage, Tool, ToolCall, content_id
from distill.sources.tools_in_text import replace_tools

METHOD = "rename"
CONSONANTS, VOWELS = "bcdfghklmnprstvwz", "aeiou"


@dataclass(frozen=True, slots=True)
class Renaming:
    """New names of a tool and of its parameters."""

    tool: str
    parameters: Mapping[str, str]


def rename_tools(example: Example, random: Random, *, seed: int) -> Example | None:
    """The example under new names; None if the place or layout of its tool list is not known exactly, or a sentence names a tool."""
    if example.tools_span is None or (not example.calls and any(tool.name in example.reply for tool in example.tools)):
        return None
    taken: set[str] = set()
    renamings = {tool.name: _draw_renaming(tool, random, taken) for tool in example.tools}
    tools = tuple(_renamed(tool, renamings[tool.name]) for tool in example.tools)
    messages, span = replace_tools(example.messages, tools, example.tools_span)
    calls = tuple(
        ToolCall(
            renamings[call.name].tool,
            {renamings[call.name].parameters.get(name, name): value for name, value in call.arguments.items()},
        )
        for call in example.calls
    )
    reply = render_calls(calls) if calls else example.reply
    identity = content_id([[message.role, message.content] for message in messages], reply)
    lineage = Lineage(example_id=example.id, method=METHOD, seed=seed)
    return replace(
        example, id=identity, messages=messages, tools=tools, tools_span=span, calls=calls, reply=reply, lineage=lineage
    )


def _draw_renaming(tool: Tool, random: Random, taken: set[str]) -> Renaming:
    properties = tool.parameters.get("properties")
    names = list(properties) if isinstance(properties, dict) else []
    own: set[str] = set()
    return Renaming(tool=_word(random, taken), parameters={name: _word(random, own) for name in names})


def _renamed(tool: Tool, renaming: Renaming) -> Tool:
    parameters: JsonObject = dict(tool.parameters)
    properties, required = parameters.get("properties"), parameters.get("required")
    if isinstance(properties, dict):
        parameters["properties"] = {renaming.parameters[name]: schema for name, schema in properties.items()}
    if isinstance(required, list):
        parameters["required"] = [renaming.parameters.get(str(name), str(name)) for name in required]
    return replace(tool, name=renaming.tool, parameters=parameters)


def _word(random: Random, taken: set[str]) -> str:
    """A pronounceable word of four to eight letters that is not taken yet."""
    while True:
        word = "".join(random.choice(CONSONANTS) + random.choice(VOWELS) for _ in range(random.randint(2, 4)))
        if word not in taken:
            taken.add(word)
            return word
