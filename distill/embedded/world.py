"""Domains and a random source in; tool specifications, requests and the calls that answer them out.

A concept becomes a tool by choosing names, descriptions and optional parameters. A request is an intent and a clause per stated
argument, in a sentence frame. Whoever reads the tool's specification and the request can tell every argument; nothing else is needed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from random import Random
from typing import Any, Literal

from distill.embedded import values
from distill.embedded.domains import Concept, Domain, Kind, Param, load_domain
from distill.embedded.values import Pool, Value
from distill.records import JsonObject, JsonValue, Tool

Naming = Literal["varied", "reworded", "coined", "first"]
Spelling = Literal["bfcl", "json_schema"]

TYPES = {
    "bfcl": {"integer": "integer", "float": "float", "object": "dict"},
    "json_schema": {"integer": "integer", "float": "number", "object": "object"},
}
FRAMES: dict[Pool, tuple[str, ...]] = {
    "seen": (
        "{x}.", "{X}.", "{X}.", "{X}.", "Please {x}.", "Please {x}.", "Can you {x}?", "Could you {x}?", "I want to {x}.", "I need to {x}.",
        "I would like to {x}.", "Help me {x}.", "Hi, can you {x}?", "{X}, please.", "We want to {x}.", "Would you {x}?", "I have to {x}.",
        "Hello! Please {x}.", "My plan is to {x}.", "Now {x}.", "It is time to {x}.", "Let me {x}.",
    ),
    "new": (
        "Kindly {x}.", "I am trying to {x}.", "Is it possible to {x}?", "My friends asked me to {x}.", "Next, {x}.", "{X} for me.",
        "I'd love to {x}.", "Hey there, {x}.", "Are you able to {x}?", "{X} if you can.", "Today I must {x}.",
    ),
}  # fmt: skip
SECOND_SENTENCES: dict[Pool, tuple[str, ...]] = {
    "seen": ("Make it {c}.", "That should be {c}.", "Please do it {c}.", "By the way, {c}."),
    "new": ("To be exact, {c}.", "I mean {c}.", "And this {c}."),
}
JOINTS: dict[Pool, tuple[str, ...]] = {
    "seen": (" Also {x}.", " Then {x}.", " And {x}.", " After that, {x}.", " Besides, {x}."),
    "new": (" In addition, {x}.", " Next to that, {x}."),
}


@dataclass(frozen=True, slots=True)
class WorldTool:
    """A concept as one developer would publish it.

    `names` maps parameter keys to the names in `tool.parameters`, `members` the enum members of the domain to those published,
    `lexicon` words of the domain to the coined words that its names, descriptions and requests use instead.
    """

    tool: Tool
    domain: Domain
    concept: Concept
    names: Mapping[str, str]
    members: Mapping[str, str]
    lexicon: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class WorldCall:
    """A call before it is written down: stated values by parameter key, and the defaults of what was left unsaid."""

    world_tool: WorldTool
    values: Mapping[str, Value]
    intent: str

    def arguments(self, *, normalised: bool, states_defaults: bool) -> JsonObject:
        """Arguments by name in the order of the specification, in the chosen form of values."""
        arguments: JsonObject = {}
        for key, name in self.world_tool.names.items():
            default = self.world_tool.domain.params[key].default
            if key in self.values:
                value = self.values[key]
                arguments[name] = self._published(value.written) if normalised else value.verbatim
            elif states_defaults and default is not None:
                arguments[name] = self._published(default)
        return arguments

    def _published(self, value: JsonValue) -> JsonValue:
        members = self.world_tool.members
        if isinstance(value, list):
            return [self._published(item) for item in value]
        return members.get(value, value) if isinstance(value, str) else value


@dataclass(frozen=True, slots=True)
class WorldRequest:
    """What a user says, and the calls that answer it."""

    text: str
    calls: tuple[WorldCall, ...]


def draw_tool(
    domain: Domain, concept: Concept, random: Random, *, naming: Naming, spelling: Spelling, all_optional: bool = False
) -> WorldTool:
    """One published form of a concept."""
    optional = [key for key in concept.optional if all_optional or random.random() < 0.7]
    keys = [*concept.required, *optional]
    lexicon = _draw_lexicon(domain, concept, random) if naming == "reworded" else {}
    names = _param_names(domain, keys, random, naming, lexicon)
    members = _coined_members(domain, keys, random) if naming == "coined" else {}
    properties: JsonObject = {
        names[key]: _schema(domain.params[key], key in optional, random, naming, spelling, members, lexicon)
        for key in keys
    }
    tool = Tool(
        name=_tool_name(concept, random, naming, lexicon),
        description=_reword(_choose(concept.descriptions, random, naming), lexicon) + ".",
        parameters={
            "type": TYPES[spelling]["object"],
            "properties": properties,
            "required": [names[key] for key in concept.required],
        },
    )
    return WorldTool(tool=tool, domain=domain, concept=concept, names=names, members=members, lexicon=lexicon)


def draw_call(world_tool: WorldTool, random: Random, pool: Pool) -> WorldCall:
    """A call of a tool: every required argument, each optional one half of the time."""
    stated = [key for key in world_tool.names if key in world_tool.concept.required or random.random() < 0.5]
    drawn = {key: draw_value(world_tool.domain.params[key].value, random, pool) for key in stated}
    return WorldCall(world_tool=world_tool, values=drawn, intent=random.choice(world_tool.concept.intents))


def draw_value(kind: Kind, random: Random, pool: Pool) -> Value:
    """A value of any kind but an object's phrase, which needs its fields apart."""
    if kind.named == "bool":
        flag = random.random() < 0.6
        return Value(spoken=str(flag), written=flag, verbatim=flag)
    if kind.named is not None:
        return values.draw_open_value(kind.named, random, pool)
    if kind.int_range is not None:
        return values.integer(random, *kind.int_range)
    if kind.float_range is not None:
        low, high, digits = kind.float_range
        return values.decimal(random, float(low), float(high), int(digits))
    if kind.enum is not None:
        member = random.choice(list(kind.enum))
        spoken = random.choice(kind.enum[member])
        return Value(spoken=spoken, written=member, verbatim=spoken)
    if kind.words is not None:
        word = random.choice(kind.words)
        return Value(spoken=word, written=word, verbatim=word)
    if kind.item is not None:
        return _draw_list(kind, random, pool)
    fields = {name: draw_value(field, random, pool) for name, field in (kind.fields_by_name or {}).items()}
    return Value(
        spoken="\n".join(value.spoken for value in fields.values()),
        written={name: value.written for name, value in fields.items()},
        verbatim={name: value.verbatim for name, value in fields.items()},
    )


