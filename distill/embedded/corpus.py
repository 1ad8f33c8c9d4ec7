"""A random source in, conversations to pretrain on out: many requests behind one system prompt, in a role's conventions.

The teacher answers in the target convention and does the other jobs of `distill.instructions`. The base student answers in other
conventions, with some of the target's syntax among them. Neither ever sees the customer's tools or the new tools.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Literal

from distill.calls.parse import CallFormat
from distill.embedded import conventions
from distill.embedded.conventions import TARGET, Convention, draw_layout, reply_text, system_text, tools_text
from distill.embedded.domains import Domain, load_domain, pretraining_domains
from distill.embedded.invented import chatter, invent_domain
from distill.embedded.values import Value
from distill.embedded.world import Naming, Spelling, WorldCall, WorldTool, compose, draw_call, draw_tool, draw_tools
from distill.instructions.jobs import JOBS, Job, instruction, request_and_calls
from distill.records import Message

ModelRole = Literal["teacher", "student"]
NEW_REQUEST = "Write a new request."
INVENTED_SHARE = 0.5
CHATTER_SHARE = 0.15
NAMINGS: tuple[Naming, ...] = ("varied", "reworded", "reworded", "coined")
SPELLINGS: tuple[Spelling, ...] = ("bfcl", "bfcl", "bfcl", "json_schema")
STUDENT_FORMATS: tuple[CallFormat, ...] = (*("pythonic",) * 5, *("llama_json",) * 3, "hermes", "function_tag")


@dataclass(frozen=True, slots=True)
class Conversation:
    """One system message and several independent exchanges behind it, each a user message and the reply to learn."""

    system: Message
    exchanges: tuple[tuple[Message, str], ...]


def draw_conversation(
    role: ModelRole, num_tools: int, num_exchanges: int, random: Random, *, plain: bool = False
) -> Conversation:
    """One conversation of a role. The teacher spends an eighth of its conversations on jobs other than answering.

    Half of the conversations are about tools invented for them alone. Of the tools of hand-written domains a quarter bears coined
    names and enum members, and for half the words that tie requests to specifications are coined. Who goes by memory of words is wrong
    there, so specifications are read.

    A `plain` one is the first lesson: required parameters only, one call per request, no other job.
    """
    domains, naming = _draw_domains(num_tools, random)
    if plain:
        return _plain_conversation(
            role, draw_tools(domains, num_tools, random, naming=naming, spelling="bfcl"), num_exchanges, random
        )
    spelling = random.choice(SPELLINGS)
    tools = draw_tools(domains, num_tools, random, naming=naming, spelling=spelling)
    listed = tools_text([tool.tool for tool in tools], draw_layout(random))
    if role == "teacher" and random.random() < 0.125:
        job = random.choice(JOBS)
        system = Message("system", instruction(job, "compact", tools_text=listed))
        return Conversation(
            system=system, exchanges=tuple(_job_exchange(job, tools, random) for _ in range(num_exchanges))
        )
    convention, directives = (TARGET, random.random() < 0.15) if role == "teacher" else _draw_student_convention(random)
    system = Message("system", system_text(listed, convention, random, directives=directives))
    absent = _absent_tools(tools, naming, random)
    exchanges = tuple(_answer_exchange(tools, absent, convention, random) for _ in range(num_exchanges))
    return Conversation(system=system, exchanges=exchanges)


def draw_invented_conversation(num_tools: int, random: Random) -> Conversation:
    """One plain exchange of the teacher's about tools invented for it."""
    tools = draw_tools((invent_domain(random, num_tools + 1),), num_tools, random, naming="varied", spelling="bfcl")
    return _plain_conversation("teacher", tools, 1, random)


def _draw_domains(num_tools: int, random: Random) -> tuple[tuple[Domain, ...], Naming]:
    """An invented domain with a function more than is shown, or the hand-written ones; and how their tools are named."""
    if random.random() < INVENTED_SHARE:
        return (invent_domain(random, num_tools + 1),), "varied"
    return tuple(load_domain(name) for name in pretraining_domains()), random.choice(NAMINGS)


def _plain_conversation(role: ModelRole, drawn: list[WorldTool], num_exchanges: int, random: Random) -> Conversation:
    tools = [_required_only(tool) for tool in drawn]
    convention, directives = (TARGET, False) if role == "teacher" else _draw_student_convention(random)
    listed = tools_text([tool.tool for tool in tools], conventions.USUAL_LAYOUT)
    system = Message("system", system_text(listed, convention, random, directives=directives))
    exchanges = []
    for _ in range(num_exchanges):
        exchanges.append(_exchange([draw_call(random.choice(tools), random, "seen")], convention, random))
    return Conversation(system=system, exchanges=tuple(exchanges))


