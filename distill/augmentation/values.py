"""An example in, the same example with other argument values out, replaced in request and call together.

A value is replaced only where the request says it exactly once. New values are of the same type: other numbers of the range seen in
the corpus, other dates and times, other texts that the corpus gives the same parameter, or their words put together anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from random import Random

from distill.augmentation.located import CLOCK, ISO_DATE, Located, locate
from distill.calls.render import render_calls
from distill.records import Example, JsonValue, Lineage, Message, Tool, ToolCall, content_id

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
    for replacement in sorted(replacements, key=lambda item: -item.located.start):
        place = replacement.located
        request = request[: place.start] + place.say(replacement.value) + request[place.end :]
    calls = _with_values(example.calls, replacements)
    messages = (*example.messages[:-1], Message("user", request))
    reply = render_calls(calls)
    identity = content_id([[message.role, message.content] for message in messages], reply)
    lineage = Lineage(example_id=example.id, method=METHOD, seed=seed)
    return replace(example, id=identity, messages=messages, calls=calls, reply=reply, lineage=lineage)


def _draw_replacements(example: Example, request: str, pools: Pools, random: Random) -> list[Replacement]:
    by_name = {tool.name: tool for tool in example.tools}
    chosen: list[Replacement] = []
    for index, call in enumerate(example.calls):
        for name, value in call.arguments.items():
            located = locate(request, value)
            if located is None or _is_enum(by_name[call.name], name) or _said_for_another(example, index, name, value):
                continue
            new = _other_value(value, pools.get(name, ()), random)
            if new is not None and random.random() >= KEPT_SHARE:
                chosen.append(Replacement(index, name, new, located))
    return chosen if _are_apart([item.located for item in chosen]) else []


def _said_for_another(example: Example, index: int, name: str, value: JsonValue) -> bool:
    """Whether another argument of the reply has the same value, so that one place in the request speaks for both."""
    return any(
        other == value and type(other) is type(value) and (position, key) != (index, name)
        for position, call in enumerate(example.calls)
        for key, other in call.arguments.items()
    )


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
        return (date.fromisoformat(value) + timedelta(days=random.choice((-1, 1)) * random.randint(1, 400))).isoformat()
    if CLOCK.fullmatch(value):
        return _different(value, [f"{random.randint(7, 22):02d}:{random.choice((0, 15, 30, 45)):02d}" for _ in range(5)])
    return _other_text(value, [item for item in pool if isinstance(item, str)], random)


def _other_text(value: str, pool: Sequence[str], random: Random) -> JsonValue:
    alike = [text for text in pool if len(text.split()) == len(value.split())] or list(pool)
    words = value.split()
    if len(words) > 1 and random.random() < RECOMBINED_SHARE:
        recombined = " ".join(random.choice(alike).split()[position] for position in range(len(words)) if alike)
        if len(recombined.split()) == len(words):
            return _different(value, [recombined, *(random.choice(alike) for _ in range(4))])
    return _different(value, [random.choice(alike) for _ in range(5)])


def _different(value: JsonValue, candidates: Sequence[JsonValue]) -> JsonValue:
    return next((candidate for candidate in candidates if candidate != value), None)


def _are_apart(places: Sequence[Located]) -> bool:
    ordered = sorted(places, key=lambda place: place.start)
    return all(first.end <= second.start for first, second in zip(ordered, ordered[1:], strict=False))


def _with_values(calls: Sequence[ToolCall], replacements: Sequence[Replacement]) -> tuple[ToolCall, ...]:
    changed = [dict(call.arguments) for call in calls]
    for replacement in replacements:
        changed[replacement.call_index][replacement.name] = replacement.value
    return tuple(ToolCall(call.name, arguments) for call, arguments in zip(calls, changed, strict=True))