def compose(calls: Sequence[WorldCall], random: Random, pool: Pool) -> WorldRequest:
    """Say the calls in English. Calling it again says the same calls in other words, with every value said alike."""
    text = _sentence(calls[0], random.choice(FRAMES[pool]), random, pool)
    for call in calls[1:]:
        text += _sentence(call, random.choice(JOINTS[pool]), random, pool)
    return WorldRequest(text=text, calls=tuple(calls))


def draw_tools(
    domains: Sequence[Domain],
    count: int,
    random: Random,
    *,
    naming: Naming,
    spelling: Spelling,
    concepts: Mapping[str, frozenset[str]] | None = None,
) -> list[WorldTool]:
    """`count` different tools, mostly of one domain. `concepts` restricts the concepts of a domain by their keys."""
    home = random.choice(domains)
    chosen: list[WorldTool] = []
    taken: set[str] = set()
    while len(chosen) < count:
        domain = home if random.random() < 0.85 else random.choice(domains)
        allowed = [concept for concept in domain.concepts if concepts is None or concept.key in concepts[domain.domain]]
        concept = random.choice(allowed)
        tool = draw_tool(domain, concept, random, naming=naming, spelling=spelling)
        if concept.key in taken or tool.tool.name in taken:
            continue
        taken |= {concept.key, tool.tool.name}
        chosen.append(tool)
    return chosen


