"""Copies are found and other values are not, whatever is asked in whatever order; with rates on the synthetic world's requests."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from collections.abc import Sequence
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.embedded.values import Pool
from distill.sources.near_duplicates import NearDuplicates, request_words
from tests.sources.request_pairs import request_pairs

ALIEN = "Play Alien at 8 pm"
SAME = [
    (ALIEN, "please play Alien at 8 pm"),
    (ALIEN, "Play Alien at 8 pm."),
    (ALIEN, "hi! could you play \u201cAlien\u201d at\u00a08pm, please? thank you!"),
    (ALIEN, "I'd like to play 'alien' at 8 p.m. please"),
    (ALIEN, "I\u2019d like to play the Alien \u2014 at eight pm\u2026"),
    ("Stop it", "Please stop it"),
    ("Play Alien", "play alien, please!"),
    ("What's on in Boston, MA?", "what is on in boston,ma"),
    ("Book a table for two for me", "Can you book a table for 2?"),
    ('Play "Apollo 13".', "play Apollo 13"),
    ("OÙ EST LA GARE\u00a0?", "où est la gare?"),
    ("cafe\u0301 nearby", "caf\u00e9 nearby"),
    ("\u64ad\u653e\u5f02\u5f62\u3002", "\u64ad\u653e\u5f02\u5f62"),
    ("go to ..", 'go to ".."!'),
    ("", " "),
]
DIFFERENT = [
    (ALIEN, "Play Dune at 9 pm"),
    (ALIEN, "play dune at 8 pm"),
    (ALIEN, "Play Alien at 8 am"),
    (ALIEN, "Don't play Alien at 8 pm"),
    (ALIEN, "Play Alien now at 8 pm"),
    ("Fly from London to Paris", "Fly from Paris to London"),
    ("Price of A in Rome and B in Bonn", "Price of A in Bonn and B in Rome"),
    ("set thermostat a to 20", "set thermostat to 20"),
    ("Say please", "Say"),
    ("Say thank you", "Say thanks"),
    ("translate into French: please", "translate into French: thanks"),
    ('say to Bob "thank you"', 'say to Bob "please"'),
    ('count "the" in it', 'count "an" in it'),
    ("what is 3 - 4", "what is 3 4"),
    ("what is (3 + 4) * 2", "what is 3 + (4 * 2)"),
    ("sqrt of 1.5", "sqrt of 15"),
    ("sqrt of .5", "sqrt of 5"),
    ("add -5 to it", "add 5 to it"),
    ("add 1 2 to it", "add 12 to it"),
    ("10\u00b2 metres of it", "102 metres of it"),
    ("it is 5' tall", 'it is 5" tall'),
    ("write it in C#", "write it in C"),
    ("wake me at 8:30", "wake me at 830"),
    ("costs $5 here", "costs 5% here"),
    ("check that a != b", "check that a = b"),
    ("list files in ..", "list files in"),
    ("?", "!"),
]
OPENINGS = ("", "please ", "Hi, ", "Hello! Please ", "can you ", "Could you please ", "I want to ", "I would like to ", "help me to ")  # fmt: skip
ENDINGS = ("", ".", "!", "?", "...", ", please", ", please.", ". Thanks!", ", thank you very much.", " please")
VOCABULARY = (
    "play", "alien", "dune", "from", "to", "at", "a", "am", "pm", "not", "now", "caf\u00e9", "\u0436\u0443\u043a", "\u64ad\u653e", "c#", "x=3", "b-2",
    "8", "9", "-5", "5", ".5", "1.5", "15", "8:30", "830", "$20", "20%", "[3", "2024-05-01", "a.b@c.org", "-", "+",
)  # fmt: skip
WORD = st.sampled_from(VOCABULARY)
VALUES = st.lists(WORD, min_size=3, max_size=12)
SEED = st.integers(0, 2**32)
ANY_TEXT = st.text(st.characters(exclude_categories=()))  # lone surrogates too, which JSON can hold


def typed(words: Sequence[str], seed: int) -> str:
    """The words as one of many users types them: case, punctuation, spacing, articles, politeness."""
    random = Random(seed)
    parts = []
    for index, word in enumerate(words):
        spelled = random.choice((word, word.upper(), word.capitalize(), f"\u201c{word}\u201d", f'"{word}"'))
        mark = random.choice(("", "", "", ",", ";", " \u2014")) if index < len(words) - 1 else ""
        parts += [random.choice(("", "", "", "the ")), spelled, mark, random.choice((" ", " ", "  ", "\n", "\u00a0"))]
    return random.choice(OPENINGS) + "".join(parts).strip() + random.choice(ENDINGS)


@st.composite
def conversations(draw: st.DrawFn) -> list[tuple[str, int, str]]:
    """Requests in order: a group, which of a few different requests it is, and how it is typed."""
    requests = draw(st.lists(VALUES, min_size=1, max_size=4, unique_by=tuple))
    picks = st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, len(requests) - 1), SEED), max_size=12)
    return [(group, which, typed(requests[which], seed)) for group, which, seed in draw(picks)]


@pytest.mark.parametrize(("first", "second"), SAME)
def test_a_copy_is_found_in_both_orders(first: str, second: str) -> None:
    for texts in ((first, second), (second, first)):
        seen = NearDuplicates()
        assert [seen.first_like("tools", text) for text in texts] == [None, 0], texts


@pytest.mark.parametrize(("first", "second"), DIFFERENT)
def test_another_value_makes_another_request(first: str, second: str) -> None:
    seen = NearDuplicates()
    assert [seen.first_like("tools", text) for text in (first, second, first)] == [None, None, 0]


@settings(deadline=None)
@given(conversations())
def test_the_first_of_its_group_is_named_however_it_is_typed(conversation: list[tuple[str, int, str]]) -> None:
    seen, first_of = NearDuplicates(), dict[tuple[str, int], int]()
    for number, (group, which, text) in enumerate(conversation):
        assert seen.first_like(group, text) == first_of.get((group, which)), text
        first_of.setdefault((group, which), number)


@settings(deadline=None)
@given(VALUES, st.integers(0, 11), st.integers(0, 11) | WORD, SEED, SEED)
def test_one_word_replaced_or_moved_makes_another_request(
    words: list[str], index: int, change: int | str, seed: int, other_seed: int
) -> None:
    changed = list(words)
    taken = changed.pop(index % len(words))
    if isinstance(change, str):
        changed.insert(index % len(words), change)
    else:
        changed.insert(change % len(words), taken)
    texts = [typed(words, seed), typed(changed, other_seed)]
    assert (request_words(texts[0]) == request_words(texts[1])) == (words == changed), texts


@settings(deadline=None)
@given(ANY_TEXT, ANY_TEXT)
def test_any_text_is_its_own_duplicate_in_its_own_group_only(text: str, group: str) -> None:
    seen = NearDuplicates()
    answers = [seen.first_like(key, text) for key in (group, group + "x", group, group + "x")]
    assert answers == [None, None, 0, 1]


def test_another_process_with_other_hashes_gives_the_same_answers() -> None:
    code = (
        "from distill.sources.near_duplicates import request_digest, request_words\n"
        "from distill.sources.contamination import build_index, overlap\n"
        "texts = [f'Play film {n % 7} with all of its many parts at {n % 5} pm, please' for n in range(60)]\n"
        "index = build_index(texts[:9])\n"
        "for t in texts: print(request_digest(request_words(t), t, group_key='g').hex(), overlap(index, 'so: ' + t))"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1
    assert "number=8" in outputs.pop()


def test_a_million_requests_take_a_few_hundred_megabytes() -> None:
    count = 1 << 13
    seen = NearDuplicates()
    for value in range(100):
        request_words(f"{value} ")  # the words of the requests are remembered once, before the count
    tracemalloc.start()
    for number in range(count):
        digits = " ".join(f"{number:06d}"[at : at + 2] for at in (0, 2, 4))
        assert seen.first_like("tools", f"Book seats {digits} " + "in a row near the stage " * 10) is None
    size_bytes, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size_bytes / count < 200


@pytest.mark.parametrize(("pool", "least_recall"), [("seen", 0.7), ("new", 0.4)])
def test_rates_on_the_worlds_requests_and_no_threshold_on_shingles_reaches_them(
    pool: Pool, least_recall: float
) -> None:
    """Copies: the body in another of the world's frames, of which some say more than politeness ("Now", "My friends asked me to")."""
    pairs = request_pairs(800, pool=pool)
    recall = sum(request_words(pair.request) == request_words(pair.reframed) for pair in pairs) / len(pairs)
    false_positives = sum(request_words(pair.request) == request_words(pair.revalued) for pair in pairs)
    assert recall > least_recall
    assert false_positives == 0
    for length in (3, 5, 8):
        copies = [similarity(pair.request, pair.reframed, length=length) for pair in pairs]
        others = [similarity(pair.request, pair.revalued, length=length) for pair in pairs]
        threshold = sorted(copies)[int(len(copies) * (1 - recall))]  # the highest that finds as many of the copies
        assert sum(other >= threshold for other in others) / len(pairs) > 0.25


def test_what_is_polite_is_found_to_be_a_copy() -> None:
    random = Random(0)
    for pair in request_pairs(300, pool="new"):
        copy = random.choice(OPENINGS) + pair.request.rstrip(".?!") + random.choice(ENDINGS)
        assert request_words(copy) == request_words(pair.request), (pair.request, copy)


def similarity(text: str, other: str, *, length: int) -> float:
    """Jaccard's of the sets of character shingles."""
    shingles, others = (
        {folded[at : at + length] for at in range(len(folded))}
        for folded in (" ".join(t.casefold().split()) for t in (text, other))
    )
    return len(shingles & others) / len(shingles | others)
