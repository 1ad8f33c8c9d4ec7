"""Why one record of a source cannot be used: raised inside a source's reader, caught where it yields its rejects. Text for a terminal."""

from __future__ import annotations

from distill.records import Reject, Source, content_id


class RecordProblem(Exception):
    """A record that becomes a reject; `reason` is the reject's fixed word, `detail` is for people and always encodable."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail.encode("utf-8", "backslashreplace").decode("utf-8")


def rejected(problem: RecordProblem, source: Source) -> Reject:
    """The reject of a record with a problem."""
    return Reject(id=content_id(source.path, source.line), reason=problem.reason, detail=problem.detail, source=source)


def check_encodable(text: str, role: str) -> None:
    """Raise `RecordProblem` for a turn's text that cannot be written as UTF-8."""
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            raise RecordProblem(
                "no_text", f"the {role} text holds half of a surrogate pair and cannot be encoded"
            ) from None


def printable(text: str) -> str:
    """The text on one line: tabs, line ends and whatever a terminal cannot show are escaped."""
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
