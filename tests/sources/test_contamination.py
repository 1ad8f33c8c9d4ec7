"""Held-out texts are found in prompts as a slow reading of the rule finds them; with rates on the synthetic world's requests."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.sources.contamination import FRAME_LIMIT, NUM_WORDS, SHARE, Overlap, build_index, overlap
from distill.sources.near_duplicates import request_words
from tests.sources.request_pairs import request_pairs

TABLE = "Book a table for 4 at Luigi's on Friday at 7 pm, outside, under the name of Smith"
FIRST_OF_TABLE = "book a table for 4 at luigi's on"
PREAMBLE = "You are the voice of a small hotel in the old town and answer in one short sentence only, in the language of the guest. "
FEW_WORDS = st.lists(st.sampled_from("play alien dune from at 8 pm".split()), max_size=14).map(" ".join)
ANY_TEXT = st.text(st.characters(exclude_categories=()))  # lone surrogates too, which JSON can hold


def slow_overlap(texts: list[str], text: str) -> Overlap | None:
    """The rule as the module states it, on tuples of words."""
    words = tuple(request_words(text))
    held_out: dict[int, tuple[str, ...]] = {}
    for number, other in enumerate(tuple(request_words(other)) for other in texts):
        if other not in held_out.values():
            held_out[number] = other
    for number, other in held_out.items():
        if other == words:
            return Overlap(number, 1.0, " ".join(words[:NUM_WORDS]))
    num_texts = Counter(ngram for other in held_out.values() for ngram in set(ngrams(other)))
    best: Overlap | None = None
    for number, other in held_out.items():
        counted = {ngram for ngram in ngrams(other) if num_texts[ngram] <= FRAME_LIMIT}
        shared = [ngram for ngram in ngrams(words) if ngram in counted]
        share = len(set(shared)) / len(counted) if counted else 0.0
        if share >= SHARE and (best is None or share > best.share):
            best = Overlap(number, share, " ".join(shared[0]))
    return best


def ngrams(words: tuple[str, ...]) -> list[tuple[str, ...]]:
    return [words[start : start + NUM_WORDS] for start in range(len(words) - NUM_WORDS + 1)]


@pytest.mark.parametrize(
    ("held_out", "text", "expected"),
    [
        ([TABLE], "please book a table for 4 at LUIGI'S on Friday at 7pm, outside, under the name of Smith!", (0, 1.0, FIRST_OF_TABLE)),
        (["Hi", TABLE], f"Mr Smith called. {TABLE} Answer in French.", (1, 1.0, FIRST_OF_TABLE)),
        ([TABLE, TABLE], TABLE, (0, 1.0, FIRST_OF_TABLE)),
        ([TABLE], TABLE.replace("Luigi's", "Rosa's"), None),
        ([TABLE], TABLE.replace(" under the name of Smith", ""), None),
        ([TABLE], TABLE.replace("name of Smith", "name of Jones"), (0, 9 / 10, FIRST_OF_TABLE)),
        ([TABLE], "Under the name of Smith", None),
        (["Play Alien at 8 pm"], "Can you play alien at 8pm?", (0, 1.0, "play alien at 8 pm")),
        (["Play Alien at 8 pm"], "First play Alien at 8 pm, then dim the lights of the room", None),
        (["Play Alien at 8 pm"], "Play Dune at 9 pm", None),
        ([TABLE + " " + "x" * 50], f"So: {TABLE} {'x' * 50}, says Bob", (0, 1.0, FIRST_OF_TABLE)),
        (["?"], "!", None),
        (["", "?"], " ?", (1, 1.0, "")),
        ([], TABLE, None),
        ([], "", None),
    ],
)  # fmt: skip
def test_what_contaminates_is_named(held_out: list[str], text: str, expected: tuple[int, float, str] | None) -> None:
    assert overlap(build_index(held_out), text) == (None if expected is None else Overlap(*expected))


@pytest.mark.parametrize(("num_texts", "expected"), [(FRAME_LIMIT, 0), (FRAME_LIMIT + 1, None)])
def test_a_preamble_of_more_held_out_texts_is_a_frame(num_texts: int, expected: int | None) -> None:
    index = build_index(f"{PREAMBLE} Room {number}" for number in range(num_texts))
    found = overlap(index, f"{PREAMBLE} When is breakfast?")
    assert (None if found is None else found.number) == expected
    same = overlap(index, f"{PREAMBLE} Room 2 wants more towels")
    assert same is not None and same.number == 2


@settings(deadline=None)
@given(st.lists(FEW_WORDS, max_size=8), st.data())
def test_the_index_finds_what_a_slow_reading_finds(held_out: list[str], data: st.DataObject) -> None:
    text = data.draw(FEW_WORDS | st.lists(st.sampled_from([*held_out, "at 8"]), max_size=3).map(" ".join))
    assert overlap(build_index(held_out), text) == slow_overlap(held_out, text)


@settings(deadline=None)
@given(st.lists(ANY_TEXT, max_size=4), ANY_TEXT)
def test_any_text_can_be_held_out_and_is_found_again(held_out: list[str], text: str) -> None:
    found = overlap(build_index([*held_out, text]), text)
    assert found is not None and found.share == 1.0
    assert overlap(build_index(held_out), text) == slow_overlap(held_out, text) or not request_words(text)


def test_rates_on_the_worlds_requests() -> None:
    """Of requests of 8 words and more, one held-out text at a time: quoted whole, in another frame, a word changed, another value."""
    random = Random(0)
    pairs = [pair for pair in request_pairs(800, pool="seen") if len(request_words(pair.request)) >= NUM_WORDS]
    found = Counter[str]()
    for pair in pairs:
        index = build_index([pair.request])
        copies = {
            "quoted": f"A guest asks: so, {pair.request} What do I say?",
            "reframed": pair.reframed,
            "one word changed": with_a_typing_error(pair.request, random),
            "another value": pair.revalued,
        }
        found.update(kind for kind, text in copies.items() if overlap(index, text) is not None)
    rates = {kind: count / len(pairs) for kind, count in found.items()}
    assert rates["quoted"] == 1
    assert rates["reframed"] > 0.85
    assert 0.2 < rates["one word changed"] < 0.3
    assert rates["another value"] < 0.15


def test_requests_of_one_world_contaminate_only_each_their_own() -> None:
    pairs = request_pairs(800, pool="seen")
    held_out, others = pairs[: len(pairs) // 2], pairs[len(pairs) // 2 :]
    index = build_index(pair.request for pair in held_out)
    found = [overlap(index, pair.request) for pair in held_out]
    assert [overlapping.number if overlapping else None for overlapping in found] == list(range(len(held_out)))
    assert sum(overlap(index, pair.request) is not None for pair in others) <= len(others) // 100


def with_a_typing_error(text: str, random: Random) -> str:
    words = text.split()
    changed = random.randrange(len(words))
    return " ".join(word + "x" if index == changed else word for index, word in enumerate(words))