def _required_only(world_tool: WorldTool) -> WorldTool:
    names = {key: name for key, name in world_tool.names.items() if key in world_tool.concept.required}
    parameters = world_tool.tool.parameters
    properties = parameters["properties"]
    assert isinstance(properties, dict)
    kept = {name: schema for name, schema in properties.items() if name in names.values()}
    return replace(
        world_tool, names=names, tool=replace(world_tool.tool, parameters={**parameters, "properties": kept})
    )


def draw_calls(tools: list[WorldTool], random: Random) -> tuple[WorldCall, ...]:
    """One call mostly; two or three, of the same or of different tools, in one of seven requests."""
    count = random.choices((1, 2, 3), weights=(12, 1.6, 0.4))[0]
    return tuple(draw_call(random.choice(tools), random, "seen") for _ in range(count))


def corpus_texts(random: Random, count: int) -> Iterator[str]:
    """Texts to train the tokenizer on: both roles' conversations."""
    for _ in range(count):
        role: ModelRole = random.choice(("teacher", "student"))
        conversation = draw_conversation(role, random.choice((1, 1, 2)), 3, random)
        yield f"system\n\n{conversation.system.content}"
        for user, reply in conversation.exchanges:
            yield f"user\n\n{user.content}"
            yield f"assistant\n\n{reply}"


def _draw_student_convention(random: Random) -> tuple[Convention, bool]:
    """Other syntaxes half of the time. With a directive any form of values; without one values are always copied as said."""
    call_format = random.choice(STUDENT_FORMATS)
    if random.random() < 0.5:
        return Convention(
            call_format=call_format, normalised=random.random() < 0.7, states_defaults=random.random() < 0.3
        ), True
    return Convention(call_format=call_format, normalised=False, states_defaults=random.random() < 0.3), False


def _absent_tools(tools: list[WorldTool], naming: Naming, random: Random) -> list[WorldTool]:
    """Tools of the same and of other domains that are not on the list: requests for them must be declined."""
    present = {tool.concept.key for tool in tools}
    home = tools[0].domain
    elsewhere = load_domain(random.choice(pretraining_domains())) if random.random() < 0.5 else invent_domain(random, 3)
    others = draw_tools((elsewhere,), 2, random, naming="varied", spelling="bfcl")
    chosen = [tool for tool in others if tool.domain is not home or tool.concept.key not in present]
    near = [concept for concept in home.concepts if concept.key not in present]
    if near:
        chosen.append(draw_tool(home, random.choice(near), random, naming=naming, spelling="bfcl"))
    return chosen


def _answer_exchange(
    tools: list[WorldTool], absent: list[WorldTool], convention: Convention, random: Random
) -> tuple[Message, str]:
    if absent and random.random() < 0.1:
        request = compose([draw_call(random.choice(absent), random, "seen")], random, "seen")
        return Message("user", request.text), conventions.DECLINE
    return _exchange(draw_calls(tools, random), convention, random)


def _exchange(calls: Sequence[WorldCall], convention: Convention, random: Random) -> tuple[Message, str]:
    text = compose(calls, random, "seen").text
    said = chatter(text, random) if random.random() < CHATTER_SHARE else text
    return Message("user", said), reply_text(calls, convention)


def _job_exchange(job: Job, tools: list[WorldTool], random: Random) -> tuple[Message, str]:
    calls = draw_calls(tools, random)
    text = compose(calls, random, "seen").text
    if job == "new_request":
        return Message("user", NEW_REQUEST), request_and_calls(text, reply_text(calls, TARGET))
    if job == "paraphrase":
        other = [replace(call, intent=random.choice(call.world_tool.concept.intents)) for call in calls]
        return Message("user", text), compose(other, random, "seen").text
    if random.random() < 0.5:
        return Message("user", request_and_calls(text, reply_text(calls, TARGET))), "yes"
    wrong = (_spoil(calls[0], tools, random), *calls[1:])
    return Message("user", request_and_calls(text, reply_text(wrong, TARGET))), "no"


def _spoil(call: WorldCall, tools: list[WorldTool], random: Random) -> WorldCall:
    """The call with one thing wrong: another tool, another value, or an argument too few."""
    others = [tool for tool in tools if tool is not call.world_tool]
    kind = random.choice(("value", "value", "missing", "tool"))
    if kind == "tool" and others:
        return draw_call(random.choice(others), random, "seen")
    if kind == "missing" and len(call.values) > 1:
        gone = random.choice(list(call.values))
        return replace(call, values={key: value for key, value in call.values.items() if key != gone})
    for _ in range(20):
        key = random.choice(list(call.values))
        other: Value = draw_call(call.world_tool, random, "seen").values.get(key, call.values[key])
        if other.written != call.values[key].written:
            return replace(call, values={**call.values, key: other})
    return replace(call, values={})
