"""Held-out requests in (validation, test, a named benchmark), an index out; then a prompt's request in, what it shares with one out.

**The rule.** A request is contaminated by a held-out text when both have the same `request_words` (`near_duplicates.py`), or when at
least `SHARE` of the held-out text's word 8-grams stand in the request. 8-grams that more than `FRAME_LIMIT` different held-out texts
have are a frame that requests come in, a preamble for instance, and do not count.

**Why.** The question is how much of what a test will ask a student has read in training, so the share is one of the held-out text: a
test question with a story around it is contaminated, a prompt that quotes half a sentence of a long one is not. 8-grams are what
Llama 3's report measures overlap by (arXiv:2407.21783, section 5.1.4). A text of fewer than 8 words has none, so short texts meet
only where they are equal. One changed word takes up to 8 of them along; a lower share finds more copies with a word changed, and takes
more of the requests that have a frame in common with a held-out one and ask for another value, which is what training is for. Both
rates are measured in `tests/sources/test_contamination.py`. Tools are not compared; leave their specifications out of the texts.

**Error.** N-grams are compared by 64 bits: among a million requests of 50 words and a million held-out 8-grams the chance that one pair
is taken for equal is 3e-6. Words are what white space parts; where a script does without, only whole texts are compared.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from distill.sources.near_duplicates import LONGEST_REMEMBERED, request_digest, request_words

NUM_WORDS = 8
SHARE = 0.8
FRAME_LIMIT = 3
MULTIPLIERS = tuple(np.uint64(pow(0x9E3779B97F4A7C15, power, 2**64)) for power in (1, 3, 9))


@dataclass(frozen=True, slots=True)
class HeldOutTexts:
    """What `overlap` compares with: N texts' digests, and the 8-grams that count (hash and text, sorted by both)."""

    number_by_digest: dict[bytes, int]
    hashes: NDArray[np.uint64]
    text_numbers: NDArray[np.int32]
    num_counted_N: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Overlap:
    """The held-out text's number (from 0, as given), the share of its counted 8-grams found, and the first of them in the request.

    For equal texts the share is 1 and the n-gram their first 8 words, fewer if there are no more.
    """

    number: int
    share: float
    ngram: str


def build_index(texts: Iterable[str]) -> HeldOutTexts:
    """The index of held-out requests; of texts with equal words the first stands for all. Memory: some 12 bytes a word and 150 a text."""
    number_by_digest: dict[bytes, int] = {}
    hashes, numbers = [np.empty(0, np.uint64)], [np.empty(0, np.int32)]
    count = 0
    for number, text in enumerate(texts):
        count = number + 1
        words = request_words(text)
        if number_by_digest.setdefault(request_digest(words, text), number) == number:
            hashes.append(np.unique(_ngram_hashes(words)))
            numbers.append(np.full(len(hashes[-1]), number, np.int32))
    all_hashes, all_numbers = np.concatenate(hashes), np.concatenate(numbers)
    order = np.argsort(all_hashes, kind="stable")
    all_hashes, all_numbers = all_hashes[order], all_numbers[order]
    num_texts = np.searchsorted(all_hashes, all_hashes, side="right") - np.searchsorted(all_hashes, all_hashes)
    counted = num_texts <= FRAME_LIMIT
    return HeldOutTexts(
        number_by_digest=number_by_digest,
        hashes=all_hashes[counted],
        text_numbers=all_numbers[counted],
        num_counted_N=np.bincount(all_numbers[counted], minlength=count),
    )


def overlap(index: HeldOutTexts, text: str) -> Overlap | None:
    """What contaminates the request `text`: of several held-out texts the one with the largest share, then the first. None if nothing."""
    words = request_words(text)
    same = index.number_by_digest.get(request_digest(words, text))
    if same is not None:
        return Overlap(number=same, share=1.0, ngram=" ".join(words[:NUM_WORDS]))
    if len(words) < NUM_WORDS or not len(index.hashes):
        return None
    hashes = _ngram_hashes(words)
    left = index.hashes.searchsorted(hashes)
    found = (index.hashes.take(left, mode="clip") == hashes).nonzero()[0]
    if not len(found):
        return None
    positions = left[found]
    entries = np.unique(positions[:, None] + np.arange(FRAME_LIMIT))
    entries = entries[entries < len(index.hashes)]
    entries = entries[np.isin(index.hashes[entries], hashes[found])]
    numbers, num_shared = np.unique(index.text_numbers[entries], return_counts=True)
    shares = num_shared / index.num_counted_N[numbers]
    best = int(np.argmax(shares))
    if shares[best] < SHARE:
        return None
    of_best = index.hashes[entries[index.text_numbers[entries] == numbers[best]]]
    first = int(found[np.isin(hashes[found], of_best)][0])
    return Overlap(
        number=int(numbers[best]), share=float(shares[best]), ngram=" ".join(words[first : first + NUM_WORDS])
    )


def _ngram_hashes(words: Sequence[str]) -> NDArray[np.uint64]:
    """A hash for each 8 words in a row, in their order; none for fewer words.

    Pairs are made of words, fours of pairs, eights of fours. All is modulo 2**64 with odd factors, so that one changed word always tells.
    """
    if len(words) < NUM_WORDS:
        return np.empty(0, np.uint64)
    of_word = _remembered_hash if max(map(len, words)) <= LONGEST_REMEMBERED else _word_hash
    hashes = np.fromiter(map(of_word, words), np.uint64, len(words))
    for step, multiplier in zip((1, 2, 4), MULTIPLIERS, strict=True):
        hashes = hashes[:-step] * multiplier + hashes[step:]
    return hashes


def _word_hash(word: str) -> int:
    return int.from_bytes(blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


_remembered_hash = lru_cache(maxsize=1 << 16)(_word_hash)
