"""The name of a job and the tools it is about in, the instruction text for a teacher out.

Each job beyond answering has two text files beside this one: `JOB.full.txt` for a large teacher and `JOB.compact.txt`, the same job
in few words, for the embedded teacher, which was trained on exactly that text. `{tools}` in a file is replaced by the tool list.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Literal

Job = Literal["new_request", "paraphrase", "judge"]
Form = Literal["full", "compact"]

JOBS: tuple[Job, ...] = ("new_request", "paraphrase", "judge")
FORMS: tuple[Form, ...] = ("full", "compact")


def instruction(job: Job, form: Form, *, tools_text: str) -> str:
    """The system text that asks a teacher for `job`. What the user turn holds and how the reply looks stands in the text itself."""
    return _template(job, form).replace("{tools}", tools_text)


def request_and_calls(request: str, calls_text: str) -> str:
    """The two lines in which `new_request` replies and which `judge` is shown."""
    return f"Request: {request}\nCalls: {calls_text}"


def split_request_and_calls(text: str) -> tuple[str, str] | None:
    """Inverse of `request_and_calls`; None if the text has another shape."""
    request, separator, calls = text.strip().partition("\nCalls: ")
    if not separator or not request.startswith("Request: ") or "\nCalls: " in calls:
        return None
    return request.removeprefix("Request: ").strip(), calls.strip()


@cache
def _template(job: Job, form: Form) -> str:
    return (Path(__file__).parent / f"{job}.{form}.txt").read_text(encoding="utf-8").strip()