def _draw_list(kind: Kind, random: Random, pool: Pool) -> Value:
    assert kind.item is not None and kind.size is not None
    count = random.randint(*kind.size)
    items: dict[str, Value] = {}
    for _ in range(50):
        item = draw_value(kind.item, random, pool)
        items.setdefault(str(item.written), item)
        if len(items) == count:
            break
    spoken = [item.spoken for item in items.values()]
    joined = spoken[0] if len(spoken) == 1 else ", ".join(spoken[:-1]) + f" and {spoken[-1]}"
    return Value(
        spoken=joined,
        written=[item.written for item in items.values()],
        verbatim=[item.verbatim for item in items.values()],
    )


def _sentence(call: WorldCall, frame: str, random: Random, pool: Pool) -> str:
    tool = call.world_tool
    clauses = [_clause(tool.domain.params[key], value, tool.lexicon, random) for key, value in call.values.items()]
    intent = _reword(call.intent, tool.lexicon)
    if random.random() < 0.7:
        random.shuffle(clauses)
    extra = ""
    if len(clauses) >= 3 and random.random() < 0.15:
        extra = " " + random.choice(SECOND_SENTENCES[pool]).format(c=clauses.pop())
    joint = ", " if len(clauses) >= 2 and random.random() < 0.25 else " "
    body = joint.join([intent, *clauses]) if joint == " " else intent + " " + joint.join(clauses)
    return frame.replace("{x}", body).replace("{X}", body[:1].upper() + body[1:]) + extra


def _clause(param: Param, value: Value, lexicon: Mapping[str, str], random: Random) -> str:
    if param.value.named == "bool":
        return _reword(random.choice(param.phrases_true if value.written else param.phrases_false), lexicon)
    phrase = _reword(random.choice(param.phrases), lexicon)
    if param.value.fields_by_name is None:
        return phrase.replace("{v}", value.spoken)
    for name, spoken in zip(param.value.fields_by_name, value.spoken.split("\n"), strict=True):
        phrase = phrase.replace(f"{{{name}}}", spoken)
    return phrase


def _choose(options: Sequence[str], random: Random, naming: Naming) -> str:
    return options[0] if naming == "first" else random.choice(options)


def _tool_name(concept: Concept, random: Random, naming: Naming, lexicon: Mapping[str, str]) -> str:
    if naming != "coined":
        return _reword(_choose(concept.names, random, naming), lexicon)
    words = [_short_word(random) for _ in range(random.choice((1, 2)))]
    return random.choice(("_", ".")).join(words)


def _param_names(
    domain: Domain, keys: Sequence[str], random: Random, naming: Naming, lexicon: Mapping[str, str]
) -> dict[str, str]:
    names: dict[str, str] = {}
    for key in keys:
        published = [_reword(name, lexicon) for name in domain.params[key].names]
        options = [name for name in published if name not in names.values()]
        name = _choose(options, random, naming) if options and naming != "coined" else _short_word(random)
        while name in names.values():
            name = _short_word(random)
        names[key] = name
    return names


def _short_word(random: Random) -> str:
    return values.coined_word(random, random.choice((1, 2, 2)))


WORD = re.compile(r"\{[^}]*\}|[A-Za-z][a-z]+")
FUNCTION_WORDS = frozenset(
    "that this with from into onto over what which when where whose have make made give take them they will".split()
)


def _draw_lexicon(domain: Domain, concept: Concept, random: Random) -> dict[str, str]:
    """Coined words for most of the words that tie requests to specifications, so that only reading both tells what is meant."""
    said, published = _tying_words(domain.domain, concept.key)
    return {word: _short_word(random) for word in sorted(said & published) if random.random() < 0.8}


