"""An example in, the same example with other argument values out, replaced in request and call together.

A value is replaced only where the request says it exactly once, and says nothing else there. New values are of the same type: other
numbers of the range seen in the corpus, other dates and times, other texts that the corpus gives the same parameter, or their words
put together anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from random import Random

from distill.augmentation.located import CLOCK, ISO_DATE, Located, locate, places
from distill.calls.render import render_calls
from distill.records import Example, JsonValue, Lineage, Message, Tool, ToolCall, ToolsSpan, content_id

METHOD = "values"
KEPT_SHARE = 0.2  # of the values that could be replaced, so that old and new stand side by side
RECOMBINED_SHARE = 0.5  # of new texts of several words

Pools = Mapping[str, Sequence[JsonValue]]


@dataclass(frozen=True, slots=True)
class Replacement:
    """Another value for one argument, and where the request says the old one."""

    call_index: int
    name: str
    value: JsonValue
    located: Located


def build_pools(examples: Iterable[Example]) -> Pools:
    """The values that the corpus gives each parameter, by parameter name, in a fixed order without repeats."""
    pools: dict[str, dict[str, JsonValue]] = {}
    for example in examples:
        for call in example.calls:
            for name, value in call.arguments.items():
                pools.setdefault(name, {})[repr(value)] = value
    return {name: [values[key] for key in sorted(values)] for name, values in pools.items()}


def replace_values(example: Example, pools: Pools, random: Random, *, seed: int) -> Example | None:
    """The example with other values, or None if nothing can be replaced exactly."""
    request = example.messages[-1].content
    replacements = _draw_replacements(example, request, pools, random)
    if not replacements:
        return None
    span = example.tools_span
    for replacement in sorted(replacements, key=lambda item: -item.located.start):
        place, said = replacement.located, replacement.located.say(replacement.value)
        request = request[: place.start] + said + request[place.end :]
        if span is not None and _is_in_request(span, example) and place.end <= span.start:
            longer = len(said) - (place.end - place.start)
            span = replace(span, start=span.start + longer, end=span.end + longer)
    calls = _with_values(example.calls, replacements)
    messages = (*example.messages[:-1], Message("user", request))
    reply = render_calls(calls)
    identity = content_id([[message.role, message.content] for message in messages], reply)
    lineage = Lineage(example_id=example.id, method=METHOD, seed=seed)
    return replace(example, id=identity, messages=messages, tools_span=span, calls=calls, reply=reply, lineage=lineage)


def _draw_replacements(example: Example, request: str, pools: Pools, random: Random) -> list[Replacement]:
    by_name = {tool.name: tool for tool in example.tools}
    said = [
        (index, name, places(request, value))
        for index, call in enumerate(example.calls)
        for name, argument in call.arguments.items()
        for value in _leaves(argument)
    ]
    chosen: list[Replacement] = []
    for index, call in enumerate(example.calls):
        for name, value in call.arguments.items():
            located = locate(request, value)
            if located is None or _is_enum(by_name[call.name], name) or _is_in_tools(located, request, example):
                continue
            if any(
                (position, key) != (index, name) and _is_all_within(found, located) for position, key, found in said
            ):
                continue  # the place speaks for another argument as well: "2024" in a date, one word for two arguments
            new = _other_value(value, pools.get(name, ()), random)
            if new is not None and random.random() >= KEPT_SHARE:
                chosen.append(Replacement(index, name, new, located))
    return chosen


def _is_all_within(found: Sequence[Located], place: Located) -> bool:
    """Whether a value is said somewhere, but nowhere clear of this place."""
    return bool(found) and all(place.start < other.end and other.start < place.end for other in found)


def _is_in_tools(place: Located, request: str, example: Example) -> bool:
    """Whether the place is, or may be, part of a tool list that stands in the request."""
    span = example.tools_span
    if span is None:  # in an unknown layout
        return any(f'"{tool.name}"' in request for tool in example.tools)
    return _is_in_request(span, example) and place.start < span.end and span.start < place.end


def _leaves(value: JsonValue) -> Iterator[JsonValue]:
    if isinstance(value, list | dict):
        for item in value if isinstance(value, list) else value.values():
            yield from _leaves(item)
    else:
        yield value


def _is_in_request(span: ToolsSpan, example: Example) -> bool:
    return span.message_index == len(example.messages) - 1


def _is_enum(tool: Tool, name: str) -> bool:
    properties = tool.parameters.get("properties")
    schema = properties.get(name) if isinstance(properties, dict) else None
    return isinstance(schema, dict) and ("enum" in schema or "const" in schema)


def _other_value(value: JsonValue, pool: Sequence[JsonValue], random: Random) -> JsonValue:
    """Another value of the same kind; None if there is no other."""
    if isinstance(value, int):
        numbers = [item for item in pool if type(item) is int]
        low, high = min([value, *numbers]), max([value, *numbers])
        return _different(value, [random.randint(low, high) for _ in range(5)])
    if isinstance(value, float):
        digits = len(repr(value).partition(".")[2])
        floats = [item for item in pool if type(item) is float]
        low_f, high_f = min([value, *floats]), max([value, *floats])
        return _different(value, [round(random.uniform(low_f, high_f), digits) for _ in range(5)])
    assert isinstance(value, str)
    if ISO_DATE.fullmatch(value):
        return _other_date(value, random)
    if CLOCK.fullmatch(value):
        return _different(
            value, [f"{random.randint(7, 22):02d}:{random.choice((0, 15, 30, 45)):02d}" for _ in range(5)]
        )
    return _other_text(value, [item for item in pool if isinstance(item, str)], random)


def _other_date(value: str, random: Random) -> JsonValue:
    try:
        return (date.fromisoformat(value) + timedelta(days=random.choice((-1, 1)) * random.randint(1, 400))).isoformat()
    except (ValueError, OverflowError):  # 2024-02-30; the ends of the calendar
        return None


def _other_text(value: str, pool: Sequence[str], random: Random) -> JsonValue:
    words = value.split()
    alike = [text for text in pool if len(text.split()) == len(words)]
    if len(words) > 1 and alike and random.random() < RECOMBINED_SHARE:
        recombined = " ".join(random.choice(alike).split()[position] for position in range(len(words)))
        return _different(value, [recombined, *(random.choice(alike) for _ in range(4))])
    candidates = alike or pool
    return _different(value, [random.choice(candidates) for _ in range(5)] if candidates else [])


def _different(value: JsonValue, candidates: Sequence[JsonValue]) -> JsonValue:
    return next((candidate for candidate in candidates if candidate != value), None)


def _with_values(calls: Sequence[ToolCall], replacements: Sequence[Replacement]) -> tuple[ToolCall, ...]:
    changed = [dict(call.arguments) for call in calls]
    for replacement in replacements:
        changed[replacement.call_index][replacement.name] = replacement.value
    return tuple(ToolCall(call.name, arguments) for call, arguments in zip(calls, changed, strict=True))
