"""Every job has its text in both forms, the tools stand in it, and the two-line answer reads back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.instructions.jobs import FORMS, JOBS, Form, Job, instruction, request_and_calls, split_request_and_calls

LINE = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), min_size=1).map(str.strip).filter(bool)


@pytest.mark.parametrize("job", JOBS)
@pytest.mark.parametrize("form", FORMS)
def test_every_job_has_a_text_that_carries_the_tools_as_they_are(job: Job, form: Form) -> None:
    tools = '[{"name": "{tools} \\1"}]'
    text = instruction(job, form, tools_text=tools)
    assert text == text.strip() and len(text) > 20
    assert text.count(tools) == (0 if job == "paraphrase" else 1), "whoever rewords a request needs no tools"
    assert "{tools}" not in text.replace(tools, "")


def test_the_forms_of_a_job_differ_and_the_compact_one_is_short() -> None:
    for job in JOBS:
        full, compact = (instruction(job, form, tools_text="") for form in FORMS)
        assert len(compact) < 0.4 * len(full)


@given(request=LINE, calls=LINE)
def test_the_two_lines_read_back(request: str, calls: str) -> None:
    assert split_request_and_calls(request_and_calls(request, calls)) == (request, calls)
    assert split_request_and_calls(f" \n{request_and_calls(request, calls)}\n") == (request, calls)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Request: a",
        "Calls: b",
        "a\nCalls: b",
        "Calls: b\nRequest: a",
        "Request: a\nCalls: b\nCalls: c",
        "Sure!\nRequest: a\nCalls: b",
    ],
)
def test_another_shape_is_none(text: str) -> None:
    assert split_request_and_calls(text) is None
