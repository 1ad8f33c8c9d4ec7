"""Requests in, one after another; for each the first earlier one that asks the same of the same tools in nearly the same words.

**The rule.** Two requests are near-duplicates when their groups are equal and `request_words` gives the same words in the same
order: case, sentence punctuation, quotation marks, spacing, greetings and politeness around the request, `the` and `an`,
`8pm` or `8 pm`, `two` or `2`, `what's` or `what is` make no difference. Every other word does, and so does the order of words.

**Why no similarity threshold.** A request for a function call is a frame and a few values, and the values are the point: "Play Alien
at 8 pm" and "Play Dune at 9 pm" teach different calls. One changed value moves a set of shingles less than "Hi, could you ... please?"
around it does, so on shingles of characters or words no threshold takes the copies and leaves the others
(`tests/sources/test_near_duplicates.py` measures both on the same requests). Names cannot be told from other words either, because they
are often typed in lower case. Nor may words change places: "from London to Paris" is not "from Paris to London". What is dropped is
therefore what cannot be a value where it stands, and `a` is not among it ("plan A", "thermostat a"). Typing errors, synonyms and
reordered clauses stay different prompts: keeping one costs a teacher's answer, dropping a different one costs an example.

**Short requests.** Greetings and politeness are taken off only while words remain that can be a request (two of them; three before a
`please` that no comma sets apart), so "Say please" is not "Say"; words in quotation marks are never taken off. What is dictated without
any, "Text mom: home by ten, thanks", cannot be told from thanks. A request without a word is compared as it is written.

**Error.** Words are compared by 120 bits of BLAKE2b: for a million prompts two different ones meet with a chance of 4e-25. The word
lists are English; in other languages case, punctuation and spacing are all that may differ.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from functools import lru_cache
from hashlib import blake2b
from itertools import chain

LEADING = (
    "hi", "hello", "hey", "hi there", "hello there", "hey there", "good morning", "good afternoon", "good evening",
    "please", "kindly", "can you", "could you", "would you", "will you", "can u", "could u", "can i ask you to", "may i ask you to",
    "would you mind to", "would you be so kind as to", "are you able to", "is it possible to",
    "i want to", "i want you to",
    "i need to", "i need you to", "i have to", "i would like to", "i would like you to", "i'd like to", "i'd like you to",
    "i would love to", "i'd love to", "i am trying to", "i'm trying to", "i am looking to", "i'm looking to", "i wish to",
    "we want to", "we need to", "we have to", "we would like to", "we'd like to", "help me", "help me to", "let me", "let us", "let's",
)  # fmt: skip
TRAILING = (
    "please", "thanks", "thank you", "thank you very much", "thank you so much", "thanks a lot", "many thanks", "thanks in advance",
    "thank you in advance", "for me", "if you can", "if you could", "if possible", "would you", "could you", "can you", "will you",
)  # fmt: skip
TRAILING_WITHOUT_PUNCTUATION = frozenset({"please", "for me", "if you can", "if possible"})
SAME = {
    "the": "", "an": "",
    "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7", "eight": "8",
    "nine": "9", "ten": "10", "eleven": "11", "twelve": "12", "a.m": "am", "p.m": "pm",
    "what's": "what is", "where's": "where is", "who's": "who is", "when's": "when is", "how's": "how is", "that's": "that is",
    "it's": "it is", "there's": "there is", "i'm": "i am", "i'll": "i will", "i've": "i have", "we're": "we are", "we'll": "we will",
    "you're": "you are", "don't": "do not", "doesn't": "does not", "didn't": "did not", "can't": "can not", "cannot": "can not",
    "won't": "will not", "isn't": "is not", "aren't": "are not",
}  # fmt: skip
TYPOGRAPHY = {
    **dict.fromkeys("\u2018\u2019\u201a\u02bc", "'"),  # single quotation marks, apostrophes
    **dict.fromkeys("\u201c\u201d\u201e\u00ab\u00bb", '"'),  # double ones
    **dict.fromkeys("\u2010\u2011\u2013\u2212", "-"),  # hyphens, en dash, minus
    **dict.fromkeys("\u00ad\u200b\u2060\ufeff", ""),  # what is not seen
    **dict(zip("\uff0c\uff01\uff1f\uff1b\uff1a\u3002\u3001", ",!?;:.,", strict=True)),  # of East Asian scripts
    "\u2014": " ",  # em dash
    "\u2026": ".",  # ellipsis
}
TYPOGRAPHIC = re.compile(f"[{''.join(TYPOGRAPHY)}]")  # str.translate would take most of the time of it all
QUOTES = "\"'`"
ENDS = QUOTES + ".,;:!?"
LONGEST_REMEMBERED = 40  # characters; whole files come in one word, and thousands of them are remembered
NUMBER_AND_UNIT = re.compile(r"([0-9][0-9.,:]*)([^\W\d_]+)")
COMMA_WITHOUT_SPACE = re.compile(r"(?<=[^\W\d_])[,;](?=[^\W\d_])")


class NearDuplicates:
    """The requests seen so far, as digests: about 150 bytes for each different one, whatever its length."""

    def __init__(self) -> None:
        self._first: dict[bytes, int] = {}
        self._count = 0

    def first_like(self, group_key: str, text: str) -> int | None:
        """The number of the first earlier request that `text` is a near-duplicate of; None, and `text` is kept, if there is none.

        Requests are numbered from 0 in the order of the calls, duplicates included. `group_key` stands for all that must be equal
        beside the request: its tools and, where there are any, the turns before it (a bare "yes" answers many questions).
        """
        number = self._count
        self._count += 1
        first = self._first.setdefault(request_digest(request_words(text), text, group_key=group_key), number)
        return None if first == number else first


def request_words(text: str) -> list[str]:
    """The words of a request that can matter to its answer, in order, in one spelling; none if there is not one word in it.

    Punctuation goes only where it ends a word that white space follows, or quotes one: `1.5`, `-5`, `8:30`, `x=3`, `C#`, `$20`, `(2`
    and `..` stay as they are, and so does the apostrophe of `5'`.
    """
    if not text.isascii():
        text = unicodedata.normalize("NFC", TYPOGRAPHIC.sub(lambda found: TYPOGRAPHY[found[0]], text))
    written = _without_politeness(text.casefold().split())
    plain = _remembered_words if max(map(len, written), default=0) <= LONGEST_REMEMBERED else _plain_words
    return list(chain.from_iterable(map(plain, written)))


def request_digest(words: Sequence[str], text: str, *, group_key: str = "") -> bytes:
    """120 bits that are equal for near-duplicates; `words` are `request_words(text)`."""
    said = " ".join(words) if words else "\0" + text.strip()
    whole = f"{len(group_key)} {group_key}{said}".encode("utf-8", "surrogatepass")
    # 15 bytes and the header of a bytes object are 48, a size that is allocated without waste
    return blake2b(whole, digest_size=15).digest()


def _without_politeness(written: Sequence[str]) -> Sequence[str]:
    start, end = 0, len(written)
    while phrase := _phrase_at(written, start):
        if end - start - len(phrase) < 2:
            break
        start += len(phrase)
    while phrase := _phrase_before(written, end):
        rest = end - len(phrase)
        set_apart = written[rest - 1][-1] in ",.!?;" if rest > start else False
        said_anyway = " ".join(phrase) in TRAILING_WITHOUT_PUNCTUATION and written[rest - 1][-1] != ":"
        if rest - start < (2 if set_apart else 3) or not (set_apart or said_anyway):
            break
        end = rest
    return written[start:end]


def _phrase_at(written: Sequence[str], start: int) -> tuple[str, ...]:
    """The longest polite phrase that begins there, else ()."""
    if start == len(written):
        return ()
    phrases = LEADING_BY_WORD.get(written[start].rstrip(",.!;"), ())
    return next((phrase for phrase in phrases if _is_said(written[start : start + len(phrase)], phrase)), ())


def _phrase_before(written: Sequence[str], end: int) -> tuple[str, ...]:
    """The longest polite phrase that ends there, else ()."""
    if end == 0:
        return ()
    phrases = TRAILING_BY_WORD.get(written[end - 1].rstrip(",.!?;"), ())
    return next((phrase for phrase in phrases if _is_said(written[max(0, end - len(phrase)) : end], phrase)), ())


def _is_said(written: Sequence[str], phrase: Sequence[str]) -> bool:
    """Whether the words are the phrase's, with punctuation after the last one only. A quotation mark makes it somebody's words."""
    return tuple(written[:-1]) == tuple(phrase[:-1]) and written[-1].rstrip(",.!?;") == phrase[-1]


def _plain_words(written: str) -> tuple[str, ...]:
    """What is left of a case-folded word without white space: mostly one word, none if it is punctuation."""
    if written.isalpha():
        return tuple(SAME.get(written, written).split())
    if written.strip(QUOTES + ",;!?") == "..":
        return ("..",)  # a folder
    word = written.lstrip(QUOTES + "¿¡").rstrip(ENDS)
    if word[-1:].isdigit() and written.rstrip(ENDS.replace("'", ""))[-1:] == "'" and written[0] not in QUOTES:
        word += "'"  # feet, minutes
    if word in SAME and not SAME[word] and written[0] in QUOTES and written[-1] in QUOTES:
        return (written,)  # the word itself is meant
    number = NUMBER_AND_UNIT.fullmatch(word)
    if number:
        word = f"{number[1]} {number[2]}"
    return tuple(SAME.get(word, COMMA_WITHOUT_SPACE.sub(" ", word)).split())


_remembered_words = lru_cache(maxsize=1 << 16)(_plain_words)


def _by_word(phrases: Iterable[str], *, position: int) -> dict[str, list[tuple[str, ...]]]:
    """Phrases by their first or last word, the longest of each first."""
    by_word: dict[str, list[tuple[str, ...]]] = {}
    for phrase in sorted((tuple(phrase.split()) for phrase in phrases), key=len, reverse=True):
        by_word.setdefault(phrase[position], []).append(phrase)
    return by_word


LEADING_BY_WORD = _by_word(LEADING, position=0)
TRAILING_BY_WORD = _by_word(TRAILING, position=-1)
