"""The synthetic world: rich enough, right by our own checker, and what must be unseen is unseen."""

from __future__ import annotations

from random import Random

import pytest

from distill.calls.match import exactly, score_text
from distill.calls.parse import parse_calls
from distill.calls.schema import why_invalid
from distill.embedded.conventions import TARGET, reply_text, written_calls
from distill.embedded.corpus import ModelRole, draw_conversation
from distill.embedded.domains import CUSTOMER, NEW_TOOLS, Domain, Kind, load_domain, pretraining_domains
from distill.embedded.invented import invent_domain
from distill.embedded.values import Pool, draw_open_value, pool_of
from distill.embedded.world import Naming, WorldTool, compose, draw_call, draw_tool, draw_tools
from distill.records import Category, ToolCall

POOLS: tuple[Pool, ...] = ("seen", "new")
ALL = (*pretraining_domains(), CUSTOMER, NEW_TOOLS)


def phrases(domain: Domain) -> set[str]:
    """Everything that a domain's requests and specifications are worded with."""
    said = {text for concept in domain.concepts for text in (*concept.intents, *concept.names, *concept.descriptions)}
    for param in domain.params.values():
        said |= {*param.phrases, *param.phrases_true, *param.phrases_false}
    return said


def words(domain: Domain) -> set[str]:
    """The open values that a domain lists itself."""
    kinds = [kind for param in domain.params.values() for kind in (param.value, param.value.item) if kind is not None]
    return {word for kind in kinds for word in kind.words or ()}


def json_types(kind: Kind) -> str:
    if kind.named == "bool":
        return "boolean"
    if kind.int_range is not None or kind.named in ("duration", "year"):
        return "integer"
    if kind.float_range is not None:
        return "float"
    return "array" if kind.item else "object" if kind.fields_by_name else "enum" if kind.enum else "string"


def test_there_are_at_least_twelve_domains_with_fifteen_concepts_each() -> None:
    domains = [load_domain(name) for name in pretraining_domains()]
    assert len({domain.domain for domain in domains}) >= 12
    assert "entertainment" in {domain.domain for domain in domains}
    assert min(len(load_domain(name).concepts) for name in ALL) >= 15
    assert len(load_domain(CUSTOMER).concepts) == 30


def test_every_type_of_parameter_occurs_and_optional_ones_have_defaults() -> None:
    kinds = {json_types(param.value) for name in ALL for param in load_domain(name).params.values()}
    assert kinds == {"string", "enum", "integer", "float", "boolean", "array", "object"}
    for name in ALL:
        assert sum(param.default is not None for param in load_domain(name).params.values()) >= 5, name


@pytest.mark.parametrize("name", ALL)
def test_defaults_are_valid_values(name: str) -> None:
    domain = load_domain(name)
    for concept in domain.concepts:
        drawn = draw_tool(domain, concept, Random(0), naming="first", spelling="bfcl", all_optional=True)
        call = draw_call(drawn, Random(0), "seen")
        stated = call.arguments(normalised=True, states_defaults=True)
        assert why_invalid([ToolCall(drawn.tool.name, stated)], [drawn.tool]) is None, concept.key


def _any_tools(random: Random, count: int) -> list[WorldTool]:
    """Tools of a file's domain, or of one invented for them."""
    naming: Naming = "varied"
    if random.random() < 0.4:
        domain = invent_domain(random, count)
    else:
        name = random.choice(ALL)
        domain = load_domain(name)
        namings: tuple[Naming, ...] = ("varied", "coined", "first")
        naming = random.choice((*namings, "reworded") if name in pretraining_domains() else namings)
    return draw_tools((domain,), count, random, naming=naming, spelling=random.choice(("bfcl", "json_schema")))


@pytest.mark.parametrize("seed", range(60))
def test_gold_calls_rendered_parsed_and_matched_are_correct(seed: int) -> None:
    random = Random(seed)
    pool: Pool = random.choice(POOLS)
    tools = _any_tools(random, random.randint(1, 4))
    calls = [draw_call(random.choice(tools), random, pool) for _ in range(random.randint(1, 3))]
    request = compose(calls, random, pool)
    plain = [tool.tool for tool in tools]
    written = written_calls(calls, TARGET)
    text = reply_text(request.calls, TARGET)
    assert parse_calls(text, mode="strict") == written
    assert why_invalid(written, plain) is None
    by_name = {tool.name: tool for tool in plain}
    expected = [exactly(call, tool=by_name[call.name]) for call in written]
    category: Category = "parallel" if len(calls) > 1 else "simple" if len(plain) == 1 else "multiple"
    if all(tool.parameters["type"] == "dict" for tool in plain):  # BFCL knows its own type names only
        assert score_text(text, expected, tools=plain, category=category, finish_reason="stop").verdict == "correct"


@pytest.mark.parametrize("seed", range(20))
def test_a_request_says_every_value_of_its_call(seed: int) -> None:
    random = Random(seed)
    call = draw_call(_any_tools(random, 1)[0], random, "seen")
    text = compose([call], random, "seen").text.lower()
    for key, value in call.values.items():
        if call.world_tool.domain.params[key].value.named != "bool":
            assert all(part.lower() in text for part in value.spoken.split("\n")), (key, value)


def test_new_tools_share_no_wording_and_no_listed_value_with_any_training() -> None:
    trained_on = [load_domain(name) for name in (*pretraining_domains(), CUSTOMER)]
    new = load_domain(NEW_TOOLS)
    assert not phrases(new) & set().union(*map(phrases, trained_on))
    assert not words(new) & set().union(*map(words, trained_on))


def test_the_customers_tools_are_in_no_pretraining() -> None:
    customer = load_domain(CUSTOMER)
    pretrained = [load_domain(name) for name in pretraining_domains()]
    names = {text for domain in pretrained for concept in domain.concepts for text in concept.names}
    assert not names & {text for concept in customer.concepts for text in concept.names}


def test_open_values_stay_in_their_pool() -> None:
    for seed in range(50):
        for pool in POOLS:
            assert pool_of(draw_open_value("person", Random(seed), pool).spoken) == pool


@pytest.mark.parametrize("role", ["teacher", "student"])
def test_a_conversation_depends_on_its_seed_alone(role: ModelRole) -> None:
    assert draw_conversation(role, 3, 4, Random("x")) == draw_conversation(role, 3, 4, Random("x"))
