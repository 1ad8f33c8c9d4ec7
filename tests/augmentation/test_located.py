"""A value is found where the request says it, in the form it is said in, and only if it is said exactly once."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.augmentation.located import CLOCK_FORMS, DATE_FORMS, locate, places


@pytest.mark.parametrize(
    ("request_text", "value", "new", "said"),
    [
        ("Play Heat now.", "Heat", "Ran", "Play Ran now."),
        ("Play the Heat-wave or Heated.", "Heat", "Ran", None),
        ("Play Heat, then Heat again.", "Heat", "Ran", None),
        ("Play heat.", "Heat", "Ran", None),
        ("Play a (b) [c]*.", "(b) [c]*", "x", "Play a x."),
        ("Play [c]+ now", "[c]+", "x", "Play x now"),
        ("Book 3 seats.", 3, 5, "Book 5 seats."),
        ("Book 3 seats in row 13.", 3, 5, "Book 5 seats in row 13."),
        ("Book 3.5 or 3,000 or 12:3 or R3.", 3, 5, None),
        ("Pay 3.", 3, 5, "Pay 5."),
        ("Book three seats for 3 hours.", 3, 5, None),
        ("Book Three seats for 3 hours.", 3, 5, None),
        ("Book three seats.", 3, 5, None),
        ("Book 30 seats at one place.", 30, 5, "Book 5 seats at one place."),
        ("At -3 degrees.", 3, 5, None),
        ("Rate it 7.5 points.", 7.5, 8.25, "Rate it 8.25 points."),
        ("Rate it 7 points.", 7.0, 8.0, None),
        ("Turn it on: True.", True, False, None),
        ("None of them.", None, 1, None),
        ("Take [1, 2].", [1, 2], [3], None),
        ("Empty.", "", "x", None),
        ("On 2024-05-03.", "2024-05-03", "2025-01-12", "On 2025-01-12."),
        ("On May 3, 2024.", "2024-05-03", "2025-01-12", "On January 12, 2025."),
        ("On May 3rd, 2024.", "2024-05-03", "2025-01-12", "On January 12th, 2025."),
        ("On 3 May 2024.", "2024-05-03", "2025-01-22", "On 22 January 2025."),
        ("On the 3rd of May 2024.", "2024-05-03", "2025-01-21", "On the 21st of January 2025."),
        ("On 13 May 2024.", "2024-05-03", "2025-01-21", None),
        ("On May 3, 2024, that is 2024-05-03.", "2024-05-03", "2025-01-21", None),
        ("On 2024-02-30.", "2024-02-30", "2025-01-21", "On 2025-01-21."),
        ("At 19:30.", "19:30", "08:15", "At 08:15."),
        ("At 7:30 pm.", "19:30", "08:15", "At 8:15 am."),
        ("At 10:30 am.", "10:30", "20:15", "At 8:15 pm."),
        ("At 7 pm.", "19:00", "08:00", "At 8 am."),
        ("At 7 pm.", "19:00", "08:15", "At 08:15."),
        ("At 12 am.", "00:00", "12:00", "At 12 pm."),
        ("At 7 pm or 19:00.", "19:00", "08:15", None),
        ("At 17 pm.", "19:00", "08:15", None),
    ],
)
def test_another_value_is_said_in_the_same_form(request_text: str, value: Any, new: Any, said: str | None) -> None:
    located = locate(request_text, value)
    if said is None:
        assert located is None
    else:
        assert located is not None
        assert request_text[: located.start] + located.say(new) + request_text[located.end :] == said


@settings(max_examples=60, deadline=None)
@given(
    day=st.dates(), before=st.sampled_from(["On ", "", "until "]), after=st.sampled_from([".", "", " please", ", then"])
)
def test_a_date_in_any_form_is_found_and_another_one_can_be_found_again(day: Any, before: str, after: str) -> None:
    for say in DATE_FORMS:
        located = locate(before + say(day) + after, day.isoformat())
        assert located is not None and (located.start, located.end) == (len(before), len(before + say(day)))
        assert located.say(day.isoformat()) == say(day)


@settings(max_examples=60, deadline=None)
@given(hour=st.integers(0, 23), minute=st.integers(0, 59))
def test_a_time_in_any_form_is_found(hour: int, minute: int) -> None:
    value = f"{hour:02d}:{minute:02d}"
    for say in CLOCK_FORMS:
        text = say(value)
        if text is not None:
            located = locate(f"At {text}, please.", value)
            assert located is not None and (located.start, located.end) == (3, 3 + len(text))


@given(
    request_text=st.text(),
    value=st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.integers()),
)
def test_any_value_is_looked_for_in_any_text(request_text: str, value: Any) -> None:
    found = places(request_text, value)
    located = locate(request_text, value)
    assert located is None or [(place.start, place.end) for place in found] == [(located.start, located.end)]
    if located is not None:
        assert request_text[located.start : located.end] == located.say(value)
