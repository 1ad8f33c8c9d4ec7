"""The durable log: what is on disk is not asked again, what failed is, and only whole lines count."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from distill.engines.protocol import Answer, Request
from distill.engines.request_log import complete_durably, read_log
from distill.records import Completion, DataError

TEXT = "a\u2028b\x85c\r\n\ud83d"


@dataclass
class Scripted:
    """Answers each request with its own key, last first; some fail, and after `dies_after` answers the process is interrupted."""

    fails: frozenset[str] = frozenset()
    dies_after: int = 1000
    model: str = "scripted"
    asked: list[str] = field(default_factory=list)

    def complete(self, requests: Sequence[Request]) -> Iterator[Answer]:
        for count, request in enumerate(reversed(requests)):
            if count == self.dies_after:
                raise KeyboardInterrupt
            self.asked.append(request.key)
            failed = request.key in self.fails
            done = Completion(request.key + TEXT, "stop", 3, 4)
            yield Answer(
                request=request, completions=() if failed else (done, done), error="server says no" if failed else None
            )

    def close(self) -> None:
        pass


def make(*keys: str) -> list[Request]:
    return [Request(key, f"prompt {key}", (1, 2), 2, 0.7, 5, 0) for key in keys]


def test_an_interrupted_run_goes_on_where_it_was(tmp_path: Path) -> None:
    log, requests = tmp_path / "stage" / "requests.jsonl", make("a", "b", "c", "d")
    first = Scripted(dies_after=2)
    with pytest.raises(KeyboardInterrupt):
        complete_durably(first, requests, log)
    second, seen = Scripted(), []
    answers = complete_durably(second, requests, log, lambda answer: seen.append(answer.request.key))
    assert (first.asked, second.asked) == (["d", "c"], ["b", "a"])
    assert seen == ["c", "d", "b", "a"], "each is announced once, those of before first"
    assert answers == complete_durably(Scripted(dies_after=0), requests, log)
    assert {key: answer.completions[1].text for key, answer in answers.items()} == {key: key + TEXT for key in "abcd"}


def test_equal_requests_are_asked_once_and_failed_ones_again(tmp_path: Path) -> None:
    log = tmp_path / "requests.jsonl"
    failing = Scripted(fails=frozenset("b"))
    answers = complete_durably(failing, make("a", "b", "a"), log)
    assert failing.asked == ["b", "a"]
    assert (answers["b"].error, answers["b"].completions) == ("server says no", ())
    assert list(read_log(log)) == ["a"]
    again = Scripted()
    assert complete_durably(again, make("a", "b"), log)["b"].error is None
    assert again.asked == ["b"]


def test_only_whole_lines_count_at_every_length_of_the_last_one(tmp_path: Path) -> None:
    log = tmp_path / "requests.jsonl"
    complete_durably(Scripted(), make("a", "b"), log)
    whole = log.read_bytes()
    first = whole.index(b"\n") + 1
    for length in range(first, len(whole)):
        log.write_bytes(whole[:length])
        assert list(read_log(log)) == ["b"]
        assert log.read_bytes() == whole[:first]


@pytest.mark.parametrize("line", ["{", "[]", '{"key": "a"}', '{"key": "a", "completions": [{}]}', ""])
def test_a_broken_line_before_the_last_is_named(line: str, tmp_path: Path) -> None:
    log = tmp_path / "requests.jsonl"
    complete_durably(Scripted(), make("a"), log)
    log.write_bytes(log.read_bytes() + line.encode() + b"\n")
    with pytest.raises(DataError, match=rf"{log}:2: not a logged answer"):
        read_log(log)
