"""Worlds' calls in, system prompts and replies out, in one of several conventions.

A convention is how an assistant is used to answer: the syntax of calls, whether values are brought into the form the specification
asks for or copied as they were said, and whether defaults are stated. The teacher knows the target convention. The base student is
used to others: unless a directive in the system prompt says otherwise it copies values as they were said, whatever the syntax.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from distill.calls.parse import CallFormat
from distill.calls.render import render_calls
from distill.embedded.world import WorldCall
from distill.records import Tool, ToolCall

DECLINE = "No function fits this request."


@dataclass(frozen=True, slots=True)
class Convention:
    """How calls are written."""

    call_format: CallFormat
    normalised: bool
    states_defaults: bool


TARGET = Convention(call_format="pythonic", normalised=True, states_defaults=False)

OPENINGS = (
    "You are an expert in composing functions.",
    "You answer requests by calling functions.",
    "You are given a request and a list of functions.",
    "You are a helpful assistant with access to functions.",
    "Answer the user with function calls.",
    "Based on the question, make one or more function calls.",
)
CONTRACTS: dict[CallFormat, tuple[str, ...]] = {
    "pythonic": (
        "Write calls in the form [func_name1(params_name1=params_value1, params_name2=params_value2...), func_name2(params)].",
        "Reply with [name(param=value, ...)] and nothing else.",
        "The format is [function(parameter=value)].",
        "Put calls in the format of [func(param=value), func(param=value)].",
    ),
    "llama_json": (
        'Respond in the format {"name": function name, "parameters": dictionary of argument name and its value}.',
        'Reply with JSON: {"name": ..., "parameters": {...}}.',
    ),
    "hermes": (
        'Write each call as <tool_call>{"name": ..., "arguments": {...}}</tool_call>.',
        "Put every call between tool_call tags as JSON.",
    ),
    "function_tag": (
        "Write each call as <function=name>{...}</function>.",
        "Reply with <function=NAME>{arguments as JSON}</function>.",
    ),
}
DECLINE_RULES = (
    "If none of the functions can be used, point it out.",
    "If no function fits, say so.",
    "Say so when no function can help.",
)
LIST_HEADERS = (
    "Here is a list of functions in JSON format that you can invoke.",
    "Functions:",
    "Here is a list of functions in json format that you can invoke:",
    "You can use these functions:",
)
DIRECTIVES_NORMALISED = (
    "Write values in the form that the description asks for.",
    "Follow the formats and enum values of the parameters.",
)
DIRECTIVES_VERBATIM = ("Copy values as the user says them.", "Write values in the user's own words.")
DIRECTIVES_STATED = ("State the defaults of parameters that are not mentioned.", "Fill in every default value.")
DIRECTIVES_OMITTED = ("Leave out parameters that are not mentioned.", "State only what the user asks for.")


@dataclass(frozen=True, slots=True)
class ToolsLayout:
    """How a tool list is written as JSON."""

    indent: int | None
    item_separator: str
    key_separator: str


USUAL_LAYOUT = ToolsLayout(indent=None, item_separator=", ", key_separator=": ")
COMPACT_LAYOUT = ToolsLayout(indent=None, item_separator=",", key_separator=":")
INDENTED_LAYOUT = ToolsLayout(indent=4, item_separator=",", key_separator=": ")


def tools_text(tools: Sequence[Tool], layout: ToolsLayout) -> str:
    """A JSON array of the tools."""
    plain = [{"name": tool.name, "description": tool.description, "parameters": tool.parameters} for tool in tools]
    return json.dumps(
        plain, indent=layout.indent, separators=(layout.item_separator, layout.key_separator), ensure_ascii=False
    )


def draw_layout(random: Random) -> ToolsLayout:
    """The usual layout mostly, a compact or an indented one now and then."""
    return random.choices((USUAL_LAYOUT, COMPACT_LAYOUT, INDENTED_LAYOUT), weights=(14, 4, 1))[0]


def system_text(tools_json: str, convention: Convention, random: Random, *, directives: bool) -> str:
    """A system prompt that asks for the convention's syntax; the form of values is only said with `directives`."""
    lines = [random.choice(OPENINGS), random.choice(CONTRACTS[convention.call_format]), random.choice(DECLINE_RULES)]
    if directives:
        lines.append(random.choice(DIRECTIVES_NORMALISED if convention.normalised else DIRECTIVES_VERBATIM))
        lines.append(random.choice(DIRECTIVES_STATED if convention.states_defaults else DIRECTIVES_OMITTED))
    rules = lines[1:]
    random.shuffle(rules)
    separator = random.choice((" ", " ", "\n"))
    return separator.join([lines[0], *rules]) + "\n" + random.choice(LIST_HEADERS) + "\n" + tools_json


def written_calls(calls: Sequence[WorldCall], convention: Convention) -> tuple[ToolCall, ...]:
    """The calls with arguments in the convention's form of values."""
    return tuple(
        ToolCall(
            name=call.world_tool.tool.name,
            arguments=call.arguments(normalised=convention.normalised, states_defaults=convention.states_defaults),
        )
        for call in calls
    )


def reply_text(calls: Sequence[WorldCall], convention: Convention) -> str:
    """What an assistant of this convention replies; a fixed sentence if nothing is to be called."""
    return render_calls(written_calls(calls, convention), convention.call_format) if calls else DECLINE
