"""The durable log: what is on disk is not asked again, what failed is, and only whole lines count."""

from __future__ import annotations

import resource
import signal
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from distill.config import ConfigError
from distill.engines.protocol import Answer, Request
from distill.engines.request_log import complete_durably, open_log
from distill.records import Completion, DataError, TokenLogprobs

TEXT = "a\u2028b\x85c\r\n\ud83d"


@dataclass
class Scripted:
    """Answers each request with its own key, last first; some fail, and after `dies_after` answers the process is interrupted."""

    fails: frozenset[str] = frozenset()
    dies_after: int = 1000
    model: str = "scripted"
    asked: list[str] = field(default_factory=list)

    def complete(self, requests: Iterable[Request]) -> Iterator[Sequence[Answer]]:
        for count, request in enumerate(reversed(list(requests))):
            if count == self.dies_after:
                raise KeyboardInterrupt
            self.asked.append(request.key)
            failed = request.key in self.fails
            done = Completion(request.key + TEXT, "stop", 3, 4)
            error = "server says no" if failed else None
            yield [Answer(request, () if failed else (done, done), error, num_cached_tokens=1)]

    def close(self) -> None:
        pass


def keys_of(log: Path) -> list[str]:
    with open_log(log) as opened:
        return list(opened.offsets)


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
    assert keys_of(log) == ["a"]
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
        assert keys_of(log) == ["b"]
        assert log.read_bytes() == whole[:first]


@pytest.mark.parametrize("line", ["{", "[]", '{"key": "a"}', '{"key": "a", "completions": [{}]}', ""])
def test_a_broken_line_before_the_last_is_named(line: str, tmp_path: Path) -> None:
    log = tmp_path / "requests.jsonl"
    complete_durably(Scripted(), make("a"), log)
    log.write_bytes(log.read_bytes() + line.encode() + b"\n")
    with pytest.raises(DataError, match=rf"{log}:2: not a logged answer"):
        complete_durably(Scripted(), make("a"), log)


def test_an_answer_comes_back_as_it_was_and_numbers_to_the_last_digit(tmp_path: Path) -> None:
    logprobs = TokenLogprobs((5, 9), ((5, 1), (2, 9, 7)), ((-0.1, -2.3000000000000003), (-1e-7, -3.0, -9999.0)))
    told = Completion(TEXT, "length", 3, 2, num_reasoning_characters=7, logprobs=logprobs)

    class Telling(Scripted):
        def complete(self, requests: Iterable[Request]) -> Iterator[Sequence[Answer]]:
            yield [Answer(request, (told, told), None, num_cached_tokens=2) for request in requests]

    log = tmp_path / "requests.jsonl"
    answers = complete_durably(Telling(), make("a", "b"), log)
    assert complete_durably(Scripted(dies_after=0), make("a", "b"), log) == answers
    assert answers["b"].completions == (told, told) and answers["b"].num_cached_tokens == 2


def test_nothing_counts_that_is_not_on_disk(tmp_path: Path) -> None:
    log = tmp_path / "requests.jsonl"
    on_disk: list[tuple[str, bool]] = []
    complete_durably(
        Scripted(),
        make("a", "b"),
        log,
        lambda a: on_disk.append((a.request.key, f'"{a.request.key}"'.encode() in log.read_bytes())),
    )
    assert on_disk == [("b", True), ("a", True)]


def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    log = tmp_path / "requests.jsonl"
    with open_log(log), pytest.raises(ConfigError, match=r"another process is writing to it"):
        complete_durably(Scripted(), make("a"), log)


def test_a_full_disk_keeps_what_was_written(tmp_path: Path) -> None:
    log = tmp_path / "requests.jsonl"
    complete_durably(Scripted(), make("a"), log)
    size = log.stat().st_size
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 40, before[1]))
    try:
        with pytest.raises(DataError, match=r"requests\.jsonl: cannot write .* kept"):
            complete_durably(Scripted(), make("b"), log)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert log.stat().st_size == size + 40, "a part of the line is there"
    assert keys_of(log) == ["a"]
    assert log.stat().st_size == size
