"""Text and a pattern -> what `re` finds with lazy gaps, in time linear in the text whatever the text is."""

from __future__ import annotations

import re
from collections.abc import Iterator


class Places:
    """The first match of a pattern at or after ever later positions; all questions together read the text about once."""

    def __init__(self, text: str, pattern: re.Pattern[str]) -> None:
        self._text, self._pattern = text, pattern
        self._asked = self._found = -1

    def first(self, position: int) -> int:
        """Where the first match at or after `position` starts; the text's length where there is none."""
        if not self._asked <= position <= self._found:
            match = self._pattern.search(self._text, position)
            self._asked, self._found = position, match.start() if match else len(self._text)
        return self._found


def line_ends(text: str) -> Places:
    return Places(text, _NEWLINE)


def enclosed(text: str, opening: re.Pattern[str], closing: str, *, shortest: int = 0) -> Iterator[str]:
    """The group of `opening(.{shortest,}?)closing` in each match that `re.finditer` would give, none of which spans lines.

    Matches of `opening` must not overlap each other. `re` itself reads the rest of the line again for every opening that is not
    closed, which is quadratic.
    """
    closings, ends = Places(text, re.compile(re.escape(closing))), line_ends(text)
    position = 0
    while found := opening.search(text, position):
        start = found.end()
        end = closings.first(start + shortest)
        if end < ends.first(start):
            yield text[start:end]
            position = end + len(closing)
        else:
            position = found.start() + 1


def enclosed_at_start(text: str, start: int, closing: str) -> str | None:
    """What stands from `start` to the first `closing` on the same line; None where there is none."""
    end = text.find(closing, start)
    return None if end < 0 or "\n" in text[start:end] else text[start:end]


def end_of(pattern: re.Pattern[str], text: str, start: int) -> int:
    """Where the match of `pattern` that begins at `start` ends; `start` where there is none."""
    match = pattern.match(text, start)
    return match.end() if match else start


def number_or_text(text: str) -> int | float | str:
    """Whatever Python reads as a number, or the text."""
    for read in (int, float):
        try:
            return read(text)
        except ValueError:
            pass
    return text


_NEWLINE = re.compile("\n")