@cache
def _tying_words(domain_name: str, concept_key: str) -> tuple[frozenset[str], frozenset[str]]:
    """Words of a concept's requests, and words of its specification."""
    domain = load_domain(domain_name)
    concept = next(concept for concept in domain.concepts if concept.key == concept_key)
    params = [domain.params[key] for key in (*concept.required, *concept.optional)]
    said = [*concept.intents, *(phrase for param in params for phrase in _all_phrases(param))]
    published = [
        *concept.names,
        *concept.descriptions,
        *(text for param in params for text in (*param.names, *param.descriptions)),
    ]
    return _words(said), _words(published)


def _all_phrases(param: Param) -> Iterable[str]:
    return (*param.phrases, *param.phrases_true, *param.phrases_false)


def _words(texts: Iterable[str]) -> frozenset[str]:
    found = (match.group().lower() for text in texts for match in WORD.finditer(text))
    return frozenset(word for word in found if len(word) >= 4 and word.isalpha()) - FUNCTION_WORDS


def _reword(text: str, lexicon: Mapping[str, str]) -> str:
    """The text with the lexicon's words in place of its own, capitals kept; placeholders in braces stay."""
    if not lexicon:
        return text

    def replacement(match: re.Match[str]) -> str:
        word = match.group()
        coined = lexicon.get(word.lower(), word)
        return coined.capitalize() if word[0].isupper() and coined != word else coined

    return WORD.sub(replacement, text)


def _coined_members(domain: Domain, keys: Sequence[str], random: Random) -> dict[str, str]:
    """Other spellings for every enum member of the parameters, codes as developers choose them."""
    members: dict[str, str] = {}
    for key in keys:
        kind = domain.params[key].value
        for member in (kind.item or kind).enum or {}:
            word = _short_word(random)
            code = random.choice((word, word.upper(), word[:3].upper() + str(random.randint(1, 99))))
            if code not in members.values():
                members[member] = code
    return members


def _schema(
    param: Param,
    optional: bool,
    random: Random,
    naming: Naming,
    spelling: Spelling,
    members: Mapping[str, str],
    lexicon: Mapping[str, str],
) -> JsonObject:
    schema = _kind_schema(param.value, spelling, members)
    described = _reword(_choose(param.descriptions, random, naming), lexicon)
    schema["description"] = described + _enum_hint(param.value, members)
    if optional and param.default is not None:
        schema["default"] = members.get(str(param.default), param.default)
    return schema


def _kind_schema(kind: Kind, spelling: Spelling, members: Mapping[str, str]) -> JsonObject:
    types = TYPES[spelling]
    if kind.named == "bool":
        return {"type": "boolean"}
    if kind.named in ("duration", "year") or kind.int_range is not None:
        return {"type": types["integer"]}
    if kind.float_range is not None:
        return {"type": types["float"]}
    if kind.enum is not None:
        return {"type": "string", "enum": [members.get(member, member) for member in kind.enum]}
    if kind.item is not None:
        return {"type": "array", "items": _kind_schema(kind.item, spelling, members)}
    if kind.fields_by_name is not None:
        fields: dict[str, Any] = {
            name: _kind_schema(field, spelling, members) for name, field in (kind.fields_by_name or {}).items()
        }
        return {"type": types["object"], "properties": fields}
    return {"type": "string"}


def _enum_hint(kind: Kind, members: Mapping[str, str]) -> str:
    """Meanings of enum members that cannot be guessed from their spelling."""
    kind = kind.item if kind.item is not None else kind
    hints = []
    for member, spoken in (kind.enum or {}).items():
        published = members.get(member, member)
        plain = published.lower().replace("_", " ")
        if any(plain not in form.lower() and form.lower() not in plain for form in spoken):
            hints.append(f"{published} = {' or '.join(spoken)}")
    return f" ({'; '.join(hints)})" if hints else ""
