"""Why one record of a source cannot be used: raised inside a source's reader, caught where it yields its rejects."""

from __future__ import annotations


class RecordProblem(Exception):
    """A record that becomes a reject; `reason` is the reject's fixed word, `detail` is for people and always encodable."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail.encode("utf-8", "backslashreplace").decode("utf-8")
