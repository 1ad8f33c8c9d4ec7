"""Requests and an engine in, answers out, each on disk before it counts: the durable log that every stage asks models through.

One JSON line per answered request, found again by the request's key. A start after a kill asks only for what is missing; a torn
last line is cut off. Failed requests are not logged, so the next start tries them again. Only keys and places are held in memory.
"""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import BinaryIO

from distill.config import ConfigError
from distill.engines.protocol import Answer, Engine, Request
from distill.records import Completion, DataError, JsonObject

KEY_START = b'{"key": "'
BLOCK_BYTES = 1 << 16


@dataclasses.dataclass(frozen=True, slots=True)
class Logged:
    """What the log holds of one request."""

    completions: tuple[Completion, ...]
    num_cached_tokens: int | None


class RequestLog:
    """An open log of answered requests. `key in log`, `log.get(key)`, and `log.ask(engine, requests)` for what is missing."""

    def __init__(self, path: Path, handle: BinaryIO, writer: FileIO) -> None:
        self.path, self.handle, self.writer = path, handle, writer
        self.offsets: dict[str, int] = {}
        self.end = 0
        self._index()

    def __contains__(self, key: str) -> bool:
        return key in self.offsets

    def __len__(self) -> int:
        return len(self.offsets)

    def get(self, key: str) -> Logged:
        """The answer to a request that is in the log. `DataError` if its line is broken."""
        self.handle.seek(self.offsets[key])
        line = self.handle.readline()
        try:
            entry = json.loads(line.decode("utf-8", "surrogatepass"))
            completions = tuple(Completion.from_json(completion) for completion in entry["completions"])
            return Logged(completions, entry.get("num_cached_tokens"))
        except (ValueError, KeyError, TypeError) as error:
            raise self._broken(self.offsets[key], error) from None

    def ask(self, engine: Engine, requests: Iterable[Request]) -> Iterator[Answer]:
        """Answers as they come, failures among them; each group is on disk before the first of it is given out."""
        for answers in engine.complete(requests):
            self._append([answer for answer in answers if answer.error is None])
            yield from answers

    def _append(self, answers: Sequence[Answer]) -> None:
        lines = [(answer.request.key, _line(answer)) for answer in answers]
        if not lines:
            return
        try:
            self.writer.seek(self.end)
            unwritten = memoryview(b"".join(line for _, line in lines))
            while unwritten:
                unwritten = unwritten[self.writer.write(unwritten) :]
            os.fsync(self.writer.fileno())
        except OSError as error:
            raise DataError(
                f"{self.path}: cannot write the answers of a model ({error.strerror}); what was written until now is kept. "
                "Make room and start again"
            ) from None
        for key, line in lines:
            self.offsets[key] = self.end
            self.end += len(line)

    def _index(self) -> None:
        self.end = _mend(self.handle)
        self.handle.seek(0)
        offset = 0
        for line in self.handle:
            quote = line.find(b'"', len(KEY_START))
            if not line.startswith(KEY_START) or quote < 0 or not line.endswith(b"}\n"):
                raise self._broken(offset, ValueError("no whole line with a key"))
            self.offsets[line[len(KEY_START) : quote].decode("ascii", "replace")] = offset
            offset += len(line)

    def _broken(self, offset: int, error: Exception) -> DataError:
        self.handle.seek(0)
        number = sum(block.count(b"\n") for block in _blocks(self.handle, offset)) + 1
        return DataError(f"{self.path}:{number}: not a logged answer ({error}); remove the line to ask for it again")


@contextmanager
def open_log(path: Path) -> Iterator[RequestLog]:
    """The log at `path`, made if there is none, its torn last line cut off. `ConfigError` if another process holds it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.open("ab").close()
        # Unbuffered: what a full disk refused must not be tried once more when the file is closed.
        writer = FileIO(path, "r+")
    except OSError as error:
        raise ConfigError(f"{path}: cannot write there ({error.strerror}); choose another run.dir") from None
    with writer, path.open("rb+") as handle:
        try:
            fcntl.flock(writer, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"{path}: another process is writing to it; wait for it or stop it") from None
        yield RequestLog(path, handle, writer)


def complete_durably(
    engine: Engine, requests: Sequence[Request], log_path: Path, on_answer: Callable[[Answer], None] | None = None
) -> dict[str, Answer]:
    """Answers by request key. `on_answer` is called for each, those found in the log first. Equal requests are asked once."""
    answers: dict[str, Answer] = {}

    def take(answer: Answer) -> None:
        answers[answer.request.key] = answer
        if on_answer:
            on_answer(answer)

    with open_log(log_path) as log:
        by_key = {request.key: request for request in requests}
        for key, request in by_key.items():
            if key in log:
                found = log.get(key)
                take(Answer(request, found.completions, error=None, num_cached_tokens=found.num_cached_tokens))
        missing = [request for key, request in by_key.items() if key not in log]
        for answer in log.ask(engine, missing) if missing else ():
            take(answer)
    return answers


def _line(answer: Answer) -> bytes:
    entry: JsonObject = {
        "key": answer.request.key,
        "prompt_id": answer.request.prompt_id,
        "completions": [_completion_json(completion) for completion in answer.completions],
    }
    if answer.num_cached_tokens is not None:
        entry["num_cached_tokens"] = answer.num_cached_tokens
    return (json.dumps(entry, ensure_ascii=False) + "\n").encode("utf-8", "surrogatepass")


def _completion_json(completion: Completion) -> JsonObject:
    """As `to_json`, without a call for each of some thousand log-probabilities."""
    entry = {field.name: getattr(completion, field.name) for field in dataclasses.fields(completion)}
    found = completion.logprobs
    if found is not None:
        entry["logprobs"] = {
            "token_ids": found.token_ids,
            "top_ids": found.top_ids,
            "top_logprobs": found.top_logprobs,
        }
    return entry


def _mend(handle: BinaryIO) -> int:
    """Cut off what stands behind the last newline; the file's length."""
    size = end = handle.seek(0, os.SEEK_END)
    while end:
        start = max(0, end - BLOCK_BYTES)
        handle.seek(start)
        newline = handle.read(end - start).rfind(b"\n")
        if newline >= 0:
            end = start + newline + 1
            break
        end = start
    if end < size:
        handle.truncate(end)
        handle.flush()
        os.fsync(handle.fileno())
    return end


def _blocks(handle: BinaryIO, length: int) -> Iterator[bytes]:
    while length > 0 and (block := handle.read(min(BLOCK_BYTES, length))):
        length -= len(block)
        yield block
