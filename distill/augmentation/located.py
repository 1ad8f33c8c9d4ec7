"""A request and an argument's value in; where exactly the request says that value, and how to say another one there, out.

Only values that stand in the request exactly once are located: as themselves, as a date in one of five common forms, or as a time
of day. What cannot be located exactly is left alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date

from distill.records import JsonValue

MONTHS = (
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
)
NUMBER_WORDS = (
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
)
ISO_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
CLOCK = re.compile(r"([01]\d|2[0-3]):([0-5]\d)")

Say = Callable[[JsonValue], str]


@dataclass(frozen=True, slots=True)
class Located:
    """Characters `start` to `end` of a request say one value; `say` writes another value of the kind in the same form."""

    start: int
    end: int
    say: Say


def locate(request: str, value: JsonValue) -> Located | None:
    """Where the request says `value`, if it says it exactly once in a form known here."""
    only = _one(places(request, value))
    if only is None or request[only.start : only.end].lower() in NUMBER_WORDS:
        return None  # "one" may be a pronoun
    return only


def places(request: str, value: JsonValue) -> list[Located]:
    """Everywhere the request says `value` in a form known here; nowhere for a boolean, null, array or object."""
    if value is None or isinstance(value, bool | list | dict):
        return []
    found = _spans(request, _as_text(value), _as_text)
    if isinstance(value, int) and 0 <= value < len(NUMBER_WORDS):
        found += _spans(request.lower(), NUMBER_WORDS[value], _as_text)
    if isinstance(value, str) and ISO_DATE.fullmatch(value):
        found += _date_spans(request, value)
    if isinstance(value, str) and CLOCK.fullmatch(value):
        found += _clock_spans(request, value)
    return [item for item in found if not any(_is_part(item, other) for other in found)]


def _as_text(value: JsonValue) -> str:
    return value if isinstance(value, str) else repr(value)


def _spans(request: str, text: str, say: Say) -> list[Located]:
    """Occurrences of a text that are not part of a longer word or number."""
    if not text:
        return []
    pattern = re.compile(rf"(?<![\w-])(?<!\d[.,:]){re.escape(text)}(?![\w-])(?![.,:]\d)")
    return [Located(found.start(), found.end(), say) for found in pattern.finditer(request)]


def _is_part(item: Located, other: Located) -> bool:
    """Whether `other` says more words, as "10:30 am" does than "10:30"."""
    return other.start <= item.start and item.end <= other.end and other.end - other.start > item.end - item.start


def _one(found: list[Located]) -> Located | None:
    distinct = {(item.start, item.end): item for item in found}
    return next(iter(distinct.values())) if len(distinct) == 1 else None


def _date_spans(request: str, value: str) -> list[Located]:
    try:
        day = date.fromisoformat(value)
    except ValueError:
        return []
    return [located for say in DATE_FORMS for located in _spans(request, say(day), _of_iso(say))]


def _of_iso(say: Callable[[date], str]) -> Say:
    return lambda value: say(date.fromisoformat(str(value)))


def _clock_spans(request: str, value: str) -> list[Located]:
    return [
        located
        for say in CLOCK_FORMS
        if (text := say(value)) is not None
        for located in _spans(request, text, _of_clock(say))
    ]


def _of_clock(say: Callable[[str], str | None]) -> Say:
    return lambda value: say(str(value)) or str(value)


def _ordinal(day: int) -> str:
    if 10 <= day % 100 <= 20:
        return f"{day}th"
    return f"{day}{ {1: 'st', 2: 'nd', 3: 'rd'}.get(day % 10, 'th') }"


def _twelve_hours(value: str) -> str | None:
    hour, minute = (int(part) for part in value.split(":"))
    half = "am" if hour < 12 else "pm"
    return f"{(hour - 1) % 12 + 1}:{minute:02d} {half}"


def _whole_hour(value: str) -> str | None:
    text = _twelve_hours(value)
    return text.replace(":00", "") if text is not None and value.endswith(":00") else None


DATE_FORMS: tuple[Callable[[date], str], ...] = (
    lambda day: f"{MONTHS[day.month - 1]} {day.day}, {day.year}",
    lambda day: f"{day.day} {MONTHS[day.month - 1]} {day.year}",
    lambda day: f"{MONTHS[day.month - 1]} {_ordinal(day.day)}, {day.year}",
    lambda day: f"the {_ordinal(day.day)} of {MONTHS[day.month - 1]} {day.year}",
)
CLOCK_FORMS: tuple[Callable[[str], str | None], ...] = (_twelve_hours, _whole_hour)
