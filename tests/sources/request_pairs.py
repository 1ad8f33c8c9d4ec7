"""The synthetic world's requests in pairs: the same said in another frame, and another value said in the same frame."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from random import Random

from distill.embedded.domains import load_domain, pretraining_domains
from distill.embedded.values import Pool, Value
from distill.embedded.world import FRAMES, compose, draw_call, draw_tools, draw_value

DOMAINS = [load_domain(name) for name in pretraining_domains()]


@dataclass(frozen=True, slots=True)
class Pair:
    """A request; the same clauses in another of the world's frames; another value in the same frame and clauses."""

    request: str
    reframed: str
    revalued: str


@cache
def request_pairs(count: int, *, pool: Pool) -> tuple[Pair, ...]:
    """The pairs of `count` draws, some of which give none: the new value is the old one, or no frame is the whole request's."""
    pairs = (_draw(Random(f"{pool}-{index}"), pool) for index in range(count))
    return tuple(pair for pair in pairs if pair is not None)


def _draw(random: Random, pool: Pool) -> Pair | None:
    tool = draw_tools(DOMAINS, 1, random, naming="varied", spelling="bfcl")[0]
    call, wording = draw_call(tool, random, pool), random.random()
    key = random.choice(list(call.values))
    value = draw_value(tool.domain.params[key].value, random, pool)
    if _is_same(value, call.values[key]):
        return None
    request, revalued = (
        compose([said], Random(wording), pool).text  # equal seeds, equal frames and clauses
        for said in (call, replace(call, values={**call.values, key: value}))
    )
    reframed = _reframe(request, random, pool)
    return None if reframed is None else Pair(request=request, reframed=reframed, revalued=revalued)


def _is_same(value: Value, other: Value) -> bool:
    """Whether they differ in case only or are two spellings of one (`six`, `6`)."""
    return value.written == other.written or value.spoken.casefold() == other.spoken.casefold()


def _reframe(request: str, random: Random, pool: Pool) -> str | None:
    """The request's body, which stands in the longest frame that fits, in another frame; None if it stands in none."""
    frame = max((frame for frame in FRAMES[pool] if _body(request, frame) is not None), key=len, default=None)
    body = None if frame is None else _body(request, frame)
    if frame is None or body is None:
        return None
    other = random.choice([other for other in FRAMES[pool] if other.casefold() != frame.casefold()])
    return other.replace("{X}", body[:1].upper() + body[1:]).replace("{x}", body)


def _body(request: str, frame: str) -> str | None:
    before, after = frame.replace("{X}", "{x}").split("{x}")
    if not (request.startswith(before) and request.endswith(after)):
        return None
    body = request.removeprefix(before).removesuffix(after)
    return body[:1].lower() + body[1:] if "{X}" in frame else body
