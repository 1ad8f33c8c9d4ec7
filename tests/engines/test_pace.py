"""The pace finds what a server takes: it grows while nothing resists, halves once for each burst of refusals, and never passes its bounds."""

from __future__ import annotations

from collections import deque
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from distill.engines.pace import FIRST_LIMIT, Pace


def run(pace: Pace, capacity: int, rounds: int, random: Random) -> list[int]:
    """A server that refuses what is beyond its capacity, in a random order of ends; how many were under way after each."""
    under_way: deque[tuple[int, bool]] = deque()
    history = []
    for _ in range(rounds):
        while pace.has_room():
            under_way.append((pace.start(), len(under_way) >= capacity))
        under_way.rotate(random.randrange(len(under_way)))
        number, is_refused = under_way.popleft()
        pace.push_back(number) if is_refused else pace.succeed()
        pace.end()
        history.append(pace.outstanding + 1)
    return history


def test_without_resistance_it_doubles_with_each_round_up_to_the_maximum() -> None:
    pace = Pace(max_limit=256)
    assert pace.limit == FIRST_LIMIT
    history = run(pace, capacity=10**6, rounds=FIRST_LIMIT + 2 * FIRST_LIMIT, random=Random(0))
    assert 4 * FIRST_LIMIT - 2 <= pace.limit <= 4 * FIRST_LIMIT + 1 and max(history) <= pace.limit
    pace = Pace(max_limit=256)
    run(pace, capacity=10**6, rounds=2000, random=Random(0))
    assert pace.limit == 256


@given(st.integers(2, 200), st.integers(0, 10))
def test_it_settles_near_what_the_server_takes(capacity: int, seed: int) -> None:
    pace = Pace(max_limit=256)
    late = run(pace, capacity, rounds=9000, random=Random(seed))[6000:]
    assert capacity / 3 <= sum(late) / len(late) <= capacity * 1.2 + 2
    assert 1 <= pace.limit <= 256


def test_one_burst_of_refusals_halves_once() -> None:
    pace = Pace(max_limit=64)
    numbers = [pace.start() for _ in range(16)]
    for number in numbers:
        pace.push_back(number)
        pace.end()
    assert pace.limit == FIRST_LIMIT / 2
    assert pace.num_pushed_back == 16
    pace.push_back(pace.start())
    assert pace.limit == FIRST_LIMIT / 4
